//! Panics of kernels: what is said of one goes into the error of its job, with the place, and not to stderr as well.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{catch_unwind, set_hook, take_hook, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Code, Error};

#[derive(Default)]
enum Here {
    /// No kernel runs in this thread.
    #[default]
    Nothing,
    Kernel,
    /// It has panicked, with these words.
    Panicked(String),
}

thread_local! {
    static HERE: RefCell<Here> = const { RefCell::new(Here::Nothing) };
}

/// Runs the body of a kernel; a panic becomes an error.
pub(crate) fn catch<T>(body: impl FnOnce() -> T) -> Result<T, Error> {
    listen();
    let before = HERE.replace(Here::Kernel);
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let here = HERE.replace(before);
    outcome.map_err(|payload| {
        let text = match here {
            Here::Panicked(text) => text,
            // Somebody has put another hook in the place of this one, or has only passed the payload on.
            Here::Nothing | Here::Kernel => words(&*payload).to_owned(),
        };
        // Dropping what somebody panicked with may panic itself.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Error::new(Code::Panic, text)
    })
}

fn words(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        Code::Panic.description()
    }
}

/// Puts a hook before the one that is there, once for the library.
fn listen() {
    // Not `Once`, in which the child of a fork would wait for a thread that it does not have.
    static DONE: AtomicBool = AtomicBool::new(false);
    // A panic that ends the process has nobody else to tell of it.
    if cfg!(panic = "unwind") && !DONE.swap(true, Ordering::Relaxed) {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !note(info) {
                before(info);
            }
        }));
    }
}

/// Whether it is the panic of a kernel, which will be told. A second one while the first unwinds may end the process: then
/// both have to be said.
fn note(info: &PanicHookInfo<'_>) -> bool {
    let noted = HERE.try_with(|here| {
        let Ok(mut here) = here.try_borrow_mut() else {
            return false;
        };
        match &*here {
            Here::Nothing => false,
            Here::Kernel => {
                let text = words(info.payload());
                *here = Here::Panicked(match info.location() {
                    Some(location) => format!("{text} ({location})"),
                    None => text.to_owned(),
                });
                true
            }
            Here::Panicked(first) => {
                eprintln!("a kernel panicked: {first}");
                false
            }
        }
    });
    noted.unwrap_or(false)
}
