//! The functions of `hybridloop_await.h`: a table in a capsule.
//!
//! The table only grows at its end. tests/awaitables checks that it and the header are equal.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr;

use pyo3::ffi::{self, PyObject, Py_ssize_t};
use pyo3::prelude::*;

use crate::awaitables::callbacks::{self, Callbacks, Saved};
use crate::awaitables::function::{self, Definition, Made};
use crate::awaitables::protocols;
use crate::awaitables::queue::{no_memory, Callback, Defer, Entry};
use crate::awaitables::returned::raise;
use crate::awaitables::state::{DropState, TraverseState, UserState};
use crate::awaitables::step::{Body, Checked, Frame, Spec};
use crate::awaitables::wait::{self, Waker};
use crate::python::coroutine::operation;
use crate::python::vectorcall::{guard, guard_int};
use crate::python::{awaitable, interpreters, FfiResult, Ref};

/// `HLA_ABI`
const ABI: u32 = 1;
/// `HLA_CAPSULE`
const CAPSULE: &CStr = c"hybridloop._core._await_v1";
const VERSION: *const c_char = concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast();
/// The name of a coroutine that the program gives none.
const NAME: &CStr = c"native coroutine";

/// `hla_table`
#[repr(C)]
struct Table {
    size: u32,
    abi: u32,
    version: *const c_char,
    new: unsafe extern "C" fn(*const c_char) -> *mut PyObject,
    add_await: unsafe extern "C" fn(
        *mut PyObject,
        *mut PyObject,
        Option<Callback>,
        Option<Callback>,
    ) -> c_int,
    add_defer: unsafe extern "C" fn(*mut PyObject, Option<Defer>) -> c_int,
    add_with: unsafe extern "C" fn(
        *mut PyObject,
        *mut PyObject,
        Option<Callback>,
        Option<Callback>,
    ) -> c_int,
    add_for: unsafe extern "C" fn(
        *mut PyObject,
        *mut PyObject,
        Option<Callback>,
        Option<Defer>,
        Option<Callback>,
    ) -> c_int,
    set_result: unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> c_int,
    clear: unsafe extern "C" fn(*mut PyObject) -> c_int,
    save: unsafe extern "C" fn(*mut PyObject, Py_ssize_t, *const *mut PyObject) -> c_int,
    values: unsafe extern "C" fn(*mut PyObject, *mut Py_ssize_t) -> *const *mut PyObject,
    set_value: unsafe extern "C" fn(*mut PyObject, Py_ssize_t, *mut PyObject) -> c_int,
    save_pointers: unsafe extern "C" fn(*mut PyObject, Py_ssize_t, *const *mut c_void) -> c_int,
    pointers: unsafe extern "C" fn(*mut PyObject, *mut Py_ssize_t) -> *mut *mut c_void,
    set_state: unsafe extern "C" fn(
        *mut PyObject,
        *mut c_void,
        Option<DropState>,
        Option<TraverseState>,
    ) -> c_int,
    state: unsafe extern "C" fn(*mut PyObject) -> *mut c_void,
    callback_type: unsafe extern "C" fn() -> *mut ffi::PyTypeObject,
    new_step: unsafe extern "C" fn(*const Spec, *mut *mut c_void) -> *mut PyObject,
    waker_new: unsafe extern "C" fn(*mut Frame) -> *mut Waker,
    add_functions: unsafe extern "C" fn(*mut PyObject, *const Definition) -> c_int,
    add_methods: unsafe extern "C" fn(*mut ffi::PyTypeObject, *const Definition) -> c_int,
}

// SAFETY: the table is constant, and so is the text that it points to.
unsafe impl Sync for Table {}

#[allow(clippy::cast_possible_truncation, reason = "the table is small")]
static TABLE: Table = Table {
    size: size_of::<Table>() as u32,
    abi: ABI,
    version: VERSION,
    new,
    add_await,
    add_defer,
    add_with,
    add_for,
    set_result,
    clear,
    save,
    values,
    set_value,
    save_pointers,
    pointers,
    set_state,
    state,
    callback_type,
    new_step,
    waker_new,
    add_functions,
    add_methods,
};

/// Adds the capsule to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // SAFETY: `module` proves attachment. The table and the name are constant. The result is a new reference, or null after an
    // error.
    let capsule = unsafe {
        let table = (&raw const TABLE).cast_mut().cast();
        Bound::from_owned_ptr_or_err(
            module.py(),
            ffi::PyCapsule_New(table, CAPSULE.as_ptr(), None),
        )?
    };
    module.add("_await_v1", capsule)
}

// Every function below is called by a program in an attached thread, with live objects, or null where it says so.

/// Text that a program passes: a constant, as in `PyMethodDef`.
pub unsafe fn constant_name(name: *const c_char) -> &'static CStr {
    if name.is_null() {
        NAME
    } else {
        // SAFETY: the header demands a constant.
        unsafe { CStr::from_ptr(name) }
    }
}

unsafe extern "C" fn new(name: *const c_char) -> *mut PyObject {
    guard(|| {
        interpreters::check_is_main()?;
        // SAFETY: the header demands a constant.
        callbacks::new(unsafe { constant_name(name) })
    })
}

