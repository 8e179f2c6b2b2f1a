//! `NativeBuffer`: immutable memory of a kernel or the bus, read without a copy.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use hybridloop_kernels::{MemoryLimit, View};
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::types::{PyBytes, PyMemoryView, PyTuple};

use crate::kernels::arrays::{to_arrow, to_arrow_schema, to_dlpack, DlpackRequest};
use crate::kernels::exceptions::cannot_pickle;

/// Copies of at least this size run detached, so that other Python threads run meanwhile. Detaching costs more than a smaller
/// copy.
const LARGE: usize = 64 << 10;

/// Runs `copy`, which copies that many bytes; detached if they are many.
#[inline]
pub fn copy_bytes<T: Send>(py: Python<'_>, bytes: usize, copy: impl FnOnce() -> T + Send) -> T {
    if bytes < LARGE {
        copy()
    } else {
        py.detach(copy)
    }
}

/// Immutable memory of a kernel or the bus. It exports a read-only buffer without a copy, to `memoryview`, numpy and others,
/// and counts against the limits of its engine until the last view of it is released.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct NativeBuffer {
    view: View,
    dims: Dims,
}

/// The shape and the strides that a `Py_buffer` points to.
enum Dims {
    Flat([isize; 2]),
    Shaped { ndim: usize, both: Box<[isize]> },
}

impl Dims {
    fn new(view: &View) -> Self {
        let itemsize = view.itemsize().cast_signed();
        let Some(shape) = view.shape() else {
            return Self::Flat([view.len().cast_signed() / itemsize.max(1), itemsize]);
        };
        // The shape describes memory of this process, so it fits an isize.
        #[allow(clippy::cast_possible_truncation)]
        let mut both: Vec<isize> = shape.iter().map(|&n| n as isize).collect();
        let mut stride = itemsize;
        let mut strides = vec![itemsize; shape.len()];
        for (i, count) in both.iter().enumerate().rev() {
            strides[i] = stride;
            stride = stride.saturating_mul(*count);
        }
        both.extend(strides);
        Self::Shaped {
            ndim: shape.len(),
            both: both.into(),
        }
    }

    fn shape(&self) -> &[isize] {
        match self {
            Self::Flat(both) => &both[..1],
            Self::Shaped { ndim, both } => &both[..*ndim],
        }
    }

    fn strides(&self) -> &[isize] {
        match self {
            Self::Flat(both) => &both[1..],
            Self::Shaped { ndim, both } => &both[*ndim..],
        }
    }
}

impl NativeBuffer {
    pub fn new(view: View) -> Self {
        let dims = Dims::new(&view);
        Self { view, dims }
    }

    /// The memory.
    pub fn view(&self) -> &View {
        &self.view
    }

    fn is_bytes(&self) -> bool {
        self.view.format().to_bytes() == b"B" && matches!(self.dims, Dims::Flat(_))
    }
}

fn memoryview<'py>(buffer: &Bound<'py, NativeBuffer>) -> PyResult<Bound<'py, PyMemoryView>> {
    PyMemoryView::from(buffer.as_any())
}

const F_CONTIGUOUS: c_int = ffi::PyBUF_F_CONTIGUOUS & !ffi::PyBUF_STRIDES;

