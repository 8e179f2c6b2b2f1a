//! The bus from Python's side, and kernels that only take time.

use std::time::{Duration, Instant};

use hybridloop_kernel::{abi, kernel, Code, Ctx, Error, Key};

use super::entry;

pub(super) const TABLE: &[abi::Kernel] = &[
    entry::<discard>(),
    entry::<noop>(),
    entry::<spin>(),
    entry::<sleep>(),
];

/// Removes `key` from the bus; whether it was there: a bool.
#[kernel(name = "hl.bus.discard")]
fn discard(ctx: &Ctx, key: Key<'_>) -> Result<bool, Error> {
    match ctx.bus().pop(key) {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Code::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Does nothing: what a call costs.
#[kernel(name = "hl.noop")]
fn noop() {}

fn duration(seconds: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| Error::invalid(format!("seconds: {error}")))
}

/// Keeps a processor busy for so many seconds, by the clock.
#[kernel(name = "hl.spin")]
fn spin(ctx: &Ctx, seconds: f64) -> Result<(), Error> {
    let (begin, duration) = (Instant::now(), duration(seconds)?);
    while begin.elapsed() < duration {
        ctx.check()?;
        for _ in 0..64 {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

/// Sleeps for so many seconds; looks every few milliseconds whether it was cancelled.
#[kernel(name = "hl.sleep")]
fn sleep(ctx: &Ctx, seconds: f64) -> Result<(), Error> {
    let (begin, duration) = (Instant::now(), duration(seconds)?);
    loop {
        ctx.check()?;
        let left = duration.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(2)));
    }
}
