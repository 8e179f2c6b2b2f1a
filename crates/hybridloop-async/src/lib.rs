#![doc = include_str!("../README.md")]

mod abi;
mod asyncio;
mod awaiting;
mod cancel;
mod current;
mod cx;
mod driven;
mod functions;
mod listener;
mod panics;
mod sleep;
mod task;
mod waker;

pub use awaiting::Awaiting;
pub use cancel::OnCancel;
pub use cx::{await_py, into_awaitable, Cx};
pub use functions::{add_class, import};
pub use hybridloop_async_macros::{function, methods};
pub use sleep::Sleep;

/// Adds functions with the attribute [`function`] to a module: `add_functions!(module, fetch, store)?`.
///
/// In Python they are of the class `hybridloop.AsyncFunction`, which `inspect.iscoroutinefunction()` takes for `async def`.
#[macro_export]
macro_rules! add_functions {
    ($module:expr, $($function:path),+ $(,)?) => {
        (|module: &$crate::__private::Module<'_>| {
            $({
                use $function as the_function;
                $crate::__private::add::<the_function::Function>(module)?;
            })+
            ::core::result::Result::Ok::<(), $crate::__private::Error>(())
        })($module)
    };
}

/// What the macros expand to; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::abi::Init;
    pub use crate::functions::{add, deliver, init, Function, Method, Methods, Target};
    pub use pyo3::ffi::{PyObject, Py_ssize_t};
    pub type Module<'py> = pyo3::Bound<'py, pyo3::types::PyModule>;
    pub type Error = pyo3::PyErr;
}
