//! Histograms.

use hybridloop_kernel::{kernel, Buf, Ctx, Error, Memory};

use super::floats::{floats, Float, Floats, ELEMENTS};

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
pub(super) fn histogram<'a>(
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
