//! Looking for the end of a line or record.

use memchr::{memchr, memmem};

/// What ends a record.
pub enum Separators {
    Newline,
    /// One or more, none of them empty, the shortest first.
    Many(Vec<Vec<u8>>),
}

/// A separator in the data.
#[derive(Debug, PartialEq)]
pub struct Found {
    pub start: usize,
    pub end: usize,
}

impl Separators {
    #[inline]
    pub fn shortest(&self) -> usize {
        match self {
            Self::Newline => 1,
            Self::Many(all) => all.first().map_or(1, Vec::len),
        }
    }

    #[inline]
    pub fn longest(&self) -> usize {
        match self {
            Self::Newline => 1,
            Self::Many(all) => all.last().map_or(1, Vec::len),
        }
    }

    /// The separator that ends first, from `from` on; the shortest of those that end together.
    #[inline]
    pub fn find(&self, data: &[u8], from: usize) -> Option<Found> {
        let rest = data.get(from..)?;
        match self {
            Self::Newline => memchr(b'\n', rest).map(|at| Found {
                start: from + at,
                end: from + at + 1,
            }),
            Self::Many(all) => {
                let mut first: Option<Found> = None;
                for separator in all {
                    // One that ends later does not count.
                    let until = first.as_ref().map_or(rest.len(), |found| found.end - from);
                    let Some(at) = memmem::find(&rest[..until], separator) else {
                        continue;
                    };
                    let (start, end) = (from + at, from + at + separator.len());
                    if first.as_ref().is_none_or(|found| end < found.end) {
                        first = Some(Found { start, end });
                    }
                }
                first
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, Separators};

    fn many(all: &[&[u8]]) -> Separators {
        Separators::Many(all.iter().map(|one| one.to_vec()).collect())
    }

    #[test]
    fn the_first_end_counts() {
        let both = many(&[b"\n", b"\r\n"]);
        assert_eq!(
            both.find(b"ab\r\ncd\n", 0),
            Some(Found { start: 3, end: 4 })
        );
        assert_eq!(
            many(&[b"xyz", b"abcd"]).find(b"abcdxyz", 0),
            Some(Found { start: 0, end: 4 })
        );
        assert_eq!(both.find(b"abc", 0), None);
        assert_eq!(both.find(b"abc", 7), None);
    }

    #[test]
    fn lines() {
        assert_eq!(
            Separators::Newline.find(b"a\nb\n", 2),
            Some(Found { start: 3, end: 4 })
        );
    }
}
