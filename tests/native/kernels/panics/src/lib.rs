//! Kernels that panic, in each way there is.

use std::panic::{catch_unwind, panic_any, resume_unwind};

use hybridloop_kernel::{kernel, module, Ctx, Error};

/// Panics with words, or with a constant.
#[kernel(name = "panics.words")]
fn words(text: &str) -> i64 {
    if text.is_empty() {
        panic!("no words");
    }
    panic!("on purpose: {text}");
}

/// Reads beyond the end.
#[kernel(name = "panics.index")]
fn index(values: &[i64], at: usize) -> i64 {
    values[at]
}

/// Panics with what is no text, by the hook or past it.
#[kernel(name = "panics.other")]
fn other(past_the_hook: bool) {
    if past_the_hook {
        resume_unwind(Box::new(7));
    }
    panic_any(7);
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("while it was dropped");
    }
}

/// Panics with what panics again when it is dropped.
#[kernel(name = "panics.bomb")]
fn bomb() {
    panic_any(Bomb);
}

/// Writes half of its buffer, begins to write a key, emits, and panics.
#[kernel(name = "panics.half")]
fn half(ctx: &Ctx, data: &mut [u8]) -> Result<(), Error> {
    let middle = data.len() / 2;
    data[..middle].fill(1);
    let _writer = ctx.bus().open("half", 100)?;
    ctx.bus().of_job().push("of the job", b"x")?;
    ctx.emit(middle)?;
    let _memory = ctx.memory::<u8>(1000)?;
    panic!("half way");
}

/// Catches its own panic.
#[kernel(name = "panics.caught")]
fn caught() -> bool {
    catch_unwind(|| panic!("caught")).is_err()
}

module!("panics", [words, index, other, bomb, half, caught]);
