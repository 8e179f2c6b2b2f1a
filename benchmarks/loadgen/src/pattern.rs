//! The byte stream that every connection sends and expects back.

/// Period of the stream. A prime, so that no message size divides it and a lost, repeated or
/// reordered message shows as a difference.
const PERIOD: u64 = 65_521;

/// Longest slice handed out at once.
pub const MAX_SLICE: usize = 1 << 20;

/// A periodic pseudo-random byte stream, addressed by position.
pub struct Pattern {
    bytes: Vec<u8>,
}

impl Default for Pattern {
    fn default() -> Self {
        let period: Vec<u8> = splitmix64(1)
            .flat_map(u64::to_le_bytes)
            .take(to_usize(PERIOD))
            .collect();
        let length = to_usize(PERIOD) + MAX_SLICE;
        let bytes = period.iter().copied().cycle().take(length).collect();
        Self { bytes }
    }
}

impl Pattern {
    /// The `length` bytes from `position`, or the first `MAX_SLICE` of them.
    #[must_use]
    pub fn slice(&self, position: u64, length: u64) -> &[u8] {
        let start = to_usize(position % PERIOD);
        let length = usize::try_from(length).map_or(MAX_SLICE, |length| length.min(MAX_SLICE));
        &self.bytes[start..start + length]
    }
}

/// Only for values below `PERIOD`, which fit every platform's `usize`.
#[allow(clippy::cast_possible_truncation)]
const fn to_usize(value: u64) -> usize {
    value as usize
}

fn splitmix64(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_agree_with_the_stream_across_periods() {
        let pattern = Pattern::default();
        let long = pattern.slice(0, 3 * PERIOD);
        for position in [0, 1, 1000, PERIOD - 1, PERIOD, PERIOD + 7] {
            let from = to_usize(position);
            assert_eq!(pattern.slice(position, 4096), &long[from..from + 4096]);
        }
    }

    #[test]
    fn a_shifted_stream_differs() {
        let pattern = Pattern::default();
        for shift in [1, 64, 1024, 10 * 1024, 100 * 1024] {
            assert_ne!(pattern.slice(0, 64), pattern.slice(shift, 64));
        }
    }
}
