//! Sums, whose order does not depend on the machine, so that each gives the same result: 16 lanes add up every sixteenth value
//! of a block, and the sums of lanes and blocks are added in pairs. The error grows with the logarithm of the length.

use hybridloop_kernel::{kernel, Buf, Ctx, Error};
use multiversion::multiversion;

use super::floats::{floats, Float, Floats, ELEMENTS};

const LANES: usize = 16;
const BLOCK: usize = 32 * LANES;

/// Adds numbers in pairs, then pairs of pairs, and so on.
struct PairwiseSum {
    /// At each level the sum of 2 to the power of the level, if that bit of `count` is set.
    levels: [f64; usize::BITS as usize],
    count: usize,
}

impl PairwiseSum {
    fn new() -> Self {
        Self {
            levels: [0.0; usize::BITS as usize],
            count: 0,
        }
    }

    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "compiled with its caller's instructions"
    )]
    fn add(&mut self, mut value: f64) {
        let level = self.count.trailing_ones() as usize;
        for sum in &self.levels[..level] {
            value += sum;
        }
        self.levels[level] = value;
        self.count += 1;
    }

    fn total(&self) -> f64 {
        let levels = (0..).zip(&self.levels);
        let set = levels.filter(|(level, _)| self.count >> level & 1 != 0);
        set.fold(0.0, |total, (_, sum)| total + sum)
    }
}

#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "compiled with its caller's instructions"
)]
fn sum_of_lanes(mut lanes: [f64; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[multiversion(targets("x86_64+avx2"))]
fn add_values<T: Float>(sum: &mut PairwiseSum, values: &[T]) {
    for block in values.chunks(BLOCK) {
        let mut lanes = [0.0; LANES];
        let (rows, rest) = block.as_chunks::<LANES>();
        for row in rows {
            for lane in 0..LANES {
                lanes[lane] += row[lane].wide();
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane += value.wide();
        }
        sum.add(sum_of_lanes(lanes));
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn add_products<T: Float>(sum: &mut PairwiseSum, a: &[T], b: &[T]) {
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut lanes = [0.0; LANES];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                lanes[lane] += a[lane].wide() * b[lane].wide();
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
            *lane += a.wide() * b.wide();
        }
        sum.add(sum_of_lanes(lanes));
    }
}

fn sum_of<T: Float>(ctx: &Ctx, values: &[T]) -> Result<f64, Error> {
    let mut sum = PairwiseSum::new();
    for chunk in values.chunks(ELEMENTS) {
        ctx.check()?;
        add_values(&mut sum, chunk);
    }
    Ok(sum.total())
}

/// The sum of `values`, f32 or f64, added up in f64, in pairs: a float. It is the same on every machine.
#[kernel(name = "hl.sum")]
pub(super) fn sum(ctx: &Ctx, values: Buf<'_>) -> Result<f64, Error> {
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
    let mut sum = PairwiseSum::new();
    for (a, b) in a.chunks(ELEMENTS).zip(b.chunks(ELEMENTS)) {
        ctx.check()?;
        add_products(&mut sum, a, b);
    }
    Ok(sum.total())
}

/// The dot product of `a` and `b`, both f32 or both f64 and of one length, added up in f64, in pairs: a float. It is the same on
/// every machine.
#[kernel(name = "hl.dot")]
pub(super) fn dot(ctx: &Ctx, a: Buf<'_>, b: Buf<'_>) -> Result<f64, Error> {
    match (floats(&a)?, floats(&b)?) {
        (Floats::F32(a), Floats::F32(b)) => dot_of(ctx, a, b),
        (Floats::F64(a), Floats::F64(b)) => dot_of(ctx, a, b),
        _ => Err(Error::type_error("a and b are of different types")),
    }
}
