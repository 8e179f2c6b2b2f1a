//! Spinning before a sleep, as long as it pays.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// For how long to spin: about what it costs to sleep and be woken.
const SPIN_TIME: Duration = Duration::from_micros(10);
/// Sleeps without spinning, at most, after spins that found nothing.
const MAX_SKIPPED: u32 = 31;

/// Whether there is one processor: then no other thread runs while one spins.
pub fn is_uniprocessor() -> bool {
    // Not a `OnceLock`: in the child of a fork it would wait for a thread of the parent that was asking the system.
    static PROCESSORS: AtomicUsize = AtomicUsize::new(0);
    let mut processors = PROCESSORS.load(Ordering::Relaxed);
    if processors == 0 {
        processors = std::thread::available_parallelism().map_or(usize::MAX, NonZero::get);
        PROCESSORS.store(processors, Ordering::Relaxed);
    }
    processors == 1
}

/// Decides whether to spin before the next sleep.
///
/// After each spin in a row that finds nothing, twice as many sleeps go without one, up to 31: a thread that waits for long
/// spends next to nothing on spinning. A spin that finds something starts over. On a single processor nothing spins.
#[derive(Debug, Default)]
pub struct AdaptiveSpin {
    /// Sleeps without spinning after the last spin.
    skipped: u32,
    /// How many of these are still to come.
    remaining: u32,
}

impl AdaptiveSpin {
    /// Whether to spin before this sleep. If so, tell the result to [`AdaptiveSpin::record`].
    #[inline]
    pub fn should_spin(&mut self) -> bool {
        if self.remaining > 0 {
            self.remaining -= 1;
            return false;
        }
        // A loom model has no time.
        !cfg!(loom) && !is_uniprocessor()
    }

    /// Records whether a spin found something.
    #[inline]
    pub fn record(&mut self, found: bool) {
        self.skipped = if found {
            0
        } else {
            (2 * self.skipped + 1).min(MAX_SKIPPED)
        };
        self.remaining = self.skipped;
    }

    /// Spins until `found` returns true, or for 10 µs; returns whether it did.
    pub fn spin_until(found: impl Fn() -> bool) -> bool {
        let mut in_time = Self::time_limit();
        loop {
            if found() {
                return true;
            }
            if !in_time() {
                return false;
            }
        }
    }

    /// A function that tells a loop whether to go on spinning: for 10 µs.
    pub fn time_limit() -> impl FnMut() -> bool {
        // The clock is read every eighth time.
        let (start, mut calls) = (Instant::now(), 0_u32);
        move || {
            std::hint::spin_loop();
            calls = calls.wrapping_add(1);
            !calls.is_multiple_of(8) || start.elapsed() < SPIN_TIME
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{is_uniprocessor, AdaptiveSpin, MAX_SKIPPED};

    #[test]
    fn spinning_in_vain_becomes_rare_and_pays_again_at_once() {
        let mut spin = AdaptiveSpin::default();
        let mut spins = 0;
        for _ in 0..1000 {
            if spin.should_spin() {
                spins += 1;
                spin.record(AdaptiveSpin::spin_until(|| false));
            }
        }
        assert!(spins <= 5 + 1000 / MAX_SKIPPED, "{spins}");
        spin.record(AdaptiveSpin::spin_until(|| true));
        assert_eq!(spin.should_spin(), !is_uniprocessor());
    }
}
