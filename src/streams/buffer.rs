//! Data that was received and not read.

use std::collections::TryReserveError;

/// The most capacity that an empty buffer keeps.
const MAX_KEPT: usize = 64 * 1024;

/// A queue of bytes: those at the front are taken without moving those behind.
#[derive(Default)]
pub struct ReadBuffer {
    data: Vec<u8>,
    /// How many bytes of `data` are taken.
    start: usize,
}

impl ReadBuffer {
    #[inline]
    pub fn len(&self) -> usize {
        self.data.len() - self.start
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.data[self.start..]
    }

    /// Appends `more`.
    #[inline]
    pub fn extend(&mut self, more: &[u8]) -> Result<(), TryReserveError> {
        if self.data.capacity() - self.data.len() < more.len() {
            self.reserve(more.len())?;
        }
        self.data.extend_from_slice(more);
        Ok(())
    }

    #[cold]
    fn reserve(&mut self, size: usize) -> Result<(), TryReserveError> {
        // Linear on the whole: no more bytes are moved than were taken since the last time.
        if self.start >= self.len() {
            self.data.drain(..self.start);
            self.start = 0;
        }
        self.data.try_reserve(size)
    }

    /// Puts bytes back in front of everything.
    pub fn push_front(&mut self, front: &[u8]) -> Result<(), TryReserveError> {
        let mut data = Vec::new();
        data.try_reserve(front.len() + self.len())?;
        data.extend_from_slice(front);
        data.extend_from_slice(self.as_slice());
        *self = Self { data, start: 0 };
        Ok(())
    }

    /// Drops the first `n` bytes, or as many as there are.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        self.start += n.min(self.len());
        if self.start == self.data.len() {
            self.clear();
        }
    }

    /// Drops everything.
    #[inline]
    pub fn clear(&mut self) {
        self.start = 0;
        if self.data.capacity() > MAX_KEPT {
            self.data = Vec::new();
        } else {
            self.data.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ReadBuffer;

    #[test]
    fn gives_back_what_was_put_in() {
        let mut buffer = ReadBuffer::default();
        let mut expected = Vec::new();
        let mut next = 0_u8;
        for round in 0..2000_usize {
            let size = (round * 7919) % 300;
            let more: Vec<u8> = (0..size)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            assert!(buffer.extend(&more).is_ok());
            expected.extend_from_slice(&more);
            let taken = ((round * 104_729) % 320).min(expected.len());
            assert_eq!(&buffer.as_slice()[..taken], &expected[..taken]);
            buffer.advance(taken);
            expected.drain(..taken);
            assert_eq!(buffer.as_slice(), expected);
        }
        assert!(buffer.push_front(b"front").is_ok());
        assert_eq!(&buffer.as_slice()[..5], b"front");
        assert_eq!(buffer.len(), expected.len() + 5);
        buffer.clear();
        assert!(buffer.is_empty());
    }
}
