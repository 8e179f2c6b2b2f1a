//! Panics of kernels. The message goes to the error of the job, with the location, and not to stderr.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{catch_unwind, set_hook, take_hook, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Code, Error};

/// What a thread does.
#[derive(Default)]
enum ThreadState {
    /// No kernel runs.
    #[default]
    Idle,
    /// A kernel runs.
    Kernel,
    /// The kernel has panicked with this message.
    Panicked(String),
}

thread_local! {
    static STATE: RefCell<ThreadState> = const { RefCell::new(ThreadState::Idle) };
}

/// Runs the body of a kernel; a panic becomes an error.
pub(crate) fn catch<T>(body: impl FnOnce() -> T) -> Result<T, Error> {
    install_hook();
    let before = STATE.replace(ThreadState::Kernel);
    let result = catch_unwind(AssertUnwindSafe(body));
    let state = STATE.replace(before);
    result.map_err(|payload| {
        let text = match state {
            ThreadState::Panicked(text) => text,
            // The hook was replaced, or the kernel resumed a panic that it had caught.
            ThreadState::Idle | ThreadState::Kernel => message(&*payload).to_owned(),
        };
        // The drop of a payload may panic itself.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Error::new(Code::Panic, text)
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        Code::Panic.description()
    }
}

/// Installs a panic hook in front of the present one, once per library.
fn install_hook() {
    // Not a `Once`: in the child of a fork it would wait for a thread of the parent.
    static DONE: AtomicBool = AtomicBool::new(false);
    // With `panic = "abort"` the present hook has to report the panic.
    if cfg!(panic = "unwind") && !DONE.swap(true, Ordering::Relaxed) {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !record_panic(info) {
                before(info);
            }
        }));
    }
}

/// Keeps the message if a kernel panics; `false` if the present hook has to report the panic. So it is with a second panic
/// while the first unwinds, which may end the process: then both are printed.
fn record_panic(info: &PanicHookInfo<'_>) -> bool {
    let recorded = STATE.try_with(|state| {
        let Ok(mut state) = state.try_borrow_mut() else {
            return false;
        };
        match &*state {
            ThreadState::Idle => false,
            ThreadState::Kernel => {
                let text = message(info.payload());
                *state = ThreadState::Panicked(match info.location() {
                    Some(location) => format!("{text} ({location})"),
                    None => text.to_owned(),
                });
                true
            }
            ThreadState::Panicked(first) => {
                eprintln!("a kernel panicked: {first}");
                false
            }
        }
    });
    recorded.unwrap_or(false)
}
