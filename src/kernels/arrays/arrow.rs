//! The C data interface of Apache Arrow: arrays of other libraries, and results as arrays, without a copy. Only numbers.

use std::ffi::{c_char, c_void, CStr};
use std::ptr;

use hybridloop_kernels::{Buffer, View};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::kernels::arrays::shape;
use crate::python::vectorcall::keep_error;

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";

/// `struct ArrowSchema`
#[repr(C)]
struct Schema {
    format: *const c_char,
    name: *const c_char,
    metadata: *const c_char,
    flags: i64,
    children_count: i64,
    children: *mut *mut Self,
    dictionary: *mut Self,
    release: Option<unsafe extern "C" fn(*mut Self)>,
    private: *mut c_void,
}

/// `struct ArrowArray`
#[repr(C)]
struct Array {
    length: i64,
    null_count: i64,
    offset: i64,
    buffer_count: i64,
    children_count: i64,
    buffers: *mut *const c_void,
    children: *mut *mut Self,
    dictionary: *mut Self,
    release: Option<unsafe extern "C" fn(*mut Self)>,
    private: *mut c_void,
}

/// An array that was moved out of its capsule, and the type of its elements. Dropping it, in a thread that is attached to the
/// interpreter, releases it.
pub struct ImportedArray {
    array: Array,
    format: &'static CStr,
    itemsize: usize,
}

// SAFETY: whoever moves an array out may use it in any thread. Releasing it may need attachment, which this type's contract
// demands.
unsafe impl Send for ImportedArray {}
// SAFETY: a shared reference only reads the structure, which does not change.
unsafe impl Sync for ImportedArray {}

impl Drop for ImportedArray {
    fn drop(&mut self) {
        if let Some(release) = self.array.release {
            // SAFETY: the array was moved here, so nobody else releases it; the thread is attached, as the type's contract demands.
            unsafe { keep_error(|| release(&raw mut self.array)) };
        }
    }
}

fn pointer<T>(capsule: &Bound<'_, PyAny>, name: &CStr) -> PyResult<*mut T> {
    // SAFETY: a `Bound` proves attachment and is live.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) == 0 {
            return Err(PyTypeError::new_err(format!(
                "__arrow_c_array__() has to return a capsule '{}'",
                name.to_string_lossy()
            )));
        }
        Ok(ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr()).cast())
    }
}

fn format_of(schema: &Schema) -> PyResult<(&'static CStr, usize)> {
    let text = if schema.format.is_null() {
        c""
    } else {
        // SAFETY: the format of a schema that is not released is a C string.
        unsafe { CStr::from_ptr(schema.format) }
    };
    let simple = match text.to_bytes() {
        b"c" => Some((c"b", 1)),
        b"C" => Some((c"B", 1)),
        b"s" => Some((c"h", 2)),
        b"S" => Some((c"H", 2)),
        b"i" => Some((c"i", 4)),
        b"I" => Some((c"I", 4)),
        b"l" => Some((c"q", 8)),
        b"L" => Some((c"Q", 8)),
        b"e" => Some((c"e", 2)),
        b"f" => Some((c"f", 4)),
        b"g" => Some((c"d", 8)),
        _ => None,
    };
    let text = text.to_string_lossy();
    let reason = match (simple, &*text) {
        _ if !schema.dictionary.is_null() => "encoded by a dictionary",
        (Some(simple), _) if schema.children_count == 0 => return Ok(simple),
        (_, "b") => "bool, which Arrow packs into bits",
        (_, "n") => "null",
        (_, "u" | "U" | "vu") => "text",
        (_, "z" | "Z" | "vz") => "bytes of any length",
        _ if text.starts_with('t') => "times, which can be cast to integers",
        _ if text.starts_with('d') => "decimals",
        _ if text.starts_with('+') => "nested",
        _ => "of another type",
    };
    Err(PyBufferError::new_err(format!(
        "the Arrow array is no array of numbers: it is {reason} (format '{text}')"
    )))
}

