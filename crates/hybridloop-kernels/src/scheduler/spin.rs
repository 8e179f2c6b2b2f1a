//! For how long it pays to look for something before going to sleep.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// About what it costs to fall asleep and be woken.
const LIMIT: Duration = Duration::from_micros(10);
/// How many sleeps at most follow in a row without looking first.
const MOST: u32 = 31;

/// Whether there is a single processor.
fn is_alone() -> bool {
    // Not `OnceLock`, in which the child of a fork would wait for a thread that it does not have.
    static PROCESSORS: AtomicUsize = AtomicUsize::new(0);
    let mut processors = PROCESSORS.load(Ordering::Relaxed);
    if processors == 0 {
        processors = std::thread::available_parallelism().map_or(usize::MAX, NonZero::get);
        PROCESSORS.store(processors, Ordering::Relaxed);
    }
    processors == 1
}

/// Says whether to look before the next sleep. After each time that it was in vain, twice as many sleeps go without, up to
/// 31, so whoever waits long spends next to nothing on it. On a single processor nothing can come while one looks.
#[derive(Debug, Default)]
pub struct Patience {
    /// Sleeps without looking after the last time it was in vain.
    penalty: u32,
    /// Of these, how many are to come.
    left: u32,
}

impl Patience {
    /// Whether to look, this time. Then [`Patience::learn`] what came of it.
    #[inline]
    pub fn allows(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        // A model has no time.
        !cfg!(loom) && !is_alone()
    }

    /// Whether something came while looking.
    #[inline]
    pub fn learn(&mut self, found: bool) {
        self.penalty = if found {
            0
        } else {
            (2 * self.penalty + 1).min(MOST)
        };
        self.left = self.penalty;
    }

    /// Looks again and again, 10 µs at most; whether `found` said yes.
    pub fn look(found: impl Fn() -> bool) -> bool {
        let mut go_on = Self::timer();
        loop {
            if found() {
                return true;
            }
            if !go_on() {
                return false;
            }
        }
    }

    /// `true` for 10 µs.
    pub(crate) fn timer() -> impl FnMut() -> bool {
        // The clock is read now and then only.
        let (begin, mut looks) = (Instant::now(), 0_u32);
        move || {
            std::hint::spin_loop();
            looks = looks.wrapping_add(1);
            !looks.is_multiple_of(8) || begin.elapsed() < LIMIT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Patience, MOST};

    #[test]
    fn looking_in_vain_becomes_rare_and_pays_again_at_once() {
        let mut patience = Patience::default();
        let alone = std::thread::available_parallelism().is_ok_and(|n| n.get() == 1);
        let mut looked = 0;
        for _ in 0..1000 {
            if patience.allows() {
                looked += 1;
                patience.learn(Patience::look(|| false));
            }
        }
        assert!(looked <= 5 + 1000 / MOST, "{looked}");
        patience.learn(Patience::look(|| true));
        assert_eq!(patience.allows(), !alone);
    }
}
