//! Sorting by radix, in order of the bits of floats. It needs as much memory again as what is sorted; if there is not so much, it
//! is sorted in place, which takes longer.

use hybridloop_kernel::{abi, kernel, Buf, Ctx, Element, Error, IntoResult, Memory};

use super::floats::{floats, Float, Floats, ELEMENTS};

/// Fewer items than this are sorted faster by comparison.
const SMALL: usize = 1024;
const DIGIT: u32 = 8;
const DIGITS: usize = 1 << DIGIT;
/// Digits by which items are sorted; those that are equal in so many bits are sorted afterwards.
const PASSES: u32 = 4;

/// A float whose order is that of an unsigned number.
trait Sortable: Float {
    type Key: Item + Element + Into<u64>;

    /// Numbers in ascending order, -0.0 before 0.0, then NaN, those with a negative sign first.
    fn key(self) -> Self::Key;

    fn from_key(key: Self::Key) -> Self;

    fn as_keys(values: &mut [Self]) -> &mut [Self::Key];
}

macro_rules! sortable {
    ($($float:ident $key:ident $signed:ident;)*) => {$(
        impl Sortable for $float {
            type Key = $key;

            #[inline]
            fn key(self) -> $key {
                const NANS: $key = (1 << (<$float>::MANTISSA_DIGITS - 1)) - 1;
                let bits = self.to_bits();
                let sign = (bits.cast_signed() >> ($key::BITS - 1)).cast_unsigned();
                // As `total_cmp` orders them: negative NaN first, which are moved behind infinity.
                let total = bits ^ (sign | $signed::MIN.cast_unsigned());
                if total < NANS {
                    total.wrapping_sub(2 * NANS)
                } else if total <= $key::MAX - NANS {
                    total - NANS
                } else {
                    total
                }
            }

            #[inline]
            fn from_key(key: $key) -> $float {
                const NANS: $key = (1 << (<$float>::MANTISSA_DIGITS - 1)) - 1;
                let total = if key <= $key::MAX - 2 * NANS {
                    key + NANS
                } else if key <= $key::MAX - NANS {
                    key.wrapping_add(2 * NANS)
                } else {
                    key
                };
                let sign = (!total.cast_signed() >> ($key::BITS - 1)).cast_unsigned();
                $float::from_bits(total ^ (sign | $signed::MIN.cast_unsigned()))
            }

            fn as_keys(values: &mut [$float]) -> &mut [$key] {
                let (data, len) = (values.as_mut_ptr().cast(), values.len());
                // SAFETY: the types are of the same size and alignment, every pattern of bits is a value of both, and `values` is
                // borrowed as long as the result.
                unsafe { std::slice::from_raw_parts_mut(data, len) }
            }
        }
    )*};
}
sortable! { f32 u32 i32; f64 u64 i64; }

/// What is sorted: in order of its key, then of the rest.
trait Item: Copy + Ord {
    fn key(&self) -> u64;
}

impl Item for u32 {
    fn key(&self) -> u64 {
        (*self).into()
    }
}

impl Item for u64 {
    fn key(&self) -> u64 {
        *self
    }
}

/// A key and an index.
impl Item for [u64; 2] {
    fn key(&self) -> u64 {
        self[0]
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "it is masked")]
fn digit(key: u64, shift: u32) -> usize {
    (key >> shift) as usize % DIGITS
}

/// Turns the number of items with each digit into the place of the first of them.
fn places(counts: &mut [usize; DIGITS]) {
    let mut place = 0;
    for count in counts {
        place += std::mem::replace(count, place);
    }
}

