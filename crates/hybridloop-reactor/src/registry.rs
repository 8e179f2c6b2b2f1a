//! I/O sources by token. The generation in a token detects stale tokens.

use slab::Slab;

/// Identifies a source as long as it is registered: slab index in the low half, generation in the high half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub(crate) u64);

impl Token {
    const INDEX_BITS: u32 = 32;

    fn new(index: usize, generation: u32) -> Self {
        Self(u64::from(generation) << Self::INDEX_BITS | (index as u64 & 0xFFFF_FFFF))
    }

    fn index(self) -> usize {
        (self.0 & 0xFFFF_FFFF) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> Self::INDEX_BITS) as u32
    }
}

struct Entry<T> {
    generation: u32,
    source: T,
}

/// Sources by [`Token`]. The token of a removed source finds nothing, even after its index is reused.
pub struct Registry<T> {
    slab: Slab<Entry<T>>,
    generation: u32,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self {
            slab: Slab::new(),
            generation: 0,
        }
    }
}

impl<T> Registry<T> {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source.
    pub fn insert(&mut self, source: T) -> Token {
        // With 31 bits no token is equal to that of the poller's waker.
        self.generation = (self.generation + 1) & 0x7FFF_FFFF;
        let generation = self.generation;
        Token::new(self.slab.insert(Entry { generation, source }), generation)
    }

    /// The source with this token, unless it was removed.
    #[must_use]
    pub fn get(&self, token: Token) -> Option<&T> {
        self.slab
            .get(token.index())
            .filter(|entry| entry.generation == token.generation())
            .map(|entry| &entry.source)
    }

    /// The source with this token, unless it was removed.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        self.slab
            .get_mut(token.index())
            .filter(|entry| entry.generation == token.generation())
            .map(|entry| &mut entry.source)
    }

    /// Removes a source.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        self.get(token)?;
        Some(self.slab.remove(token.index()).source)
    }

    /// The number of sources.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are no sources.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// All sources.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slab.iter().map(|(_, entry)| &entry.source)
    }
}

#[cfg(test)]
mod tests {
    use super::Registry;

    #[test]
    fn a_stale_token_finds_nothing() {
        let mut registry = Registry::new();
        let first = registry.insert("first");
        assert_eq!(registry.get(first), Some(&"first"));
        assert_eq!(registry.remove(first), Some("first"));
        let second = registry.insert("second");
        assert_eq!(
            first.index(),
            second.index(),
            "the slab uses the index again"
        );
        assert_eq!(registry.get(first), None);
        assert_eq!(registry.remove(first), None);
        assert_eq!(registry.get_mut(second), Some(&mut "second"));
        assert_eq!(registry.len(), 1);
        assert_eq!(registry.remove(second), Some("second"));
        assert!(registry.is_empty());
    }
}
