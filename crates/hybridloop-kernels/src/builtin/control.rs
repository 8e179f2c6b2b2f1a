//! Removing a key of the bus, and kernels that only take time.

use std::time::{Duration, Instant};

use hybridloop_kernel::{abi, kernel, Code, Ctx, Error, Key};

use crate::builtin::common::entry;

pub(super) const TABLE: &[abi::Kernel] = &[
    entry::<discard>(),
    entry::<noop>(),
    entry::<spin>(),
    entry::<sleep>(),
];

/// Removes `key` from the bus. Returns whether it existed: a bool.
#[kernel(name = "hl.bus.discard")]
fn discard(ctx: &Ctx, key: Key<'_>) -> Result<bool, Error> {
    match ctx.bus().pop(key) {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Code::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Does nothing, for measurements of what a call costs.
#[kernel(name = "hl.noop")]
fn noop() {}

fn duration(seconds: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| Error::invalid(format!("seconds: {error}")))
}

/// The processor time that this thread has used.
fn processor_time() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid out pointer during the call, and every Unix has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// Computes until it has used `seconds` of processor time: the same work however busy the machine is.
#[kernel(name = "hl.spin")]
fn spin(ctx: &Ctx, seconds: f64) -> Result<(), Error> {
    let (begin, duration) = (processor_time(), duration(seconds)?);
    let mut state = begin.subsec_nanos();
    while processor_time().saturating_sub(begin) < duration {
        ctx.check()?;
        // About ten microseconds, so that reading the clock takes a small part of the time.
        for _ in 0..8192 {
            state = std::hint::black_box(state.wrapping_mul(747_796_405).wrapping_add(1));
        }
    }
    Ok(())
}

/// Sleeps for `seconds`; checks every few milliseconds whether it was cancelled.
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