/// Sorts by the highest bits in which keys differ, least significant digit first, and then the items that are equal in these.
/// The items are in order of what follows the key already.
fn radix_sort<T: Item>(ctx: &Ctx, items: &mut [T], scratch: &mut [T]) -> Result<(), Error> {
    if items.len() < SMALL {
        items.sort_unstable();
        return Ok(());
    }
    let (first, mut different) = (items[0].key(), 0);
    for chunk in items.chunks(ELEMENTS) {
        ctx.check()?;
        for item in chunk {
            different |= item.key() ^ first;
        }
    }
    let bits = u64::BITS - different.leading_zeros();
    let passes = bits.div_ceil(DIGIT).min(PASSES);
    let low = bits.saturating_sub(DIGIT * PASSES);
    let mut counts = [[0; DIGITS]; PASSES as usize];
    for chunk in items.chunks(ELEMENTS) {
        ctx.check()?;
        for item in chunk {
            let mut key = item.key() >> low;
            for counts in &mut counts {
                counts[digit(key, 0)] += 1;
                key >>= DIGIT;
            }
        }
    }
    let (mut from, mut to) = (&mut *items, &mut *scratch);
    let mut shift = low;
    for counts in &mut counts[..passes as usize] {
        places(counts);
        for chunk in from.chunks(ELEMENTS) {
            ctx.check()?;
            for item in chunk {
                let place = &mut counts[digit(item.key(), shift)];
                to[*place] = *item;
                *place += 1;
            }
        }
        std::mem::swap(&mut from, &mut to);
        shift += DIGIT;
    }
    if !passes.is_multiple_of(2) {
        to.copy_from_slice(from);
    }
    if low == 0 {
        return Ok(());
    }
    sort_equals(ctx, items, scratch, low)
}

/// Sorts each run of items that are equal in the bits from `low` on, by which they are sorted.
fn sort_equals<T: Item>(
    ctx: &Ctx,
    items: &mut [T],
    scratch: &mut [T],
    low: u32,
) -> Result<(), Error> {
    let (mut at, mut check) = (1, 0);
    while at < items.len() {
        if at >= check {
            ctx.check()?;
            check = at + ELEMENTS;
        }
        if items[at - 1] <= items[at] {
            at += 1;
            continue;
        }
        let high = items[at].key() >> low;
        let is_equal = |item: &&T| item.key() >> low == high;
        let before = items[..at].iter().rev().take(SMALL);
        let mut start = at - before.take_while(is_equal).count();
        let after = items[at..].iter().take(SMALL);
        let mut end = at + after.take_while(is_equal).count();
        if at - start == SMALL || end - at == SMALL {
            start = items.partition_point(|item| item.key() >> low < high);
            end = items.partition_point(|item| item.key() >> low <= high);
        }
        match &mut items[start..end] {
            [one, other] => std::mem::swap(one, other),
            run => radix_sort(ctx, run, &mut scratch[start..end])?,
        }
        at = end + 1;
    }
    Ok(())
}

/// Sorts in place, most significant digit first. No two keys are equal, or it does not matter how they are ordered.
fn sort_in_place<T: Copy>(
    ctx: &Ctx,
    items: &mut [T],
    key: &impl Fn(&T) -> u128,
) -> Result<(), Error> {
    if items.len() < SMALL {
        items.sort_unstable_by_key(key);
        return Ok(());
    }
    let (first, mut different) = (key(&items[0]), 0);
    for chunk in items.chunks(ELEMENTS) {
        ctx.check()?;
        for item in chunk {
            different |= key(item) ^ first;
        }
    }
    if different == 0 {
        return Ok(());
    }
    let shift = (u128::BITS - different.leading_zeros()).saturating_sub(DIGIT);
    #[allow(clippy::cast_possible_truncation, reason = "it is masked")]
    let digit_of = |item: &T| (key(item) >> shift) as usize % DIGITS;
    let mut next = [0; DIGITS];
    for chunk in items.chunks(ELEMENTS) {
        ctx.check()?;
        for item in chunk {
            next[digit_of(item)] += 1;
        }
    }
    places(&mut next);
    let starts = next;
    let mut ends = starts;
    ends.rotate_left(1);
    ends[DIGITS - 1] = items.len();
    let mut moved = 0;
    for (bucket, end) in ends.into_iter().enumerate() {
        while next[bucket] < end {
            let mut item = items[next[bucket]];
            loop {
                moved += 1;
                if moved % ELEMENTS == 0 {
                    ctx.check()?;
                }
                let digit = digit_of(&item);
                std::mem::swap(&mut items[next[digit]], &mut item);
                next[digit] += 1;
                if digit == bucket {
                    break;
                }
            }
        }
    }
    for (start, end) in starts.into_iter().zip(ends) {
        sort_in_place(ctx, &mut items[start..end], key)?;
    }
    Ok(())
}

