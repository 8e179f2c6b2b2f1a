//! asyncio futures, as far as waiting for them goes.

use pyo3::ffi;

use super::fastcall::{Raised, Res};
use super::refs::Ref;
use crate::stdlib::Stdlib;

/// Tells the task that `future` is what its coroutine waits for, as `Future.__await__` does.
pub fn block(future: &Ref) -> Res<()> {
    let name = &Stdlib::get().names._asyncio_future_blocking;
    // SAFETY: attached; all three are live.
    let failed = unsafe { ffi::PyObject_SetAttr(future.as_ptr(), name.as_ptr(), ffi::Py_True()) };
    if failed != 0 {
        return Err(Raised);
    }
    Ok(())
}
