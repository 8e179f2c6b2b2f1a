//! The processor's cycle counter. Reading it costs a third of a call of [`now_ns`].
//!
//! One tick is as long as the processor says. On x86-64 and `AArch64` the counter runs at a constant rate and is the same on
//! every core. On other processors the ticks are nanoseconds of the monotonic clock.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::now_ns;

/// The counter. The processor may read it before earlier instructions are done, or after later ones.
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and user space may execute it.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: user space may read the virtual counter on every supported system; the instruction touches no memory.
        unsafe { std::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        ticks
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    now_ns()
}

/// The counter, read after every earlier instruction is done. To measure a few instructions, read it like this.
#[inline]
pub fn ticks_serialized() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2, which every x86-64 processor has, brings the instruction.
    unsafe {
        std::arch::x86_64::_mm_lfence();
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the instruction waits for earlier ones and does nothing else.
    unsafe {
        std::arch::asm!("isb", options(nostack));
    }
    ticks()
}

/// Clock and counter at the same moment: of some readings the one that was interrupted least.
fn read_both() -> (u64, u64) {
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

/// The ticks in `ns` nanoseconds. The rate is measured once per process, for 100 µs.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub fn ns_to_ticks(ns: u64) -> u64 {
    // Not a `OnceLock`: in the child of a fork it would wait for a thread of the parent that was measuring.
    static TICKS_PER_NS: AtomicU64 = AtomicU64::new(0);
    let mut ticks_per_ns = f64::from_bits(TICKS_PER_NS.load(Ordering::Relaxed));
    if ticks_per_ns == 0.0 {
        let (start_ns, start) = read_both();
        while now_ns() - start_ns < 100_000 {
            std::hint::spin_loop();
        }
        let (end_ns, end) = read_both();
        let measured = end.wrapping_sub(start) as f64 / (end_ns - start_ns) as f64;
        // The first measurement counts, so that every thread converts alike.
        ticks_per_ns = TICKS_PER_NS
            .compare_exchange(0, measured.to_bits(), Ordering::Relaxed, Ordering::Relaxed)
            .map_or_else(f64::from_bits, |_| measured);
    }
    (ns as f64 * ticks_per_ns) as u64
}

/// The ticks in an interval of seconds: 0 for a negative number or NaN, [`u64::MAX`] for what is too long to count.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn seconds_to_ticks(seconds: f64) -> u64 {
    // The conversion clamps.
    match (seconds * 1e9) as u64 {
        u64::MAX => u64::MAX,
        ns => ns_to_ticks(ns),
    }
}

/// The seconds that [`seconds_to_ticks`] was given, rounded to nanoseconds.
#[allow(clippy::cast_precision_loss)]
pub fn ticks_to_seconds(ticks: u64) -> f64 {
    if ticks == u64::MAX {
        return f64::INFINITY;
    }
    let second = ns_to_ticks(1_000_000_000) as f64;
    (ticks as f64 / second * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::{
        ns_to_ticks, read_both, seconds_to_ticks, ticks, ticks_serialized, ticks_to_seconds,
    };
    use crate::clock::now_ns;

    #[test]
    fn intervals_come_back() {
        for seconds in [0.0, 0.001, 0.25, 60.0] {
            let found = ticks_to_seconds(seconds_to_ticks(seconds));
            assert!((found - seconds).abs() < 1e-6, "{found}");
        }
        assert!(ticks_to_seconds(seconds_to_ticks(f64::INFINITY)).is_infinite());
        assert_eq!(seconds_to_ticks(-1.0), 0);
        assert_eq!(seconds_to_ticks(f64::NAN), 0);
        assert_eq!(seconds_to_ticks(1e300), u64::MAX);
    }

    #[test]
    fn ticks_measure_time() {
        let (start_ns, start) = read_both();
        while now_ns() - start_ns < 5_000_000 {}
        let (end_ns, end) = read_both();
        let (found, wanted) = (end - start, ns_to_ticks(end_ns - start_ns));
        assert!(found.abs_diff(wanted) < wanted / 10, "{found} of {wanted}");
    }

    #[test]
    fn serialized_readings_are_in_order() {
        let (before, between, after) = (ticks_serialized(), ticks(), ticks_serialized());
        assert!(before <= between && between <= after);
    }
}