fn sort_of<'a, T: Sortable>(ctx: &'a Ctx, values: &[T]) -> Result<Memory<'a, T>, Error> {
    let mut memory = ctx.memory(values.len())?;
    let keys = T::as_keys(&mut memory);
    for (keys, values) in keys.chunks_mut(ELEMENTS).zip(values.chunks(ELEMENTS)) {
        ctx.check()?;
        for (key, value) in keys.iter_mut().zip(values) {
            *key = value.key();
        }
    }
    // None for few.
    let scratch = if keys.len() < SMALL { 0 } else { keys.len() };
    match ctx.memory(scratch) {
        Ok(mut scratch) => radix_sort(ctx, keys, &mut scratch)?,
        Err(_) => sort_in_place(ctx, keys, &|key| u128::from((*key).into()))?,
    }
    for chunk in memory.chunks_mut(ELEMENTS) {
        ctx.check()?;
        for at in 0..chunk.len() {
            chunk[at] = T::from_key(T::as_keys(chunk)[at]);
        }
    }
    Ok(memory)
}

/// `values`, f32 or f64, in ascending order, -0.0 before 0.0, NaN last: an array of that type.
#[kernel(name = "hl.sort")]
pub(super) fn sort<'a>(ctx: &'a Ctx, values: Buf<'a>) -> Result<Sorted<'a>, Error> {
    Ok(match floats(&values)? {
        Floats::F32(values) => Sorted::F32(sort_of(ctx, values)?),
        Floats::F64(values) => Sorted::F64(sort_of(ctx, values)?),
    })
}

pub(super) enum Sorted<'a> {
    F32(Memory<'a, f32>),
    F64(Memory<'a, f64>),
}

impl<'a> IntoResult<'a> for Sorted<'a> {
    const SIGNATURE: &'static str = "buf";
    fn with_val<R>(self, f: impl FnOnce(&abi::Val) -> R) -> R {
        match self {
            Self::F32(memory) => memory.with_val(f),
            Self::F64(memory) => memory.with_val(f),
        }
    }
    fn into_val(self, ctx: &'a Ctx) -> Result<abi::Val, Error> {
        match self {
            Self::F32(memory) => memory.into_val(ctx),
            Self::F64(memory) => memory.into_val(ctx),
        }
    }
}

fn argsort_of<'a, T: Sortable>(ctx: &'a Ctx, values: &[T]) -> Result<Memory<'a, i64>, Error> {
    let mut order = ctx.memory::<i64>(values.len())?;
    let Ok(mut items) = ctx.memory::<u64>(4 * values.len()) else {
        argsort_in_place(ctx, values, &mut order)?;
        return Ok(order);
    };
    let (items, scratch) = items.split_at_mut(2 * values.len());
    let (items, scratch) = (items.as_chunks_mut().0, scratch.as_chunks_mut().0);
    let chunks = items.chunks_mut(ELEMENTS).zip(values.chunks(ELEMENTS));
    let mut indices = 0..;
    for (items, values) in chunks {
        ctx.check()?;
        for ((item, value), index) in items.iter_mut().zip(values).zip(&mut indices) {
            *item = [value.key().into(), index];
        }
    }
    radix_sort(ctx, items, scratch)?;
    for (places, items) in order.chunks_mut(ELEMENTS).zip(items.chunks(ELEMENTS)) {
        ctx.check()?;
        for (place, [_, index]) in places.iter_mut().zip(items) {
            *place = index.cast_signed();
        }
    }
    Ok(order)
}

fn argsort_in_place<T: Sortable>(ctx: &Ctx, values: &[T], order: &mut [i64]) -> Result<(), Error> {
    for (index, place) in (0..).zip(order.iter_mut()) {
        *place = index;
    }
    sort_in_place(ctx, order, &|index| {
        let value = usize::try_from(*index).ok().and_then(|at| values.get(at));
        let key = value.map_or(u64::MAX, |value| value.key().into());
        u128::from(key) << u64::BITS | u128::from(index.cast_unsigned())
    })
}

/// The indices that sort `values`, f32 or f64, in ascending order, -0.0 before 0.0, NaN last, equal ones in their order: an array
/// of i64.
#[kernel(name = "hl.argsort")]
pub(super) fn argsort<'a>(ctx: &'a Ctx, values: Buf<'_>) -> Result<Memory<'a, i64>, Error> {
    match floats(&values)? {
        Floats::F32(values) => argsort_of(ctx, values),
        Floats::F64(values) => argsort_of(ctx, values),
    }
}