#[pymethods]
impl NativeBuffer {
    /// Raises `TypeError`: the object belongs to this process.
    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Err(cannot_pickle(slf.as_any()))
    }

    /// Its length in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.view.len()
    }

    /// The format of an element in the notation of the `struct` module; "B" for plain bytes.
    #[getter]
    fn format(&self) -> std::borrow::Cow<'_, str> {
        self.view.format().to_string_lossy()
    }

    /// The size of an element in bytes.
    #[getter]
    fn itemsize(&self) -> usize {
        self.view.itemsize()
    }

    /// Elements along each dimension.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.dims.shape())
    }

    /// A copy of its bytes.
    fn tobytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let from = &*self.view;
        if from.len() < LARGE {
            return Ok(PyBytes::new(py, from));
        }
        // SAFETY: `py` proves attachment. The result is a new reference or null.
        let bytes = unsafe {
            let new = ffi::PyBytes_FromStringAndSize(ptr::null(), from.len().cast_signed());
            Bound::from_owned_ptr_or_err(py, new)?
        };
        // SAFETY: the object has `from.len()` bytes, and no other reference to it exists yet.
        let to = unsafe {
            let start = ffi::PyBytes_AS_STRING(bytes.as_ptr()).cast_mut();
            std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>(), from.len())
        };
        copy_bytes(py, from.len(), || {
            // SAFETY: both have `from.len()` bytes, and a new object does not overlap with the view.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast(), from.len()) }
        });
        Ok(bytes.cast_into()?)
    }

    /// A DLPack tensor with the same memory, which is read-only: for `from_dlpack()` of numpy and others. With `copy=True` it is a
    /// copy that may be written to.
    ///
    /// Raises `BufferError` if DLPack has no such elements, or if `max_version` is below 1.0, where a tensor cannot say that it is
    /// read-only.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<&Bound<'py, PyAny>>,
        max_version: Option<&Bound<'py, PyAny>>,
        dl_device: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let is_copy = copy == Some(true);
        let view = if is_copy {
            let limit = MemoryLimit::new(usize::MAX);
            let copy = copy_bytes(py, self.view.len(), || self.view.copy(&limit));
            copy.ok_or_else(|| PyMemoryError::new_err(()))?
        } else {
            self.view.clone()
        };
        let request = DlpackRequest {
            stream,
            max_version,
            device: dl_device,
            is_copy,
        };
        to_dlpack(py, view, self.dims.shape(), &request)
    }

    /// The device of `__dlpack__()`: the CPU.
    #[allow(clippy::unused_self)]
    fn __dlpack_device__(&self) -> (i32, i32) {
        (1, 0)
    }

    /// An Arrow array with the same memory: for `pyarrow.array()` and others.
    ///
    /// Raises `BufferError` if Arrow has no such elements, or for more than one dimension.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        // Consumers cast what they get.
        let _ = requested_schema;
        to_arrow(py, &self.view, self.dims.shape().len())
    }

    /// The type of `__arrow_c_array__()`.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_arrow_schema(py, &self.view, self.dims.shape().len())
    }

    /// Its elements as a list; nested lists for several dimensions.
    fn tolist<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        memoryview(slf)?.call_method0("tolist")
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.tobytes(py)
    }

    fn __len__(&self) -> usize {
        self.dims.shape().first().map_or(1, |n| n.unsigned_abs())
    }

    /// An element, or a memoryview of a slice.
    fn __getitem__<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        memoryview(slf)?.get_item(key)
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(memoryview(slf)?.try_iter()?.into_any())
    }

    fn __richcmp__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
        op: CompareOp,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let negated = match op {
            CompareOp::Eq => false,
            CompareOp::Ne => true,
            _ => return Ok(py.NotImplemented().into_bound(py)),
        };
        let this = slf.get();
        let bytes = if this.is_bytes() {
            other.cast::<PyBytes>().ok()
        } else {
            None
        };
        if let Some(bytes) = bytes {
            let equal = *bytes.as_bytes() == *this.view;
            return Ok((equal != negated).into_pyobject(py)?.to_owned().into_any());
        }
        // SAFETY: a `Bound` proves attachment and is live.
        if unsafe { ffi::PyObject_CheckBuffer(other.as_ptr()) } == 0 {
            return Ok(py.NotImplemented().into_bound(py));
        }
        memoryview(slf)?.rich_compare(other, op)
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        // `hash(memoryview)` calls this method, so it cannot be used here. With other formats, equal elements can have
        // different bytes.
        if !matches!(self.view.format().to_bytes(), b"B" | b"b" | b"c") {
            return Err(PyValueError::new_err(
                "hashing is restricted to formats 'B', 'b' or 'c', as it is for a memoryview",
            ));
        }
        self.tobytes(py)?.hash()
    }

    fn __repr__(&self) -> String {
        let (format, len) = (self.format(), self.view.len());
        if self.is_bytes() {
            return format!("<NativeBuffer of {len} bytes>");
        }
        format!(
            "<NativeBuffer of {len} bytes, format '{format}', shape {:?}>",
            self.dims.shape()
        )
    }

    unsafe fn __getbuffer__(
        slf: &Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let fail = |reason| {
            // SAFETY: CPython passes a pointer to a `Py_buffer` that can be written; on failure `obj` has to be null.
            unsafe { (*view).obj = ptr::null_mut() };
            Err(PyBufferError::new_err(reason))
        };
        if flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
            return fail("a NativeBuffer is read-only");
        }
        let (shape, strides) = (this.dims.shape(), this.dims.strides());
        let is_flat = shape.iter().filter(|&&n| n > 1).count() <= 1;
        if flags & F_CONTIGUOUS != 0
            && flags & ffi::PyBUF_ANY_CONTIGUOUS != ffi::PyBUF_ANY_CONTIGUOUS
            && !is_flat
        {
            return fail("a NativeBuffer is not Fortran contiguous");
        }
        let with = |flag| flags & flag == flag;
        // SAFETY: CPython passes a pointer to a `Py_buffer` that can be written. The pointers lead into `this`, which is
        // immutable and lives as long as `obj`, the reference that the view owns.
        unsafe {
            (*view).obj = slf.clone().into_ptr();
            (*view).buf = this.view.as_ptr().cast_mut().cast::<c_void>();
            (*view).len = this.view.len().cast_signed();
            (*view).readonly = 1;
            (*view).itemsize = this.view.itemsize().cast_signed();
            (*view).format = if with(ffi::PyBUF_FORMAT) {
                this.view.format().as_ptr().cast_mut()
            } else {
                ptr::null_mut()
            };
            // A consumer that requests no shape gets one dimension of bytes.
            let has_shape = with(ffi::PyBUF_ND);
            (*view).ndim = if has_shape {
                c_int::try_from(shape.len()).unwrap_or(0)
            } else {
                1
            };
            (*view).shape = if has_shape {
                shape.as_ptr().cast_mut()
            } else {
                ptr::null_mut()
            };
            (*view).strides = if with(ffi::PyBUF_STRIDES) {
                strides.as_ptr().cast_mut()
            } else {
                ptr::null_mut()
            };
            (*view).suboffsets = ptr::null_mut();
            (*view).internal = ptr::null_mut();
        }
        Ok(())
    }
}
