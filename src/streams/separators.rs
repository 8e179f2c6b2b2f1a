//! The search for the end of a line or record.

use memchr::{memchr, memmem};

/// What ends a line or record.
pub enum Separators {
    Newline,
    /// Any of these. None is empty, and the shortest is first.
    AnyOf(Vec<Vec<u8>>),
}

/// Where a separator is in the data.
#[derive(Debug, PartialEq)]
pub struct Match {
    pub start: usize,
    pub end: usize,
}

impl Separators {
    #[inline]
    pub fn shortest(&self) -> usize {
        match self {
            Self::Newline => 1,
            Self::AnyOf(all) => all.first().map_or(1, Vec::len),
        }
    }

    #[inline]
    pub fn longest(&self) -> usize {
        match self {
            Self::Newline => 1,
            Self::AnyOf(all) => all.last().map_or(1, Vec::len),
        }
    }

    /// The separator that ends first, from `from` on; the shortest of those that end together.
    #[inline]
    pub fn find(&self, data: &[u8], from: usize) -> Option<Match> {
        let rest = data.get(from..)?;
        match self {
            Self::Newline => memchr(b'\n', rest).map(|at| Match {
                start: from + at,
                end: from + at + 1,
            }),
            Self::AnyOf(all) => {
                let mut first: Option<Match> = None;
                for separator in all {
                    // A match that ends later does not count.
                    let until = first.as_ref().map_or(rest.len(), |first| first.end - from);
                    let Some(at) = memmem::find(&rest[..until], separator) else {
                        continue;
                    };
                    let (start, end) = (from + at, from + at + separator.len());
                    if first.as_ref().is_none_or(|first| end < first.end) {
                        first = Some(Match { start, end });
                    }
                }
                first
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Match, Separators};

    fn any_of(all: &[&[u8]]) -> Separators {
        Separators::AnyOf(all.iter().map(|one| one.to_vec()).collect())
    }

    #[test]
    fn finds_the_match_that_ends_first() {
        let both = any_of(&[b"\n", b"\r\n"]);
        assert_eq!(
            both.find(b"ab\r\ncd\n", 0),
            Some(Match { start: 3, end: 4 })
        );
        assert_eq!(
            any_of(&[b"xyz", b"abcd"]).find(b"abcdxyz", 0),
            Some(Match { start: 0, end: 4 })
        );
        assert_eq!(both.find(b"abc", 0), None);
        assert_eq!(both.find(b"abc", 7), None);
    }

    #[test]
    fn finds_newlines() {
        assert_eq!(
            Separators::Newline.find(b"a\nb\n", 2),
            Some(Match { start: 3, end: 4 })
        );
    }
}
