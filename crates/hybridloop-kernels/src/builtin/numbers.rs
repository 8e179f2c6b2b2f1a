//! Arrays of f32 and f64. Any other format is a `TypeError`, gaps between elements a `ValueError`.

use std::cmp::Ordering;

use hybridloop_kernel::{abi, kernel, Buf, Code, Ctx, Element, Error, IntoResult, Memory};

use crate::builtin::common::{entry, CHUNK};

pub(super) const TABLE: &[abi::Kernel] = &[
    entry::<sum>(),
    entry::<dot>(),
    entry::<sort>(),
    entry::<argsort>(),
    entry::<histogram>(),
];

const ELEMENTS: usize = CHUNK / 8;

trait Float: Element + PartialOrd {
    fn wide(self) -> f64;
    /// Ascending, NaN last.
    fn order(&self, other: &Self) -> Ordering;
}

macro_rules! floats {
    ($($type:ident)*) => {$(
        impl Float for $type {
            fn wide(self) -> f64 {
                self.into()
            }
            fn order(&self, other: &Self) -> Ordering {
                self.is_nan().cmp(&other.is_nan()).then_with(|| self.total_cmp(other))
            }
        }
    )*};
}
floats!(f32 f64);

enum Floats<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

fn floats<'a>(buf: &Buf<'a>) -> Result<Floats<'a>, Error> {
    let found = if buf.itemsize() == 4 {
        buf.elements().map(Floats::F32)
    } else {
        buf.elements().map(Floats::F64)
    };
    found.map_err(|error| match error.code() {
        Code::Type => Error::type_error(format!(
            "expected elements of type f32 or f64, got format {:?}",
            buf.format().to_string_lossy()
        )),
        _ => error,
    })
}

fn sum_of<T: Float>(ctx: &Ctx, values: &[T]) -> Result<f64, Error> {
    let mut sum = 0.0;
    for chunk in values.chunks(ELEMENTS) {
        ctx.check()?;
        sum += chunk.iter().map(|value| value.wide()).sum::<f64>();
    }
    Ok(sum)
}

/// The sum of `values`, f32 or f64, added up in f64: a float.
#[kernel(name = "hl.sum")]
fn sum(ctx: &Ctx, values: Buf<'_>) -> Result<f64, Error> {
    match floats(&values)? {
        Floats::F32(values) => sum_of(ctx, values),
        Floats::F64(values) => sum_of(ctx, values),
    }
}

fn dot_of<T: Float>(ctx: &Ctx, a: &[T], b: &[T]) -> Result<f64, Error> {
    if a.len() != b.len() {
        return Err(Error::invalid(format!(
            "{} and {} elements",
            a.len(),
            b.len()
        )));
    }
    let mut sum = 0.0;
    for (a, b) in a.chunks(ELEMENTS).zip(b.chunks(ELEMENTS)) {
        ctx.check()?;
        sum += a
            .iter()
            .zip(b)
            .map(|(a, b)| a.wide() * b.wide())
            .sum::<f64>();
    }
    Ok(sum)
}

/// The dot product of `a` and `b`, both f32 or both f64 and of one length, added up in f64: a float.
#[kernel(name = "hl.dot")]
fn dot(ctx: &Ctx, a: Buf<'_>, b: Buf<'_>) -> Result<f64, Error> {
    match (floats(&a)?, floats(&b)?) {
        (Floats::F32(a), Floats::F32(b)) => dot_of(ctx, a, b),
        (Floats::F64(a), Floats::F64(b)) => dot_of(ctx, a, b),
        _ => Err(Error::type_error("a and b are of different types")),
    }
}

fn sort_of<'a, T: Float>(ctx: &'a Ctx, values: &[T]) -> Result<Memory<'a, T>, Error> {
    let mut memory = ctx.memory(values.len())?;
    memory.copy_from_slice(values);
    sort_in_parts(ctx, &mut memory, &T::order)?;
    Ok(memory)
}

