//! DLPack: tensors of other libraries, and results as tensors, without a copy. Only memory of the CPU.

use std::ffi::{c_void, CStr};
use std::ptr::{self, NonNull};

use hybridloop_kernels::{Buffer, View};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::kernels::arrays::shape::{self, ArrayError};
use crate::python::vectorcall::keep_error;

const TENSOR: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
const USED_TENSOR: &CStr = c"used_dltensor";
const USED_VERSIONED: &CStr = c"used_dltensor_versioned";

/// The version of the structures below. Another minor version has the same structures.
const MAJOR: u32 = 1;
const MINOR: u32 = 0;
/// `kDLCPU`
const CPU: i32 = 1;
const READ_ONLY: u64 = 1;
const IS_COPIED: u64 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
struct Device {
    kind: i32,
    id: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `DLTensor`
#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    /// In elements; null if there are no gaps.
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensor`
#[repr(C)]
pub struct Legacy {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// `DLManagedTensorVersioned`
#[repr(C)]
pub struct Versioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
    flags: u64,
    tensor: Tensor,
}

/// A tensor that was taken out of its capsule. Dropping it, in a thread that is attached to the interpreter, calls its deleter.
pub enum ManagedTensor {
    Legacy(NonNull<Legacy>),
    Versioned(NonNull<Versioned>),
}

// SAFETY: whoever takes a tensor may use it in any thread. Its deleter may need attachment, which this type's contract demands.
unsafe impl Send for ManagedTensor {}
// SAFETY: a shared reference only reads the structure, which does not change.
unsafe impl Sync for ManagedTensor {}

impl Drop for ManagedTensor {
    fn drop(&mut self) {
        // SAFETY: the tensor was taken out of a capsule that had not been used, so this calls its deleter once. The thread is
        // attached, as the type's contract demands.
        unsafe {
            match *self {
                Self::Legacy(tensor) => {
                    if let Some(deleter) = tensor.as_ref().deleter {
                        keep_error(|| deleter(tensor.as_ptr()));
                    }
                }
                Self::Versioned(tensor) => {
                    if let Some(deleter) = tensor.as_ref().deleter {
                        keep_error(|| deleter(tensor.as_ptr()));
                    }
                }
            }
        }
    }
}

/// A pointer out of a capsule with the name `from`, which is marked as used; `None` if it has another name.
fn consume<T>(
    capsule: &Bound<'_, PyAny>,
    from: &'static CStr,
    used: &'static CStr,
) -> PyResult<Option<NonNull<T>>> {
    let object = capsule.as_ptr();
    // SAFETY: a `Bound` proves attachment and is live; the names are static.
    unsafe {
        if ffi::PyCapsule_IsValid(object, from.as_ptr()) == 0 {
            return Ok(None);
        }
        let pointer = ffi::PyCapsule_GetPointer(object, from.as_ptr());
        if ffi::PyCapsule_SetName(object, used.as_ptr()) != 0 {
            return Err(PyErr::fetch(capsule.py()));
        }
        Ok(NonNull::new(pointer.cast()))
    }
}

impl ManagedTensor {
    /// Takes the tensor out of a capsule of `__dlpack__()`.
    fn take(capsule: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Some(tensor) = consume(capsule, VERSIONED, USED_VERSIONED)? {
            let this = Self::Versioned(tensor);
            // SAFETY: a capsule of this name has a tensor with a version, whose first fields are the same in all versions.
            let (major, minor) = unsafe { (tensor.as_ref().major, tensor.as_ref().minor) };
            if major != MAJOR {
                drop(this);
                return Err(PyBufferError::new_err(format!(
                    "DLPack {major}.{minor} is not supported, only {MAJOR}"
                )));
            }
            return Ok(this);
        }
        if let Some(tensor) = consume(capsule, TENSOR, USED_TENSOR)? {
            return Ok(Self::Legacy(tensor));
        }
        Err(PyTypeError::new_err(
            "__dlpack__() has to return a capsule 'dltensor' or 'dltensor_versioned' that nobody has used",
        ))
    }

    fn tensor(&self) -> &Tensor {
        // SAFETY: the structure stays where it is until the deleter is called, which needs `&mut self`.
        unsafe {
            match self {
                Self::Legacy(tensor) => &tensor.as_ref().tensor,
                Self::Versioned(tensor) => &tensor.as_ref().tensor,
            }
        }
    }

    /// Whether the consumer may write to it, and the producer sees that. A tensor without a version does not say so.
    fn is_writable(&self) -> bool {
        match self {
            Self::Legacy(_) => false,
            Self::Versioned(tensor) => {
                // SAFETY: as in `tensor`.
                let flags = unsafe { tensor.as_ref() }.flags;
                flags & (READ_ONLY | IS_COPIED) == 0
            }
        }
    }

    /// Whether the producer says that it is read-only.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Legacy(_) => false,
            // SAFETY: as in `tensor`.
            Self::Versioned(tensor) => unsafe { tensor.as_ref() }.flags & READ_ONLY != 0,
        }
    }

    /// Its memory.
    ///
    /// # Errors
    /// `BufferError` for a device or elements that kernels cannot use.
    pub fn describe(&self) -> PyResult<Buffer> {
        let tensor = self.tensor();
        check_device(i64::from(tensor.device.kind))?;
        let (format, itemsize) = format_of(tensor.dtype)?;
        let Ok(ndim @ 0..=shape::MAX_NDIM) = usize::try_from(tensor.ndim) else {
            return Err(ArrayError::Dimensions(i64::from(tensor.ndim)).into());
        };
        let numbers = |start: *const i64| {
            if ndim == 0 || start.is_null() {
                return None;
            }
            // SAFETY: the shape and the strides of a tensor are null or `ndim` numbers, and live as long as it.
            Some(unsafe { std::slice::from_raw_parts(start, ndim) })
        };
        let shape = numbers(tensor.shape);
        if shape.is_none() && ndim > 0 {
            return Err(PyBufferError::new_err("the tensor has no shape"));
        }
        let offset = usize::try_from(tensor.byte_offset).unwrap_or(usize::MAX);
        let data = tensor.data.cast_const().cast::<u8>().wrapping_add(offset);
        // SAFETY: the producer guarantees a shape and strides that lead into memory that lives as long as the tensor, which the
        // caller keeps until the buffer is no longer used.
        let mut buffer = unsafe {
            shape::array(
                data,
                format,
                itemsize,
                shape.unwrap_or_default(),
                numbers(tensor.strides),
            )
        }?;
        buffer.writable = self.is_writable();
        Ok(buffer)
    }
}

fn check_device(kind: i64) -> PyResult<()> {
    if kind == i64::from(CPU) {
        return Ok(());
    }
    let name = match kind {
        2 | 13 => " (CUDA)",
        3 => " (pinned memory of CUDA)",
        8 => " (Metal)",
        10 | 11 => " (ROCm)",
        14 => " (oneAPI)",
        _ => "",
    };
    Err(PyBufferError::new_err(format!(
        "the tensor is on a device of type {kind}{name}; kernels need it on the CPU"
    )))
}

fn format_of(dtype: DataType) -> PyResult<(&'static CStr, usize)> {
    Ok(match (dtype.code, dtype.bits, dtype.lanes) {
        (0, 8, 1) => (c"b", 1),
        (0, 16, 1) => (c"h", 2),
        (0, 32, 1) => (c"i", 4),
        (0, 64, 1) => (c"q", 8),
        (1, 8, 1) => (c"B", 1),
        (1, 16, 1) => (c"H", 2),
        (1, 32, 1) => (c"I", 4),
        (1, 64, 1) => (c"Q", 8),
        (2, 16, 1) => (c"e", 2),
        (2, 32, 1) => (c"f", 4),
        (2, 64, 1) => (c"d", 8),
        (5, 64, 1) => (c"Zf", 8),
        (5, 128, 1) => (c"Zd", 16),
        (6, 8, 1) => (c"?", 1),
        (code, bits, lanes) => {
            let name = match code {
                0 => "int",
                1 => "uint",
                2 => "float",
                4 => "bfloat",
                5 => "complex",
                6 => "bool",
                _ => "of an unknown type",
            };
            return Err(PyBufferError::new_err(format!(
                "the tensor has elements that kernels do not know: {name}, {bits} bits, {lanes} lanes (code {code}); view it as another type"
            )));
        }
    })
}

fn dtype_of(format: &CStr, itemsize: usize) -> Option<DataType> {
    let code = match shape::code(format)? {
        b"b" | b"h" | b"i" | b"l" | b"q" | b"n" => 0,
        b"B" | b"H" | b"I" | b"L" | b"Q" | b"N" => 1,
        b"e" | b"f" | b"d" => 2,
        b"Zf" | b"Zd" => 5,
        b"?" => 6,
        _ => return None,
    };
    Some(DataType {
        code,
        bits: u8::try_from(itemsize * 8).ok()?,
        lanes: 1,
    })
}

/// The tensor of an object that has `__dlpack__()`.
pub fn import(object: &Bound<'_, PyAny>) -> PyResult<ManagedTensor> {
    let py = object.py();
    if let Some(device) = object.getattr_opt("__dlpack_device__")? {
        check_device(device.call0()?.get_item(0)?.extract()?)?;
    }
    let method = object.getattr("__dlpack__")?;
    let keywords = PyDict::new(py);
    keywords.set_item("max_version", (MAJOR, MINOR))?;
    let capsule = match method.call((), Some(&keywords)) {
        // Before version 1 there was no such keyword.
        Err(error) if error.is_instance_of::<PyTypeError>(py) => method.call0()?,
        called => called?,
    };
    ManagedTensor::take(&capsule)
}

/// A tensor that was exported, with what it points to.
struct Exported {
    versioned: Versioned,
    legacy: Legacy,
    shape: Box<[i64]>,
    strides: Box<[i64]>,
    _view: View,
}

unsafe extern "C" fn delete_versioned(tensor: *mut Versioned) {
    // SAFETY: the context is the box that `export` has leaked, and a deleter is called once.
    unsafe { drop(Box::from_raw((*tensor).context.cast::<Exported>())) };
}

unsafe extern "C" fn delete_legacy(tensor: *mut Legacy) {
    // SAFETY: as in `delete_versioned`.
    unsafe { drop(Box::from_raw((*tensor).context.cast::<Exported>())) };
}

/// Deletes a tensor that nobody has taken.
unsafe extern "C" fn delete_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: CPython calls the destructor of a live capsule once, attached. With its first name, the tensor is still in it.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) != 0 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast());
        } else if ffi::PyCapsule_IsValid(capsule, TENSOR.as_ptr()) != 0 {
            delete_legacy(ffi::PyCapsule_GetPointer(capsule, TENSOR.as_ptr()).cast());
        }
    }
}

/// What a consumer asks `__dlpack__()` for.
pub struct Request<'a, 'py> {
    pub stream: Option<&'a Bound<'py, PyAny>>,
    pub max_version: Option<&'a Bound<'py, PyAny>>,
    pub device: Option<&'a Bound<'py, PyAny>>,
    /// Whether the view is a copy that nobody else has, which may be written to.
    pub is_copy: bool,
}

impl Request<'_, '_> {
    fn check(&self) -> PyResult<()> {
        if self.stream.is_some() {
            return Err(PyBufferError::new_err(
                "memory of the CPU has no stream: stream has to be None",
            ));
        }
        let Some(device) = self.device else {
            return Ok(());
        };
        let device = device.cast::<PyTuple>()?.extract::<(i64, i64)>()?;
        if device != (i64::from(CPU), 0) {
            return Err(PyBufferError::new_err(format!(
                "a NativeBuffer is on the device (1, 0), the CPU, and not on {device:?}"
            )));
        }
        Ok(())
    }

    fn is_versioned(&self) -> PyResult<bool> {
        match self.max_version {
            None => Ok(false),
            Some(version) => Ok(version.extract::<(i64, i64)>()?.0 >= i64::from(MAJOR)),
        }
    }
}

/// `__dlpack__()`: a capsule with a view as a tensor.
///
/// # Errors
/// `BufferError` for what the view is not, or the capsule cannot say.
pub fn export<'py>(
    py: Python<'py>,
    view: View,
    shape: &[isize],
    request: &Request<'_, '_>,
) -> PyResult<Bound<'py, PyAny>> {
    request.check()?;
    let is_versioned = request.is_versioned()?;
    if !is_versioned && !request.is_copy {
        return Err(PyBufferError::new_err(
            "a NativeBuffer is read-only, which DLPack can say from max_version=(1, 0) on; with copy=True a copy is given",
        ));
    }
    let Some(dtype) = dtype_of(view.format(), view.itemsize()) else {
        let format = view.format().to_string_lossy();
        return Err(PyBufferError::new_err(format!(
            "DLPack has no type for elements of the format '{format}'"
        )));
    };
    let shape: Box<[i64]> = shape.iter().map(|&count| count as i64).collect();
    let strides = shape::strides(&shape, 1).into();
    let tensor = || Tensor {
        data: view.as_ptr().cast_mut().cast(),
        device: Device { kind: CPU, id: 0 },
        ndim: i32::try_from(shape.len()).unwrap_or(0),
        dtype,
        shape: ptr::null_mut(),
        strides: ptr::null_mut(),
        byte_offset: 0,
    };
    let mut exported = Box::new(Exported {
        versioned: Versioned {
            major: MAJOR,
            minor: MINOR,
            context: ptr::null_mut(),
            deleter: Some(delete_versioned),
            flags: if request.is_copy {
                IS_COPIED
            } else {
                READ_ONLY
            },
            tensor: tensor(),
        },
        legacy: Legacy {
            tensor: tensor(),
            context: ptr::null_mut(),
            deleter: Some(delete_legacy),
        },
        shape,
        strides,
        _view: view,
    });
    let (shape, strides) = (exported.shape.as_mut_ptr(), exported.strides.as_mut_ptr());
    let raw = Box::into_raw(exported);
    // SAFETY: the box was leaked just now, and nobody else knows it before the capsule is made; the deleter frees it. The names
    // are static.
    unsafe {
        for tensor in [
            &raw mut (*raw).versioned.tensor,
            &raw mut (*raw).legacy.tensor,
        ] {
            ((*tensor).shape, (*tensor).strides) = (shape, strides);
        }
        ((*raw).versioned.context, (*raw).legacy.context) = (raw.cast(), raw.cast());
        let (pointer, name): (*mut c_void, _) = if is_versioned {
            ((&raw mut (*raw).versioned).cast(), VERSIONED)
        } else {
            ((&raw mut (*raw).legacy).cast(), TENSOR)
        };
        let capsule = ffi::PyCapsule_New(pointer, name.as_ptr(), Some(delete_capsule));
        if capsule.is_null() {
            drop(Box::from_raw(raw));
        }
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}