/// The coroutine `aw`.
unsafe fn of<'a>(aw: *mut PyObject) -> FfiResult<&'a Callbacks> {
    if aw.is_null() {
        // SAFETY: exception classes are never released.
        return Err(raise(
            unsafe { ffi::PyExc_TypeError },
            c"expected a native coroutine, not NULL",
        ));
    }
    // SAFETY: the program passes a live object. The functions below run no Python code while they use the coroutine.
    unsafe { operation(aw) }
}

/// An argument that must not be null; an exception that is set stays.
unsafe fn not_null(object: *mut PyObject, text: &CStr) -> FfiResult<Ref> {
    // SAFETY: the program passes null or a live object, in an attached thread.
    unsafe {
        if !object.is_null() {
            return Ok(Ref::borrowed(object));
        }
        if ffi::PyErr_Occurred().is_null() {
            raise(ffi::PyExc_ValueError, text);
        }
        Err(crate::python::ErrSet)
    }
}

unsafe extern "C" fn add_await(
    aw: *mut PyObject,
    object: *mut PyObject,
    callback: Option<Callback>,
    error: Option<Callback>,
) -> c_int {
    // SAFETY: see above.
    guard_int(|| unsafe {
        let awaitable = not_null(object, c"cannot await NULL: did the call before fail?")?;
        if object == aw {
            return Err(raise(
                ffi::PyExc_ValueError,
                c"a coroutine cannot await itself",
            ));
        }
        if !awaitable::is_awaitable(&awaitable) {
            return Err(awaitable::not_awaitable(&awaitable));
        }
        of(aw)?.push(Entry::Await {
            awaitable,
            callback,
            error,
        })
    })
}

unsafe extern "C" fn add_defer(aw: *mut PyObject, callback: Option<Defer>) -> c_int {
    // SAFETY: see above.
    guard_int(|| unsafe {
        let Some(callback) = callback else {
            return Err(raise(
                ffi::PyExc_ValueError,
                c"a deferred callback must not be NULL",
            ));
        };
        of(aw)?.push(Entry::Defer(callback))
    })
}

unsafe extern "C" fn add_with(
    aw: *mut PyObject,
    manager: *mut PyObject,
    body: Option<Callback>,
    error: Option<Callback>,
) -> c_int {
    // SAFETY: see above.
    guard_int(|| unsafe {
        let manager = not_null(manager, c"the context manager is NULL")?;
        let (enter, exit) = protocols::context_manager(&manager)?;
        of(aw)?.push(Entry::With {
            enter,
            exit,
            body,
            error,
        })
    })
}

unsafe extern "C" fn add_for(
    aw: *mut PyObject,
    iterable: *mut PyObject,
    item: Option<Callback>,
    end: Option<Defer>,
    error: Option<Callback>,
) -> c_int {
    // SAFETY: see above.
    guard_int(|| unsafe {
        let iterable = not_null(iterable, c"the async iterable is NULL")?;
        protocols::check_iterable(&iterable)?;
        of(aw)?.push(Entry::For {
            iterable,
            item,
            end,
            error,
        })
    })
}

unsafe extern "C" fn set_result(aw: *mut PyObject, value: *mut PyObject) -> c_int {
    // SAFETY: see above.
    guard_int(|| unsafe {
        let value = not_null(value, c"the result is NULL: did the call before fail?")?;
        of(aw)?.set_result(value);
        Ok(())
    })
}

unsafe extern "C" fn clear(aw: *mut PyObject) -> c_int {
    // SAFETY: see above.
    guard_int(|| unsafe {
        of(aw)?.clear();
        Ok(())
    })
}

/// Runs `f` on what the coroutine has saved, which is made if `f` is to change it.
unsafe fn with_saved<R>(
    aw: *mut PyObject,
    f: impl FnOnce(&mut Saved) -> FfiResult<R>,
) -> FfiResult<R> {
    // SAFETY: see above.
    let this = unsafe { of(aw)? };
    this.saved.with(|saved| f(saved.get_or_insert_default()))
}

fn count(n: Py_ssize_t) -> FfiResult<usize> {
    // SAFETY: exception classes are never released.
    let class = unsafe { ffi::PyExc_ValueError };
    usize::try_from(n).map_err(|_| raise(class, c"the number of values is negative"))
}

unsafe extern "C" fn save(
    aw: *mut PyObject,
    n: Py_ssize_t,
    objects: *const *mut PyObject,
) -> c_int {
    // SAFETY: see above; the program passes `n` objects.
    guard_int(|| unsafe {
        let n = count(n)?;
        let mut values = Vec::new();
        values.try_reserve_exact(n).map_err(|_| no_memory())?;
        for i in 0..n {
            values.push(not_null(*objects.add(i), c"a value to save is NULL")?);
        }
        let before = with_saved(aw, |saved| Ok(std::mem::replace(&mut saved.values, values)))?;
        drop(before);
        Ok(())
    })
}

