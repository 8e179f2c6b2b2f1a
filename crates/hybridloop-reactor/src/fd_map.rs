//! Tokens by descriptor.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use crate::registry::Token;

/// The size of the table. The system assigns the lowest free number, so nearly all descriptors are in it. A program may have
/// chosen a greater number, which must not decide the size of the table.
const TABLE_SIZE: usize = 1 << 14;

/// At most one [`Token`] for each descriptor.
#[derive(Default)]
pub struct FdMap {
    table: Vec<Option<Token>>,
    high: BTreeMap<RawFd, Token>,
}

impl FdMap {
    /// The token of a descriptor.
    #[inline]
    #[must_use]
    pub fn get(&self, fd: RawFd) -> Option<Token> {
        match usize::try_from(fd).ok().and_then(|fd| self.table.get(fd)) {
            Some(token) => *token,
            None => self.high.get(&fd).copied(),
        }
    }

    /// Sets the token of a descriptor; returns the previous one.
    pub fn insert(&mut self, fd: RawFd, token: Token) -> Option<Token> {
        match usize::try_from(fd) {
            Ok(index) if index < TABLE_SIZE => {
                if self.table.len() <= index {
                    self.table.resize(index + 1, None);
                }
                self.table[index].replace(token)
            }
            _ => self.high.insert(fd, token),
        }
    }

    /// Removes the token of a descriptor if it is `token`.
    pub fn remove(&mut self, fd: RawFd, token: Token) {
        if self.get(fd) != Some(token) {
            return;
        }
        match usize::try_from(fd)
            .ok()
            .and_then(|fd| self.table.get_mut(fd))
        {
            Some(slot) => *slot = None,
            None => drop(self.high.remove(&fd)),
        }
    }

    /// Removes the token of the highest descriptor.
    pub fn pop(&mut self) -> Option<Token> {
        if let Some((_, token)) = self.high.pop_last() {
            return Some(token);
        }
        while let Some(token) = self.table.pop() {
            if token.is_some() {
                return token;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_and_high_descriptors_are_found_replaced_and_removed() {
        let mut map = FdMap::default();
        let limit = RawFd::try_from(TABLE_SIZE).unwrap_or(RawFd::MAX);
        for fd in [0, 3, limit - 1, limit, RawFd::MAX] {
            let (first, second) = (Token(1), Token(2));
            assert_eq!(map.get(fd), None);
            assert_eq!(map.insert(fd, first), None);
            assert_eq!(map.insert(fd, second), Some(first));
            map.remove(fd, first);
            assert_eq!(map.get(fd), Some(second), "another token is left alone");
            map.remove(fd, second);
            assert_eq!(map.get(fd), None);
            map.insert(fd, first);
        }
        for _ in 0..5 {
            assert_eq!(map.pop(), Some(Token(1)));
        }
        assert_eq!(map.pop(), None);
        assert_eq!(map.get(3), None);
        assert_eq!(map.get(RawFd::MAX), None);
    }

    #[test]
    fn the_highest_descriptor_is_popped_first() {
        let mut map = FdMap::default();
        for fd in [3, RawFd::MAX, 70_000, 5] {
            map.insert(fd, Token(u64::from(fd.unsigned_abs())));
        }
        let popped: Vec<_> = std::iter::from_fn(|| map.pop())
            .map(|token| token.0)
            .collect();
        assert_eq!(popped, [RawFd::MAX.unsigned_abs().into(), 70_000, 5, 3]);
    }

    #[test]
    fn a_high_descriptor_does_not_size_the_table() {
        let mut map = FdMap::default();
        map.insert(RawFd::MAX, Token(1));
        assert_eq!(map.table.len(), 0);
    }
}
