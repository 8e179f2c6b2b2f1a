//! Python objects as arguments of kernels, and what has to be held while a kernel uses them.

use std::borrow::Cow;
use std::ffi::{c_char, CStr};

use hybridloop_kernels::{Arg, Buffer, Format, Kernel, Key, Param, Scalar, Type};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

use crate::allocator::out_of_memory;
use crate::kernels::buffer::NativeBuffer;
use crate::kernels::channel::Channel;
use crate::kernels::convert::copy;
use crate::kernels::exceptions::bus_error;
use crate::python::Ref;

/// What stays where it is until it is dropped.
#[allow(dead_code, reason = "held, not used")]
enum Pin {
    /// Immutable by itself.
    Object(Ref),
    Export(Export),
}

/// A buffer that its object has given out: it can neither move nor change its size.
struct Export(ffi::Py_buffer);

// SAFETY: given back by a thread that is attached.
unsafe impl Send for Export {}

impl Drop for Export {
    fn drop(&mut self) {
        // SAFETY: filled by PyObject_GetBuffer and released once.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}

/// The objects whose memory a job uses. Dropping them runs Python.
#[derive(Default)]
pub struct Pins(Vec<Pin>);

impl Pins {
    fn push(&mut self, pin: Pin) -> PyResult<()> {
        self.0.try_reserve(1).map_err(out_of_memory)?;
        self.0.push(pin);
        Ok(())
    }

    /// Shows the objects to the collector.
    pub fn each<E>(&self, mut visit: impl FnMut(&Ref) -> Result<(), E>) -> Result<(), E> {
        self.0.iter().try_for_each(|pin| match pin {
            Pin::Object(object) => visit(object),
            Pin::Export(_) => Ok(()),
        })
    }
}

/// The arguments of one call.
pub struct Arguments {
    pub args: Vec<Arg>,
    pub out: Option<Arg>,
}

/// Converts arguments; what they need is added to `pins`.
///
/// # Errors
/// `TypeError`, `ValueError` or `OverflowError` with the argument's name for what no kernel can take. What this kernel can
/// take is checked when the job is submitted.
pub fn convert<'py>(
    kernel: &Kernel,
    args: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
    out: Option<&Bound<'py, PyAny>>,
    pins: &mut Pins,
) -> PyResult<Arguments> {
    let signature = kernel.signature();
    // `out` takes the place of its parameter.
    let skipped = out.and_then(|_| signature?.out_index());
    let mut converted = Vec::new();
    converted
        .try_reserve_exact(args.len() + usize::from(out.is_some()))
        .map_err(out_of_memory)?;
    for (at, object) in args.enumerate() {
        let at = at + usize::from(skipped.is_some_and(|skipped| skipped <= at));
        let param = signature.and_then(|signature| signature.params.get(at));
        let place = Place { kernel, param, at };
        converted.push(place.convert(&object, pins)?);
    }
    let out = out
        .map(|object| {
            let param = skipped.and_then(|at| signature?.params.get(at));
            let place = Place {
                kernel,
                param,
                at: usize::MAX,
            };
            place.export(object, pins)
        })
        .transpose()?;
    Ok(Arguments {
        args: converted,
        out,
    })
}

/// Where an argument goes.
struct Place<'a> {
    kernel: &'a Kernel,
    param: Option<&'a Param>,
    at: usize,
}

