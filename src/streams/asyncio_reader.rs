//! Feeding `asyncio.StreamReader`: `StreamReaderProtocol.data_received()` and `StreamReader.feed_data()`, on the same
//! attributes, without a Python call.
//!
//! Only instances of exactly these classes are fed, as long as the classes have asyncio's methods and the instances have none
//! of their own. For all others `data_received()` is called.

use std::ptr;
use std::sync::OnceLock;

use pyo3::exceptions::{PyNotImplementedError, PySystemError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use crate::event_loop::LoopContext;
use crate::python::bytes::to_bytes;
use crate::python::refs::referent;
use crate::python::stdlib::Stdlib;
use crate::python::unstable::stream_reader;
use crate::python::unstable::type_version::SeenVersion;
use crate::python::{ErrSet, FfiResult, Ref};
use crate::streams::waiter::{self, call_method};
use crate::transports::stream::native_protocol::{self, NativeProtocol, Received};

/// A class of asyncio whose methods this code replaces, as long as nobody else has replaced them.
struct PatchableClass {
    ty: Ref,
    /// The names of the methods, and what they were at import.
    methods: Vec<(Ref, Ref)>,
    /// The version of the class when the methods were last found to be the same.
    version: SeenVersion,
    /// `types.FunctionType` and `types.MethodType`.
    function_type: Ref,
    method_type: Ref,
}

extern "C" {
    /// The function of a bound method, borrowed.
    fn PyMethod_Function(method: *mut PyObject) -> *mut PyObject;
}

impl PatchableClass {
    fn new(ty: &Bound<'_, PyType>, names: &[&'static str]) -> PyResult<Self> {
        let py = ty.py();
        let methods = names.iter().map(|name| {
            let name = PyString::intern(py, name);
            let method = ty.getattr(&name)?;
            Ok((name.into(), method.into()))
        });
        let types = py.import("types")?;
        Ok(Self {
            function_type: types.getattr("FunctionType")?.into(),
            method_type: types.getattr("MethodType")?.into(),
            ty: ty.into(),
            methods: methods.collect::<PyResult<_>>()?,
            version: SeenVersion::default(),
        })
    }

    fn is_function(&self, object: &Ref) -> bool {
        // SAFETY: the reference keeps the object alive.
        unsafe { ffi::Py_TYPE(object.as_ptr()).cast() == self.function_type.as_ptr() }
    }

    fn is_class_of(&self, object: &Ref) -> bool {
        // SAFETY: the reference keeps the object alive.
        unsafe { ffi::Py_TYPE(object.as_ptr()).cast() == self.ty.as_ptr() }
    }

    /// Whether the class has the methods that it had at import.
    #[inline]
    fn is_unpatched(&self) -> bool {
        // SAFETY: the reference keeps the type alive.
        unsafe { self.version.is_current(self.ty.as_ptr().cast()) || self.check_methods() }
    }

    #[cold]
    fn check_methods(&self) -> bool {
        let unpatched = self.methods.iter().all(|(name, method)| {
            // SAFETY: the holder of a `Ref` is attached, and its object is live. An exception means that the method was
            // deleted.
            unsafe {
                match Ref::new(ffi::PyObject_GetAttr(self.ty.as_ptr(), name.as_ptr())) {
                    Ok(found) => found.as_ptr() == method.as_ptr(),
                    Err(ErrSet) => {
                        ffi::PyErr_Clear();
                        false
                    }
                }
            }
        });
        if unpatched {
            // SAFETY: the reference keeps the type alive.
            unsafe { self.version.remember(self.ty.as_ptr().cast()) };
        }
        unpatched
    }

    /// Whether none of the methods is replaced in the `__dict__` of `object`.
    fn has_class_methods(&self, object: &Ref) -> FfiResult<bool> {
        for (name, method) in &self.methods {
            if !self.is_function(method) {
                // A property has precedence over `__dict__`.
                continue;
            }
            // SAFETY: the holder of a `Ref` is attached, and its object is live. `PyMethod_Function` gets a bound method.
            unsafe {
                let bound = Ref::new(ffi::PyObject_GetAttr(object.as_ptr(), name.as_ptr()))?;
                if ffi::Py_TYPE(bound.as_ptr()).cast() != self.method_type.as_ptr()
                    || PyMethod_Function(bound.as_ptr()) != method.as_ptr()
                {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// The name of an attribute of asyncio's objects.
struct Attribute(Ref);

impl Attribute {
    /// `object.name`
    #[inline]
    fn get(&self, object: &Ref) -> FfiResult<Ref> {
        // SAFETY: the holder of a `Ref` is attached, and its object is live. The result is a new reference or null.
        unsafe { Ref::new(ffi::PyObject_GetAttr(object.as_ptr(), self.0.as_ptr())) }
    }

    /// `object.name = value`
    fn set(&self, object: &Ref, value: &Ref) -> FfiResult<()> {
        let (name, value) = (self.0.as_ptr(), value.as_ptr());
        // SAFETY: the holder of a `Ref` is attached, and its object is live.
        if unsafe { ffi::PyObject_SetAttr(object.as_ptr(), name, value) } != 0 {
            return Err(ErrSet);
        }
        Ok(())
    }
}

/// asyncio's classes, and the names of the attributes that are used.
struct AsyncioStreams {
    protocol: PatchableClass,
    reader: PatchableClass,
    protocol_reader: Attribute,
    buffer: Attribute,
    eof: Attribute,
    waiter: Attribute,
    transport: Attribute,
    paused: Attribute,
    limit: Attribute,
}

static ASYNCIO_STREAMS: OnceLock<AsyncioStreams> = OnceLock::new();

impl AsyncioStreams {
    /// The classes, if they have the methods of asyncio's own file.
    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        if !stream_reader::is_on() {
            return Ok(None);
        }
        let streams = py.import("asyncio.streams")?;
        let class = |name| -> PyResult<Bound<'_, PyType>> {
            Ok(streams.getattr(name)?.cast_into::<PyType>()?)
        };
        let (protocol_class, reader_class) =
            (class("StreamReaderProtocol")?, class("StreamReader")?);
        let file = streams.getattr("__file__")?;
        for (class, method) in [
            (&protocol_class, "data_received"),
            (&reader_class, "feed_data"),
            (&reader_class, "_wakeup_waiter"),
        ] {
            let code = class.getattr(method)?.getattr("__code__")?;
            if !code.getattr("co_filename")?.eq(&file)? {
                return Ok(None);
            }
        }
        let attribute = |name| Attribute(PyString::intern(py, name).into());
        Ok(Some(Self {
            protocol: PatchableClass::new(&protocol_class, &["data_received", "_stream_reader"])?,
            reader: PatchableClass::new(&reader_class, &["feed_data", "_wakeup_waiter"])?,
            protocol_reader: attribute("_stream_reader_wr"),
            buffer: attribute("_buffer"),
            eof: attribute("_eof"),
            waiter: attribute("_waiter"),
            transport: attribute("_transport"),
            paused: attribute("_paused"),
            limit: attribute("_limit"),
        }))
    }

    /// Whether `protocol.data_received()` is asyncio's.
    #[inline]
    fn replaces_data_received(&self, protocol: &Ref) -> FfiResult<bool> {
        if !self.protocol.is_class_of(protocol) || !self.protocol.is_unpatched() {
            return Ok(false);
        }
        self.protocol.has_class_methods(protocol)
    }

    /// Whether `reader.feed_data()` is asyncio's.
    #[inline]
    fn replaces_feed_data(&self, reader: &Ref) -> FfiResult<bool> {
        if !self.reader.is_class_of(reader) || !self.reader.is_unpatched() {
            return Ok(false);
        }
        self.reader.has_class_methods(reader)
    }

    /// Does what `protocol.data_received(data)` does; false if that has to be called.
    fn feed(&self, py: Python<'_>, protocol: &Ref, data: &[u8]) -> FfiResult<bool> {
        if !self.replaces_data_received(protocol)? {
            return Ok(false);
        }
        let weak = self.protocol_reader.get(protocol)?;
        if weak.bind(py).is_none() {
            return Ok(true);
        }
        let Some(reader) = referent(&weak)? else {
            return Ok(true);
        };
        if !self.replaces_feed_data(&reader)? || is_true(&self.eof.get(&reader)?)? {
            return Ok(false);
        }
        let buffer = self.buffer.get(&reader)?;
        let Some(size) = append(&buffer, data)? else {
            return Ok(false);
        };
        let waiter = self.waiter.get(&reader)?;
        if !waiter.bind(py).is_none() {
            self.waiter.set(&reader, &Ref::none())?;
            waiter::wake(&waiter)?;
        }
        self.pause(py, &reader, size)?;
        Ok(true)
    }

    /// Pauses the transport if more than twice the limit is buffered.
    fn pause(&self, py: Python<'_>, reader: &Ref, size: usize) -> FfiResult<()> {
        let limit = self.limit.get(reader)?;
        // SAFETY: `limit` is live.
        let limit = unsafe { ffi::PyLong_AsSsize_t(limit.as_ptr()) };
        if limit == -1 {
            // A limit that is larger than any buffer.
            // SAFETY: the thread is attached, as `py` says.
            unsafe { ffi::PyErr_Clear() };
            return Ok(());
        }
        if size.cast_signed() <= limit.saturating_mul(2) {
            return Ok(());
        }
        let transport = self.transport.get(reader)?;
        if transport.bind(py).is_none() || is_true(&self.paused.get(reader)?)? {
            return Ok(());
        }
        match transport.bind(py).call_method0("pause_reading") {
            Ok(_) => self.paused.set(reader, &Ref::bool(true)),
            // The transport cannot pause. Like asyncio, the reader never asks it again.
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                self.transport.set(reader, &Ref::none())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn is_true(object: &Ref) -> FfiResult<bool> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live.
    match unsafe { ffi::PyObject_IsTrue(object.as_ptr()) } {
        -1 => Err(ErrSet),
        answer => Ok(answer == 1),
    }
}

/// Appends to an exact `bytearray`, and returns its new size; `None` for any other object.
fn append(buffer: &Ref, data: &[u8]) -> FfiResult<Option<usize>> {
    // SAFETY: the holder of a `Ref` is attached, and its object is live. An exact `bytearray` has as many bytes as it was
    // resized to, and no Python runs until they are written.
    unsafe {
        if ffi::PyByteArray_CheckExact(buffer.as_ptr()) == 0 {
            return Ok(None);
        }
        let old = ffi::Py_SIZE(buffer.as_ptr()).unsigned_abs();
        let size = old + data.len();
        if ffi::PyByteArray_Resize(buffer.as_ptr(), size.cast_signed()) != 0 {
            return Err(ErrSet);
        }
        let end = ffi::PyByteArray_AsString(buffer.as_ptr())
            .cast::<u8>()
            .add(old);
        ptr::copy_nonoverlapping(data.as_ptr(), end, data.len());
        Ok(Some(size))
    }
}

/// How stream transports and TLS protocols give an `asyncio.StreamReaderProtocol` the bytes that they have received.
static NATIVE_PROTOCOL: NativeProtocol = NativeProtocol {
    data_received: feed_protocol,
    uncork: |_, _| Ok(()),
    error_message: "Fatal error: protocol.data_received() call failed.",
};

/// # Safety
/// None: any protocol will do.
unsafe fn feed_protocol(cx: LoopContext<'_>, protocol: &Ref, data: Received<'_>) -> FfiResult<()> {
    let streams = ASYNCIO_STREAMS
        .get()
        .ok_or_else(|| PySystemError::new_err("streams were used before they were imported"))
        .map_err(ErrSet::from)?;
    if !streams.feed(cx.py, protocol, &data)? {
        let name = &Stdlib::get().names.data_received;
        let bytes = to_bytes(&data)?;
        drop(data);
        call_method(name, [protocol, &bytes])?;
    }
    Ok(())
}

/// The lookup of instances of exactly `asyncio.StreamReaderProtocol`.
fn find_native(protocol: &Ref) -> Option<&'static NativeProtocol> {
    ASYNCIO_STREAMS
        .get()?
        .protocol
        .is_class_of(protocol)
        .then_some(&NATIVE_PROTOCOL)
}

/// Looks up asyncio's classes, and adds the lookup of its protocols to stream transports.
pub fn register(py: Python<'_>) -> PyResult<()> {
    // Without a global lock another thread could resize a `bytearray` at the same time.
    if !cfg!(Py_GIL_DISABLED) && ASYNCIO_STREAMS.get().is_none() {
        if let Some(streams) = AsyncioStreams::find(py)? {
            // The first import counts.
            let _ = ASYNCIO_STREAMS.set(streams);
        }
    }
    native_protocol::register(find_native);
    Ok(())
}
