//! The processor's own clock.

use pyo3::prelude::*;

/// The processor's cycle counter: how much time passes between two readings, in its ticks.
///
/// Ticks are as long as the processor says; on x86-64 and ARM64 the counter runs at one speed and
/// is the same on every core. Elsewhere nanoseconds are counted.
#[pyfunction]
pub fn rdtsc() -> u64 {
    read()
}

#[cfg(target_arch = "x86_64")]
fn read() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every x86-64 processor has both instructions, and they touch no memory.
    unsafe {
        // What comes before in the program has happened when the counter is read.
        _mm_lfence();
        _rdtsc()
    }
}

#[cfg(target_arch = "aarch64")]
fn read() -> u64 {
    let ticks: u64;
    // SAFETY: the virtual counter may be read by programs, and nothing else is touched.
    unsafe {
        std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack));
    }
    ticks
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn read() -> u64 {
    use std::{sync::LazyLock, time::Instant};
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