impl Place<'_> {
    /// The beginning of every message.
    fn name(&self) -> String {
        let name = match self.param {
            Some(param) => param.name.clone(),
            None if self.at == usize::MAX => "out".to_owned(),
            None => format!("arg{}", self.at),
        };
        format!("{}(): argument '{name}'", self.kernel.name())
    }

    #[inline]
    fn convert(&self, object: &Bound<'_, PyAny>, pins: &mut Pins) -> PyResult<Arg> {
        if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            if !matches!(self.param, Some(param) if param.ty == Type::Key) {
                let data = bytes.as_bytes();
                pins.push(Pin::Object(object.into()))?;
                // SAFETY: bytes do not change, and these are held until the job is done.
                let mut buffer = unsafe { Buffer::new(0, data.as_ptr(), data.len()) };
                buffer.immutable = true;
                return Ok(Arg::Buffer(buffer));
            }
        }
        if object.is_none() {
            return Ok(Arg::None);
        }
        if let Ok(value) = object.cast::<PyBool>() {
            return Ok(Arg::Bool(value.is_true()));
        }
        if object.is_instance_of::<PyInt>() {
            return self.int(object);
        }
        if let Ok(value) = object.cast::<PyFloat>() {
            return Ok(Arg::Float(value.value()));
        }
        self.convert_other(object, pins)
    }

    fn convert_other(&self, object: &Bound<'_, PyAny>, pins: &mut Pins) -> PyResult<Arg> {
        let ty = self.param.map(|param| param.ty);
        if ty == Some(Type::Key) {
            return self.key(object);
        }
        if let Ok(text) = object.cast::<PyString>() {
            return Ok(Arg::Str(copy(text.to_str()?).map_err(out_of_memory)?));
        }
        if let Ok(buffer) = object.cast::<NativeBuffer>() {
            return Ok(Arg::View(buffer.get().view().clone()));
        }
        if let Ok(channel) = object.cast::<Channel>() {
            channel.get().check_process(object.py())?;
            return Ok(Arg::Channel(channel.get().channel().clone()));
        }
        // Numbers of other libraries are buffers as well.
        if let Some(Type::Scalar(scalar)) = ty {
            return self.number(object, scalar);
        }
        // SAFETY: attached; the object is live.
        if unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) } != 0 {
            return self.export(object, pins);
        }
        // SAFETY: attached; the object is live.
        if unsafe { ffi::PyIndex_Check(object.as_ptr()) } != 0 {
            return self.number(object, Scalar::I64);
        }
        Err(PyTypeError::new_err(format!(
            "{}: expected {}, got {}",
            self.name(),
            match ty {
                None => "None, a number, str, or a buffer".to_owned(),
                Some(ty @ (Type::Buf | Type::Slice(_) | Type::Pointer(_))) =>
                    format!("{ty} (bytes, an array, or another buffer)"),
                Some(ty) => ty.to_string(),
            },
            object.get_type().name()?
        )))
    }

    fn int(&self, object: &Bound<'_, PyAny>) -> PyResult<Arg> {
        if let Ok(value) = object.extract::<i64>() {
            return Ok(Arg::Int(value));
        }
        object.extract::<u64>().map(Arg::UInt).map_err(|_| {
            PyOverflowError::new_err(format!(
                "{}: an int of more than 64 bits has no native form",
                self.name()
            ))
        })
    }

    /// A number that is neither int nor float, by its `__index__()` or `__float__()`.
    fn number(&self, object: &Bound<'_, PyAny>, scalar: Scalar) -> PyResult<Arg> {
        // SAFETY: attached; the object is live.
        unsafe {
            if ffi::PyIndex_Check(object.as_ptr()) != 0 {
                let py = object.py();
                let int = Bound::from_owned_ptr_or_err(py, ffi::PyNumber_Index(object.as_ptr()))?;
                return self.int(&int);
            }
        }
        if matches!(scalar, Scalar::F32 | Scalar::F64) && object.hasattr("__float__")? {
            return object.extract().map(Arg::Float);
        }
        Err(PyTypeError::new_err(format!(
            "{}: expected {}, got {}",
            self.name(),
            Type::Scalar(scalar),
            object.get_type().name()?
        )))
    }

    fn key(&self, object: &Bound<'_, PyAny>) -> PyResult<Arg> {
        let key = if let Ok(text) = object.cast::<PyString>() {
            Key::new(text.to_str()?.as_bytes())
        } else if let Ok(bytes) = object.cast::<PyBytes>() {
            Key::new(bytes.as_bytes())
        } else {
            return Err(PyTypeError::new_err(format!(
                "{}: expected a key of the bus, which is str or bytes, got {}",
                self.name(),
                object.get_type().name()?
            )));
        };
        key.map(Arg::Key)
            .map_err(|error| bus_error(object.py(), &error, Some(object)))
    }

    /// A buffer of any shape, which stays pinned.
    fn export(&self, object: &Bound<'_, PyAny>, pins: &mut Pins) -> PyResult<Arg> {
        // SAFETY: attached; the object is live.
        if unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) } == 0 {
            return Err(PyTypeError::new_err(format!(
                "{}: expected a buffer, got {}",
                self.name(),
                object.get_type().name()?
            )));
        }
        // SAFETY: an all-zero view is one to be filled in.
        let mut view = unsafe { std::mem::zeroed::<ffi::Py_buffer>() };
        let flags = ffi::PyBUF_STRIDES | ffi::PyBUF_FORMAT;
        // SAFETY: attached; the object is live.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut view, flags) } != 0 {
            let error = PyErr::fetch(object.py());
            let reason = error.value(object.py()).to_string();
            let named = PyValueError::new_err(format!("{}: {reason}", self.name()));
            named.set_cause(object.py(), Some(error));
            return Err(named);
        }
        let export = Export(view);
        let buffer = describe(&export.0);
        pins.push(Pin::Export(export))?;
        Ok(Arg::Buffer(buffer))
    }
}

/// `'C'`
const C_ORDER: c_char = 67;

/// What the engine has to know of a buffer.
fn describe(view: &ffi::Py_buffer) -> Buffer {
    let len = view.len.unsigned_abs();
    // SAFETY: the memory is pinned by the export, which is held until the job is done. That nobody writes to it meanwhile is
    // what the documentation asks of the program, as for every function that gives the interpreter away over a buffer.
    let mut buffer = unsafe { Buffer::new(0, view.buf.cast_const().cast(), len) };
    buffer.itemsize = view.itemsize.unsigned_abs().max(1);
    if !view.format.is_null() {
        // SAFETY: a C string that lives as long as the export.
        let format = unsafe { CStr::from_ptr(view.format) };
        buffer.format = known(format);
    }
    buffer.writable = view.readonly == 0;
    // SAFETY: a filled view.
    buffer.contiguous = unsafe { ffi::PyBuffer_IsContiguous(view, C_ORDER) } != 0;
    let ndim = view.ndim.unsigned_abs() as usize;
    let dims = |of: *mut isize| {
        // SAFETY: that many numbers, if any.
        let dims = unsafe { std::slice::from_raw_parts(of, ndim) };
        dims.iter().map(|&n| n as i64).collect()
    };
    if ndim != 1 && !view.shape.is_null() && ndim > 0 {
        buffer.shape = Some(dims(view.shape));
    }
    if !buffer.contiguous && ndim > 0 && !view.strides.is_null() {
        if !view.shape.is_null() {
            buffer.shape = Some(dims(view.shape));
        }
        buffer.strides = Some(dims(view.strides));
    }
    buffer
}

/// A copy of a format, without one for those that are met all the time.
fn known(format: &CStr) -> Format {
    const KNOWN: [&CStr; 14] = [
        c"B", c"b", c"c", c"d", c"f", c"l", c"L", c"i", c"I", c"q", c"Q", c"h", c"H", c"?",
    ];
    match KNOWN.iter().find(|known| **known == format) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(format.to_owned()),
    }
}
