//! The clock of `time.monotonic()`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds of the monotonic clock, the same clock and epoch as Python's `time.monotonic_ns()`.
#[must_use]
#[inline]
pub fn now_ns() -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // CPython reads mach_absolute_time() on macOS, which CLOCK_UPTIME_RAW returns in nanoseconds.
    #[cfg(target_os = "macos")]
    let clock = libc::CLOCK_UPTIME_RAW;
    #[cfg(not(target_os = "macos"))]
    let clock = libc::CLOCK_MONOTONIC;
    // SAFETY: `ts` is a valid out pointer for the whole call; the clock ids always exist on the supported systems.
    unsafe { libc::clock_gettime(clock, &raw mut ts) };
    // Both fields are non-negative on a monotonic clock.
    ts.tv_sec.unsigned_abs() * 1_000_000_000 + ts.tv_nsec.unsigned_abs()
}

/// Nanoseconds in the seconds of `time.monotonic()`.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The first nanosecond `n` with `seconds(n) >= when`: what is due then is never early, whatever floats round to.
///
/// Times before the clock's epoch, and NaN, are due at once; infinity never is.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn deadline_ns(when: f64) -> u64 {
    // Converting clamps: negative numbers and NaN to 0, infinity to the largest.
    let mut ns = (when * 1e9).ceil() as u64;
    while ns < 1 << 62 && seconds(ns) < when {
        ns += 1;
    }
    ns
}

/// The processor's own counter: a third of the price of [`now_ns`], for decisions that need no exact time.
#[must_use]
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reading the time-stamp counter has no precondition.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: the virtual counter is readable from user space on every supported system.
        unsafe { std::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        ticks
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    now_ns()
}

/// The clock and the counter at one moment: of a few readings the one that nothing came between.
fn both() -> (u64, u64) {
    let (mut best, mut found) = (u64::MAX, (0, 0));
    for _ in 0..8 {
        let before = ticks();
        let now = now_ns();
        let took = ticks().wrapping_sub(before);
        if took < best {
            (best, found) = (took, (now, before.wrapping_add(took / 2)));
        }
    }
    found
}

/// How many [`ticks`] go into `ns` nanoseconds, as far as 100 µs of watching can tell. Measured once per process.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub fn ticks_in(ns: u64) -> u64 {
    // Not `OnceLock`, in which the child of a fork would wait for a thread that it does not have.
    static PER_NS: AtomicU64 = AtomicU64::new(0);
    let mut per_ns = f64::from_bits(PER_NS.load(Ordering::Relaxed));
    if per_ns == 0.0 {
        let (start_ns, start) = both();
        while now_ns() - start_ns < 100_000 {
            std::hint::spin_loop();
        }
        let (end_ns, end) = both();
        let measured = end.wrapping_sub(start) as f64 / (end_ns - start_ns) as f64;
        // Who was first is right: all have to count alike.
        per_ns = PER_NS
            .compare_exchange(0, measured.to_bits(), Ordering::Relaxed, Ordering::Relaxed)
            .map_or_else(f64::from_bits, |_| measured);
    }
    (ns as f64 * per_ns) as u64
}

/// [`ticks`] in an interval of seconds. Negative numbers and NaN have none; as many as there can be never pass.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn interval_ticks(seconds: f64) -> u64 {
    // Converting clamps.
    match (seconds * 1e9) as u64 {
        u64::MAX => u64::MAX,
        ns => ticks_in(ns),
    }
}

/// The interval of seconds that [`interval_ticks`] was given, rounded to nanoseconds.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn interval(ticks: u64) -> f64 {
    if ticks == u64::MAX {
        return f64::INFINITY;
    }
    let second = ticks_in(1_000_000_000) as f64;
    (ticks as f64 / second * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::{both, deadline_ns, interval, interval_ticks, now_ns, seconds, ticks_in};

    #[test]
    fn intervals_come_back() {
        for seconds in [0.0, 0.001, 0.25, 60.0] {
            let found = interval(interval_ticks(seconds));
            assert!((found - seconds).abs() < 1e-6, "{found}");
        }
        assert!(interval(interval_ticks(f64::INFINITY)).is_infinite());
        assert_eq!(interval_ticks(-1.0), 0);
        assert_eq!(interval_ticks(f64::NAN), 0);
        assert_eq!(interval_ticks(1e300), u64::MAX);
    }

    #[test]
    fn ticks_measure_time() {
        let (start_ns, start) = both();
        while now_ns() - start_ns < 5_000_000 {}
        let (end_ns, end) = both();
        let (found, wanted) = (end - start, ticks_in(end_ns - start_ns));
        assert!(found.abs_diff(wanted) < wanted / 10, "{found} of {wanted}");
    }

    #[test]
    fn a_deadline_is_never_early() {
        for i in 0..100_000_u32 {
            let when = f64::from(i) * 12.345_678_911 + 0.1 / f64::from(i + 1);
            let ns = deadline_ns(when);
            assert!(seconds(ns) >= when);
            assert!(
                ns < 3 || seconds(ns - 3) < when,
                "nor late by more than the float's own step"
            );
        }
        assert_eq!(deadline_ns(-1.0), 0);
        assert_eq!(deadline_ns(f64::NAN), 0);
        assert_eq!(deadline_ns(f64::INFINITY), u64::MAX);
    }

    #[test]
    fn clock_never_goes_back() {
        let mut last = now_ns();
        for _ in 0..1000 {
            let now = now_ns();
            assert!(now >= last);
            last = now;
        }
    }
}
