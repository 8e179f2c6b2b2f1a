//! Futures that readers and writers wait for.

use pyo3::ffi;

use crate::ffi::{Ref, Res};
use crate::stdlib::Stdlib;

fn call<const N: usize>(name: &Ref, args: [&Ref; N]) -> Res<Ref> {
    let args = args.map(Ref::as_ptr);
    // SAFETY: attached; the arguments are live.
    unsafe {
        Ref::new(ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            args.as_ptr(),
            N,
            std::ptr::null_mut(),
        ))
    }
}

/// `future.set_result(None)` unless it is cancelled.
pub fn wake(future: &Ref) -> Res<()> {
    let names = &Stdlib::get().names;
    // SAFETY: `False` is always live.
    if call(&names.cancelled, [future])?.as_ptr() == unsafe { ffi::Py_False() } {
        call(&names.set_result, [future, &Ref::none()])?;
    }
    Ok(())
}
