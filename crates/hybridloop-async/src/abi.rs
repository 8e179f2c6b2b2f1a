//! `hybridloop_await.h` in Rust, as far as this crate needs it. tests/awaitables runs against the table itself.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi::{self, PyObject, PyTypeObject, Py_ssize_t};
use pyo3::prelude::*;

/// `HLA_ABI`
const ABI: u32 = 1;
/// `HLA_CAPSULE`
const CAPSULE: &CStr = c"hybridloop._core._await_v1";

/// `HLA_STEP_*`
pub mod status {
    use std::ffi::c_int;

    pub const RERAISE: c_int = -2;
    pub const ERROR: c_int = -1;
    pub const RETURN: c_int = 0;
    pub const AWAIT: c_int = 1;
    pub const SLEEP0: c_int = 2;
    pub const WAIT: c_int = 3;
}

/// `hla_frame`
#[repr(C)]
pub struct Frame {
    pub slf: *mut PyObject,
    pub state: *mut c_void,
    pub value: *mut PyObject,
    pub error: *mut PyObject,
    pub out: *mut PyObject,
    line: c_int,
    reserved: u32,
}

/// `hla_spec`
#[repr(C)]
pub struct Spec {
    pub size: usize,
    pub qualname: *const c_char,
    pub step: unsafe extern "C" fn(*mut Frame) -> c_int,
    pub state_size: usize,
    pub traverse: *const c_void,
    pub drop: unsafe extern "C" fn(*mut c_void),
    pub flags: u32,
    pub reserved: u32,
}

// SAFETY: a spec is constant, and so is the text that it points to.
unsafe impl Sync for Spec {}

/// `init` of `hla_function`
pub type Init = unsafe extern "C" fn(
    *mut c_void,
    *mut PyObject,
    *const *mut PyObject,
    Py_ssize_t,
    *mut PyObject,
) -> c_int;

/// `hla_function`
#[repr(C)]
pub struct Function {
    pub name: *const c_char,
    pub spec: *const Spec,
    pub doc: *const c_char,
    pub init: Option<Init>,
}

/// `hla_waker`
#[repr(C)]
pub struct Waker {
    functions: *const WakerFunctions,
}

/// `hla_waker_functions`
#[repr(C)]
struct WakerFunctions {
    clone: unsafe extern "C" fn(*mut Waker) -> *mut Waker,
    wake: unsafe extern "C" fn(*mut Waker),
    drop: unsafe extern "C" fn(*mut Waker),
}

impl Waker {
    /// `hla_wake()`
    ///
    /// # Safety
    /// The caller has `waker`, and gives it up.
    pub unsafe fn wake(waker: *mut Self) {
        // SAFETY: a waker begins with its functions.
        unsafe { ((*(*waker).functions).wake)(waker) }
    }

    /// `hla_waker_drop()`
    ///
    /// # Safety
    /// The caller has `waker`, and gives it up.
    pub unsafe fn drop(waker: *mut Self) {
        // SAFETY: a waker begins with its functions.
        unsafe { ((*(*waker).functions).drop)(waker) }
    }
}

/// `hla_table`
#[repr(C)]
pub struct Table {
    size: u32,
    abi: u32,
    version: *const c_char,
    /// The functions of the callback form.
    callbacks: [*const c_void; 15],
    pub new_step: unsafe extern "C" fn(*const Spec, *mut *mut c_void) -> *mut PyObject,
    pub waker_new: unsafe extern "C" fn(*mut Frame) -> *mut Waker,
    pub add_functions: unsafe extern "C" fn(*mut PyObject, *const Function) -> c_int,
    pub add_methods: unsafe extern "C" fn(*mut PyTypeObject, *const Function) -> c_int,
}

/// The table that was found.
static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());

/// The table; imports hybridloop on first use.
pub fn table(py: Python<'_>) -> PyResult<&'static Table> {
    let found = TABLE.load(Ordering::Acquire);
    let table = if found.is_null() { import(py)? } else { found };
    // SAFETY: `import` has checked the table, which lives as long as the process.
    Ok(unsafe { &*table })
}

/// The table, for what runs in a coroutine, which was made with it.
pub fn imported() -> &'static Table {
    // SAFETY: the caller runs in a coroutine, so `table` has found the table.
    unsafe { &*TABLE.load(Ordering::Acquire) }
}

#[cold]
fn import(py: Python<'_>) -> PyResult<*mut Table> {
    // First, because `PyCapsule_Import` does not say why an import fails.
    py.import("hybridloop")?;
    // SAFETY: the name is constant.
    let table = unsafe { ffi::PyCapsule_Import(CAPSULE.as_ptr(), 0) }.cast::<Table>();
    if table.is_null() {
        let error = PyErr::fetch(py);
        if error.is_instance_of::<pyo3::exceptions::PyAttributeError>(py) {
            return Err(mismatch("(an older one)", 0, 0));
        }
        return Err(error);
    }
    // SAFETY: the capsule of this name holds a table, whose first fields are there in every version.
    let (size, abi, version) = unsafe {
        let version = CStr::from_ptr((*table).version).to_string_lossy();
        ((*table).size, (*table).abi, version)
    };
    if abi != ABI || (size as usize) < size_of::<Table>() {
        return Err(mismatch(&version, abi, size));
    }
    TABLE.store(table, Ordering::Release);
    Ok(table)
}

fn mismatch(version: &str, abi: u32, size: u32) -> PyErr {
    let needed = size_of::<Table>();
    PyImportError::new_err(format!(
        "this module needs hybridloop with version {ABI} of hybridloop_await.h ({needed} bytes), \
         but hybridloop {version} has version {abi} ({size} bytes)"
    ))
}

extern "C" {
    /// In the limited API from Python 3.12 on, but exported as well by 3.11.
    pub fn PyObject_Vectorcall(
        callable: *mut PyObject,
        args: *const *mut PyObject,
        nargs: usize,
        kwnames: *mut PyObject,
    ) -> *mut PyObject;
}