/// The array of an object that has `__arrow_c_array__()`.
pub fn import(object: &Bound<'_, PyAny>) -> PyResult<ImportedArray> {
    let capsules = object.call_method0("__arrow_c_array__")?;
    let (schema, array) = capsules.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
    let schema: *mut Schema = pointer(&schema, SCHEMA)?;
    let array: *mut Array = pointer(&array, ARRAY)?;
    // SAFETY: capsules of these names have such structures, which they own until they are marked as released. The capsules are
    // live, because `capsules` is.
    let (schema, array) = unsafe { (&*schema, &mut *array) };
    if schema.release.is_none() || array.release.is_none() {
        return Err(PyBufferError::new_err(
            "somebody else has taken the Arrow array out of its capsule",
        ));
    }
    let (format, itemsize) = format_of(schema)?;
    // The interface allows to move an array by copying it, and marking the source as released.
    // SAFETY: the structure is valid, and its copy in `array` is no longer used.
    let moved = unsafe { ptr::read(array) };
    array.release = None;
    Ok(ImportedArray {
        array: moved,
        format,
        itemsize,
    })
}

impl ImportedArray {
    /// Its memory.
    ///
    /// # Errors
    /// `BufferError` for an array with nulls, or one that is not valid.
    pub fn describe(&self) -> PyResult<Buffer> {
        let array = &self.array;
        let invalid = || PyBufferError::new_err("the Arrow array is not valid");
        let length = usize::try_from(array.length).map_err(|_| invalid())?;
        let offset = usize::try_from(array.offset).map_err(|_| invalid())?;
        if array.buffer_count != 2 || array.buffers.is_null() || array.children_count != 0 {
            return Err(invalid());
        }
        // SAFETY: an array of numbers has two buffers: the bits that say what is valid, and the elements.
        let (valid, data) = unsafe {
            (
                (*array.buffers).cast::<u8>(),
                (*array.buffers.add(1)).cast::<u8>(),
            )
        };
        let end = offset.checked_add(length).ok_or_else(invalid)?;
        let nulls = match usize::try_from(array.null_count) {
            Ok(count) => count,
            Err(_) if valid.is_null() => 0,
            // SAFETY: there is a bit for each element, also for those before the offset.
            Err(_) => (offset..end)
                .filter(|&i| unsafe { *valid.add(i / 8) } >> (i % 8) & 1 == 0)
                .count(),
        };
        if nulls > 0 {
            return Err(PyBufferError::new_err(format!(
                "the Arrow array has {nulls} nulls, for which kernels have no value; fill them first"
            )));
        }
        let start = offset.checked_mul(self.itemsize).ok_or_else(invalid)?;
        let data = if data.is_null() {
            data
        } else {
            data.wrapping_add(start)
        };
        // SAFETY: the producer guarantees the elements until the array is released, which the caller delays until the buffer is
        // no longer used, and that they never change.
        let mut buffer =
            unsafe { shape::array(data, self.format, self.itemsize, &[array.length], None) }?;
        buffer.immutable = true;
        Ok(buffer)
    }
}

unsafe extern "C" fn release_schema(schema: *mut Schema) {
    // SAFETY: the interface passes a live schema. Its strings are static, so nothing is freed.
    unsafe { (*schema).release = None };
}

/// What an exported array points to.
struct Exported {
    buffers: [*const c_void; 2],
    _view: View,
}

unsafe extern "C" fn release_array(array: *mut Array) {
    // SAFETY: the interface passes a live array, once; its private pointer is the box that `export` has leaked.
    unsafe {
        drop(Box::from_raw((*array).private.cast::<Exported>()));
        (*array).release = None;
    }
}

unsafe extern "C" fn delete_schema(capsule: *mut ffi::PyObject) {
    // SAFETY: CPython calls the destructor of a live capsule once, attached. The box is that of the capsule.
    unsafe {
        let schema = ffi::PyCapsule_GetPointer(capsule, SCHEMA.as_ptr()).cast::<Schema>();
        drop(Box::from_raw(schema));
    }
}