unsafe extern "C" fn values(aw: *mut PyObject, n: *mut Py_ssize_t) -> *const *mut PyObject {
    let mut found = ptr::null();
    // SAFETY: see above; `n` may be null. A `Ref` is a transparent wrapper of a pointer.
    guard_int(|| unsafe {
        let (first, len) = of(aw)?.saved.with(|saved| match saved {
            Some(saved) => (saved.values.as_ptr(), saved.values.len()),
            None => (ptr::null(), 0),
        });
        if !n.is_null() {
            *n = len.cast_signed();
        }
        found = first.cast();
        Ok(())
    });
    found
}

unsafe extern "C" fn set_value(
    aw: *mut PyObject,
    index: Py_ssize_t,
    value: *mut PyObject,
) -> c_int {
    // SAFETY: see above.
    guard_int(|| unsafe {
        let value = not_null(value, c"the value is NULL: did the call before fail?")?;
        let before = with_saved(aw, |saved| {
            let slot = usize::try_from(index)
                .ok()
                .and_then(|index| saved.values.get_mut(index));
            match slot {
                Some(slot) => Ok(std::mem::replace(slot, value)),
                None => Err(raise(
                    ffi::PyExc_IndexError,
                    c"the coroutine has no saved value with this index",
                )),
            }
        })?;
        drop(before);
        Ok(())
    })
}

unsafe extern "C" fn save_pointers(
    aw: *mut PyObject,
    n: Py_ssize_t,
    pointers: *const *mut c_void,
) -> c_int {
    // SAFETY: see above; the program passes `n` pointers.
    guard_int(|| unsafe {
        let n = count(n)?;
        with_saved(aw, |saved| {
            let mut copied = Vec::new();
            copied.try_reserve_exact(n).map_err(|_| no_memory())?;
            copied.extend((0..n).map(|i| *pointers.add(i)));
            saved.pointers = copied;
            Ok(())
        })
    })
}

unsafe extern "C" fn pointers(aw: *mut PyObject, n: *mut Py_ssize_t) -> *mut *mut c_void {
    let mut found = ptr::null_mut();
    // SAFETY: see above; `n` may be null.
    guard_int(|| unsafe {
        let (first, len) = of(aw)?.saved.with(|saved| match saved {
            Some(saved) => (saved.pointers.as_mut_ptr(), saved.pointers.len()),
            None => (ptr::null_mut(), 0),
        });
        if !n.is_null() {
            *n = len.cast_signed();
        }
        found = first;
        Ok(())
    });
    found
}

unsafe extern "C" fn set_state(
    aw: *mut PyObject,
    pointer: *mut c_void,
    drop_state: Option<DropState>,
    traverse: Option<TraverseState>,
) -> c_int {
    // SAFETY: see above.
    guard_int(|| unsafe {
        let state = UserState {
            pointer,
            drop: drop_state,
            traverse,
        };
        let this = match of(aw) {
            Ok(this) => this,
            Err(raised) => {
                // The program still owns its memory.
                std::mem::forget(state);
                return Err(raised);
            }
        };
        let before = this
            .saved
            .with(|saved| saved.get_or_insert_default().state.replace(state));
        drop(before);
        Ok(())
    })
}

unsafe extern "C" fn state(aw: *mut PyObject) -> *mut c_void {
    let mut found = ptr::null_mut();
    // SAFETY: see above.
    guard_int(|| unsafe {
        let state = of(aw)?.saved.with(|saved| {
            let state = saved.as_ref().and_then(|saved| saved.state.as_ref());
            state.map(|state| state.pointer)
        });
        found = state.unwrap_or(ptr::null_mut());
        Ok(())
    });
    found
}

unsafe extern "C" fn callback_type() -> *mut ffi::PyTypeObject {
    callbacks::class()
}

unsafe extern "C" fn new_step(spec: *const Spec, state: *mut *mut c_void) -> *mut PyObject {
    // SAFETY: the header demands a constant; `state` may be null.
    guard(|| unsafe {
        interpreters::check_is_main()?;
        let spec = Checked::new(spec)?;
        let made = Made::new(spec, spec.name(NAME))?;
        if !state.is_null() {
            *state = made.state();
        }
        Ok(made.object)
    })
}

unsafe extern "C" fn waker_new(frame: *mut Frame) -> *mut Waker {
    // SAFETY: the program passes the frame of its step.
    wait::new_waker(&unsafe { Body::of(frame) }.waiting)
}

unsafe extern "C" fn add_functions(module: *mut PyObject, table: *const Definition) -> c_int {
    // SAFETY: the program passes a module and a constant table that ends with a null name.
    guard_int(|| unsafe {
        interpreters::check_is_main()?;
        let module = not_null(module, c"the module is NULL")?;
        function::add_functions(&module, table)
    })
}

unsafe extern "C" fn add_methods(class: *mut ffi::PyTypeObject, table: *const Definition) -> c_int {
    // SAFETY: the program passes a type and a constant table that ends with a null name.
    guard_int(|| unsafe {
        interpreters::check_is_main()?;
        let class = not_null(class.cast(), c"the type is NULL")?;
        function::add_methods(&class, table)
    })
}
