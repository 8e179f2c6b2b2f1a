//! The monotonic clock, that of `time.monotonic()`.

/// Nanoseconds of the monotonic clock, the same clock and epoch as Python's `time.monotonic_ns()`.
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
    // SAFETY: `ts` is a valid out pointer for the whole call; the clock ids exist on every supported system.
    unsafe { libc::clock_gettime(clock, &raw mut ts) };
    // Both fields are non-negative on a monotonic clock.
    ts.tv_sec.unsigned_abs() * 1_000_000_000 + ts.tv_nsec.unsigned_abs()
}

/// Nanoseconds as seconds of `time.monotonic()`.
#[allow(clippy::cast_precision_loss)]
pub fn ns_to_seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The first nanosecond `n` with `ns_to_seconds(n) >= when`: rounding never makes a timer early.
///
/// A time before the clock's epoch, or NaN, gives 0; infinity gives the largest number, which never comes.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn deadline_ns(when: f64) -> u64 {
    // The conversion clamps: negative numbers and NaN to 0, infinity to the largest.
    let mut ns = (when * 1e9).ceil() as u64;
    while ns < 1 << 62 && ns_to_seconds(ns) < when {
        ns += 1;
    }
    ns
}

#[cfg(test)]
mod tests {
    use super::{deadline_ns, now_ns, ns_to_seconds};

    #[test]
    fn a_deadline_is_never_early() {
        for i in 0..100_000_u32 {
            let when = f64::from(i) * 12.345_678_911 + 0.1 / f64::from(i + 1);
            let ns = deadline_ns(when);
            assert!(ns_to_seconds(ns) >= when);
            assert!(
                ns < 3 || ns_to_seconds(ns - 3) < when,
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
