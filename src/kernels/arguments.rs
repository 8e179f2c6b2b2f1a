//! Conversion of Python objects to arguments of kernels.

use hybridloop_kernels::{Arg, Buffer, Kernel, Key, Param, Scalar, Signature, Type};
use pyo3::exceptions::{PyException, PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

use crate::allocator::out_of_memory;
use crate::kernels::arrays::{describe, Lent};
use crate::kernels::buffer::NativeBuffer;
use crate::kernels::buffer_guards::BufferGuards;
use crate::kernels::channel::Channel;
use crate::kernels::convert::copy_str;
use crate::kernels::exceptions::bus_error;
use crate::kernels::key::try_key_bytes;
use crate::python::buffer::BufferGuard;

/// The arguments of one call.
pub struct Arguments {
    pub args: Vec<Arg>,
    pub out: Option<Arg>,
}

/// Converts the arguments of one call, whose index in a batch is `call`, and adds what keeps their memory valid to `guards`.
///
/// # Errors
/// `TypeError`, `ValueError` or `OverflowError`, with the argument's name, for an object that no kernel takes. Whether this
/// kernel takes it is checked when the job is submitted.
pub fn convert<'py>(
    kernel: &Kernel,
    args: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
    out: Option<&Bound<'py, PyAny>>,
    call: Option<usize>,
    guards: &mut BufferGuards,
) -> PyResult<Arguments> {
    let signature = kernel.signature();
    // The parameter that `out` is for takes no positional argument.
    let skipped = out.and_then(|_| signature?.out_index());
    let mut converted = Vec::new();
    converted
        .try_reserve_exact(args.len() + usize::from(out.is_some()))
        .map_err(out_of_memory)?;
    for (index, object) in args.enumerate() {
        let index = index + usize::from(skipped.is_some_and(|skipped| skipped <= index));
        let param = signature.and_then(|signature| signature.params.get(index));
        let site = ArgumentSite {
            kernel,
            param,
            index,
            call,
        };
        converted.push(site.convert(&object, guards)?);
    }
    let out = out
        .map(|object| {
            let param = skipped.and_then(|index| signature?.params.get(index));
            let site = ArgumentSite {
                kernel,
                param,
                index: OUT,
                call,
            };
            site.buffer(object, guards)
        })
        .transpose()?;
    Ok(Arguments {
        args: converted,
        out,
    })
}

/// The index that stands for the keyword argument `out`.
const OUT: usize = usize::MAX;

/// The parameter that an argument is for.
pub struct ArgumentSite<'a> {
    kernel: &'a Kernel,
    param: Option<&'a Param>,
    index: usize,
    /// The index of the call in a batch.
    call: Option<usize>,
}

impl<'a> ArgumentSite<'a> {
    /// The parameter with that index, in a single call.
    pub fn new(kernel: &'a Kernel, index: usize) -> Self {
        Self {
            kernel,
            param: kernel
                .signature()
                .and_then(|signature| signature.params.get(index)),
            index,
            call: None,
        }
    }

    /// The parameter for the keyword argument `out`, in a single call.
    pub fn for_out(kernel: &'a Kernel) -> Self {
        let index = kernel.signature().and_then(Signature::out_index);
        Self {
            index: OUT,
            ..Self::new(kernel, index.unwrap_or(OUT))
        }
    }

    /// The first words of every error message.
    pub fn name(&self) -> String {
        let name = match self.param {
            Some(param) => param.name.clone(),
            None if self.index == OUT => "out".to_owned(),
            None => format!("arg{}", self.index),
        };
        let call = self.call.map(|call| format!("call {call}: "));
        let kernel = self.kernel.name();
        format!("{}{kernel}(): argument '{name}'", call.unwrap_or_default())
    }

    #[inline]
    pub fn convert(&self, object: &Bound<'_, PyAny>, guards: &mut BufferGuards) -> PyResult<Arg> {
        if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            if !matches!(self.param, Some(param) if param.ty == Type::Key) {
                let data = bytes.as_bytes();
                guards.push_bytes(object.into())?;
                // SAFETY: an exact `bytes` never changes, and the guards hold it until the kernel has returned.
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
            return match self.param.map(|param| param.ty) {
                Some(Type::Scalar(Scalar::F32 | Scalar::F64)) => self.float(object),
                _ => self.int(object),
            };
        }
        if let Ok(value) = object.cast::<PyFloat>() {
            return Ok(Arg::Float(value.value()));
        }
        self.convert_other(object, guards)
    }

