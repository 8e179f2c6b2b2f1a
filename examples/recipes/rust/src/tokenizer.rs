//! WordPiece: words in lower case, each cut into the longest pieces of a vocabulary.

use std::collections::HashMap;

/// Pieces by their place in the list. `##` is before those that continue a word; `[UNK]` stands for words that cannot be cut.
pub struct Vocabulary {
    places: HashMap<String, u32>,
    longest: usize,
    unknown: u32,
}

impl Vocabulary {
    pub fn new<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let places: HashMap<String, u32> = words.map(str::to_owned).zip(0..).collect();
        Self {
            longest: places.keys().map(String::len).max().unwrap_or(0),
            unknown: places.get("[UNK]").copied().unwrap_or(0),
            places,
        }
    }

    pub fn tokenize(&self, text: &str, found: &mut Vec<u32>) {
        let text = text.to_lowercase();
        for word in text.split_whitespace() {
            let mut rest = word;
            while let Some(first) = rest.chars().next() {
                let end = if first.is_ascii_punctuation() {
                    1
                } else {
                    rest.find(|c: char| c.is_ascii_punctuation())
                        .unwrap_or(rest.len())
                };
                self.cut(&rest[..end], found);
                rest = &rest[end..];
            }
        }
    }

    fn cut(&self, word: &str, found: &mut Vec<u32>) {
        let before = found.len();
        let mut piece = String::with_capacity(self.longest);
        let mut start = 0;
        while start < word.len() {
            let ends = word[start..]
                .char_indices()
                .map(|(at, c)| start + at + c.len_utf8())
                .take_while(|end| end - start <= self.longest);
            let known = ends.collect::<Vec<_>>().into_iter().rev().find_map(|end| {
                piece.clear();
                if start > 0 {
                    piece.push_str("##");
                }
                piece.push_str(&word[start..end]);
                Some((*self.places.get(&piece)?, end))
            });
            let Some((place, end)) = known else {
                found.truncate(before);
                found.push(self.unknown);
                return;
            };
            found.push(place);
            start = end;
        }
    }
}