/// Sorts, and checks for cancellation between the parts.
fn sort_in_parts<T>(
    ctx: &Ctx,
    values: &mut [T],
    order: &impl Fn(&T, &T) -> Ordering,
) -> Result<(), Error> {
    const PART: usize = 1 << 22;
    ctx.check()?;
    if values.len() <= PART {
        values.sort_unstable_by(order);
        return Ok(());
    }
    let (low, _, high) = values.select_nth_unstable_by(values.len() / 2, order);
    sort_in_parts(ctx, low, order)?;
    sort_in_parts(ctx, high, order)
}

/// `values`, f32 or f64, in ascending order, NaN last: an array of that type.
#[kernel(name = "hl.sort")]
fn sort<'a>(ctx: &'a Ctx, values: Buf<'a>) -> Result<Sorted<'a>, Error> {
    Ok(match floats(&values)? {
        Floats::F32(values) => Sorted::F32(sort_of(ctx, values)?),
        Floats::F64(values) => Sorted::F64(sort_of(ctx, values)?),
    })
}

enum Sorted<'a> {
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

fn argsort_of<'a, T: Float>(ctx: &'a Ctx, values: &[T]) -> Result<Memory<'a, i64>, Error> {
    let mut order = ctx.memory::<i64>(values.len())?;
    for (index, place) in (0_i64..).zip(order.iter_mut()) {
        *place = index;
    }
    let value = |index: &i64| {
        usize::try_from(*index)
            .ok()
            .and_then(|index| values.get(index))
    };
    sort_in_parts(ctx, &mut order, &|a: &i64, b: &i64| {
        let values = match (value(a), value(b)) {
            (Some(a), Some(b)) => a.order(b),
            _ => Ordering::Equal,
        };
        values.then(a.cmp(b))
    })?;
    Ok(order)
}

/// The indices that sort `values`, f32 or f64, in ascending order, NaN last, equal ones in their order: an array of i64.
#[kernel(name = "hl.argsort")]
fn argsort<'a>(ctx: &'a Ctx, values: Buf<'_>) -> Result<Memory<'a, i64>, Error> {
    match floats(&values)? {
        Floats::F32(values) => argsort_of(ctx, values),
        Floats::F64(values) => argsort_of(ctx, values),
    }
}

fn count<T: Float>(
    ctx: &Ctx,
    values: &[T],
    counts: &mut [i64],
    low: f64,
    high: f64,
) -> Result<(), Error> {
    #[allow(
        clippy::cast_precision_loss,
        reason = "no more bins than fit in memory"
    )]
    let scale = counts.len() as f64 / (high - low);
    for chunk in values.chunks(ELEMENTS) {
        ctx.check()?;
        for value in chunk.iter().map(|value| value.wide()) {
            if value >= low && value <= high {
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "within the range"
                )]
                let bin = ((value - low) * scale) as usize;
                let last = counts.len() - 1;
                counts[bin.min(last)] += 1;
            }
        }
    }
    Ok(())
}

/// How many of `values`, f32 or f64, lie in each of `bins` equal parts of `low` to `high`, both included: an array of i64.
/// Values outside, and NaN, are not counted.
#[kernel(name = "hl.histogram")]
fn histogram<'a>(
    ctx: &'a Ctx,
    values: Buf<'_>,
    bins: usize,
    low: f64,
    high: f64,
) -> Result<Memory<'a, i64>, Error> {
    if bins == 0 || !(high - low).is_finite() || high <= low {
        return Err(Error::invalid(
            "expected at least one bin, and finite low < high",
        ));
    }
    let mut counts = ctx.memory(bins)?;
    match floats(&values)? {
        Floats::F32(values) => count(ctx, values, &mut counts, low, high)?,
        Floats::F64(values) => count(ctx, values, &mut counts, low, high)?,
    }
    Ok(counts)
}