unsafe extern "C" fn delete_array(capsule: *mut ffi::PyObject) {
    // SAFETY: as in `delete_schema`. A consumer that has moved the array has marked this one as released.
    unsafe {
        let array = ffi::PyCapsule_GetPointer(capsule, ARRAY.as_ptr()).cast::<Array>();
        if let Some(release) = (*array).release {
            release(array);
        }
        drop(Box::from_raw(array));
    }
}

/// A capsule that owns a structure.
fn capsule<'py, T>(
    py: Python<'py>,
    content: T,
    name: &'static CStr,
    delete: unsafe extern "C" fn(*mut ffi::PyObject),
) -> Result<Bound<'py, PyAny>, (PyErr, Box<T>)> {
    let raw = Box::into_raw(Box::new(content));
    // SAFETY: the box was leaked just now. If there is no capsule, nobody else knows it.
    unsafe {
        let capsule = ffi::PyCapsule_New(raw.cast(), name.as_ptr(), Some(delete));
        Bound::from_owned_ptr_or_err(py, capsule).map_err(|error| (error, Box::from_raw(raw)))
    }
}

/// `__arrow_c_schema__()`: a capsule with the type of a view.
///
/// # Errors
/// `BufferError` if Arrow has no such type, or the view has not exactly one dimension.
pub fn export_schema<'py>(
    py: Python<'py>,
    view: &View,
    ndim: usize,
) -> PyResult<Bound<'py, PyAny>> {
    if ndim != 1 {
        return Err(PyBufferError::new_err(format!(
            "an Arrow array has one dimension, and this NativeBuffer has {ndim}"
        )));
    }
    let format = match (shape::code(view.format()), view.itemsize()) {
        (Some(b"b"), 1) => c"c",
        (Some(b"B"), 1) => c"C",
        (Some(b"h"), 2) => c"s",
        (Some(b"H"), 2) => c"S",
        (Some(b"i" | b"l"), 4) => c"i",
        (Some(b"I" | b"L"), 4) => c"I",
        (Some(b"l" | b"q" | b"n"), 8) => c"l",
        (Some(b"L" | b"Q" | b"N"), 8) => c"L",
        (Some(b"e"), 2) => c"e",
        (Some(b"f"), 4) => c"f",
        (Some(b"d"), 8) => c"g",
        _ => {
            return Err(PyBufferError::new_err(format!(
                "Arrow has no type for elements of the format '{}'",
                view.format().to_string_lossy()
            )))
        }
    };
    let schema = Schema {
        format: format.as_ptr(),
        name: c"".as_ptr(),
        metadata: ptr::null(),
        flags: 0,
        children_count: 0,
        children: ptr::null_mut(),
        dictionary: ptr::null_mut(),
        release: Some(release_schema),
        private: ptr::null_mut(),
    };
    capsule(py, schema, SCHEMA, delete_schema).map_err(|(error, _)| error)
}

/// `__arrow_c_array__()`: capsules with the type and the memory of a view.
///
/// # Errors
/// As [`export_schema`].
pub fn export<'py>(py: Python<'py>, view: &View, ndim: usize) -> PyResult<Bound<'py, PyTuple>> {
    let schema = export_schema(py, view, ndim)?;
    let mut exported = Box::new(Exported {
        buffers: [ptr::null(), view.as_ptr().cast()],
        _view: view.clone(),
    });
    let array = Array {
        length: (view.len() / view.itemsize()).cast_signed() as i64,
        null_count: 0,
        offset: 0,
        buffer_count: 2,
        children_count: 0,
        buffers: exported.buffers.as_mut_ptr(),
        children: ptr::null_mut(),
        dictionary: ptr::null_mut(),
        release: Some(release_array),
        private: Box::into_raw(exported).cast(),
    };
    let array = capsule(py, array, ARRAY, delete_array).map_err(|(error, mut array)| {
        // SAFETY: the array was made just now, and no capsule owns it.
        unsafe { release_array(&raw mut *array) };
        error
    })?;
    PyTuple::new(py, [schema, array])
}