    fn convert_other(&self, object: &Bound<'_, PyAny>, guards: &mut BufferGuards) -> PyResult<Arg> {
        let ty = self.param.map(|param| param.ty);
        if ty == Some(Type::Key) {
            return self.key(object);
        }
        if let Ok(text) = object.cast::<PyString>() {
            return Ok(Arg::Str(copy_str(text.to_str()?).map_err(out_of_memory)?));
        }
        if let Ok(buffer) = object.cast::<NativeBuffer>() {
            return Ok(Arg::View(buffer.get().view().clone()));
        }
        if let Ok(channel) = object.cast::<Channel>() {
            channel.get().check_process(object.py())?;
            return Ok(Arg::Channel(channel.get().channel().clone()));
        }
        // Before buffers: the numbers of numpy support the buffer protocol too.
        if let Some(Type::Scalar(scalar)) = ty {
            return self.number(object, scalar);
        }
        // SAFETY: a `Bound` proves attachment and is live.
        if unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) } != 0 {
            return self.buffer(object, guards);
        }
        // Before numbers: a tensor of one element may be one, too.
        if let Some(arg) = self.lent(object, guards)? {
            return Ok(arg);
        }
        // SAFETY: a `Bound` proves attachment and is live.
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

    /// An int as a float, as `float()` converts it.
    fn float(&self, object: &Bound<'_, PyAny>) -> PyResult<Arg> {
        object.extract().map(Arg::Float).map_err(|_| {
            PyOverflowError::new_err(format!(
                "{}: int too large to convert to float",
                self.name()
            ))
        })
    }

    /// A number that is neither an int nor a float, converted by its `__index__()` or `__float__()`.
    fn number(&self, object: &Bound<'_, PyAny>, scalar: Scalar) -> PyResult<Arg> {
        // SAFETY: a `Bound` proves attachment and is live.
        unsafe {
            if ffi::PyIndex_Check(object.as_ptr()) != 0 {
                let py = object.py();
                let int = Bound::from_owned_ptr_or_err(py, ffi::PyNumber_Index(object.as_ptr()))?;
                return match scalar {
                    Scalar::F32 | Scalar::F64 => self.float(&int),
                    _ => self.int(&int),
                };
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
        let Some(bytes) = try_key_bytes(object)? else {
            return Err(PyTypeError::new_err(format!(
                "{}: expected a key of the bus, which is str or bytes, got {}",
                self.name(),
                object.get_type().name()?
            )));
        };
        Key::new(bytes)
            .map(Arg::Key)
            .map_err(|error| bus_error(object.py(), &error, Some(object)))
    }

    /// A buffer of any shape; its guard is added to `guards`.
    pub fn buffer(&self, object: &Bound<'_, PyAny>, guards: &mut BufferGuards) -> PyResult<Arg> {
        // SAFETY: a `Bound` proves attachment and is live.
        if unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) } == 0 {
            if let Some(arg) = self.lent(object, guards)? {
                return Ok(arg);
            }
            return Err(PyTypeError::new_err(format!(
                "{}: expected a buffer, got {}",
                self.name(),
                object.get_type().name()?
            )));
        }
        let flags = ffi::PyBUF_STRIDES | ffi::PyBUF_FORMAT;
        // SAFETY: a `Bound` proves attachment and is live.
        let acquired = unsafe { BufferGuard::acquire(object.as_ptr(), flags, describe) };
        let (guard, buffer) = acquired.map_err(|error| self.refusal(object.py(), error.into()))?;
        guards.push_buffer(guard)?;
        Ok(Arg::Buffer(buffer))
    }

    /// An array of another library; its memory is added to `guards`. `None` for other objects.
    #[cold]
    fn lent(&self, object: &Bound<'_, PyAny>, guards: &mut BufferGuards) -> PyResult<Option<Arg>> {
        let found = Lent::of(object).map_err(|error| self.refusal(object.py(), error))?;
        let Some((lent, buffer)) = found else {
            return Ok(None);
        };
        guards.push_lent(lent)?;
        Ok(Some(Arg::Buffer(buffer)))
    }

    /// The error for an object that does not give its memory.
    fn refusal(&self, py: Python<'_>, error: PyErr) -> PyErr {
        if !error.is_instance_of::<PyException>(py) {
            return error;
        }
        let reason = error.value(py).to_string();
        let named = PyValueError::new_err(format!("{}: {reason}", self.name()));
        named.set_cause(py, Some(error));
        named
    }
}
