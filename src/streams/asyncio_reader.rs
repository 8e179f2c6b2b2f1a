//! Feeding `asyncio.StreamReader`: what `StreamReaderProtocol.data_received()` and `StreamReader.feed_data()` do, on
//! the same attributes, without a Python call.
//!
//! It is done only for exactly these two classes, while their methods are those of asyncio and the instances have none
//! of their own; otherwise the bytes go to `data_received()`.

use std::ptr;
use std::sync::OnceLock;

use pyo3::exceptions::{PyNotImplementedError, PySystemError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::event_loop::LoopContext;
use crate::python::stdlib::Stdlib;
use crate::python::unstable::stream_reader;
use crate::python::unstable::type_version::SeenVersion;
use crate::python::{ErrSet, FfiResult, Ref};
use crate::streams::waiter;
use crate::transports::stream::native_protocol::{self, NativeProtocol};

/// A class whose methods are as they were at import, or not.
struct Class {
    ty: Ref,
    /// Attributes of the class that this code stands for, and what they were.
    methods: Vec<(Ref, Ref)>,
    /// The version of the class at which they were looked at last.
    version: SeenVersion,
    /// `types.FunctionType` and `types.MethodType`.
    function_type: Ref,
    method_type: Ref,
}

extern "C" {
    /// The function of a bound method, borrowed.
    fn PyMethod_Function(method: *mut PyObject) -> *mut PyObject;
}

impl Class {
    fn new(ty: &Bound<'_, PyType>, names: &[&'static str]) -> PyResult<Self> {
        let py = ty.py();
        let methods = names.iter().map(|name| {
            let name = pyo3::types::PyString::intern(py, name);
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
        // SAFETY: the object is live.
        unsafe { ffi::Py_TYPE(object.as_ptr()).cast() == self.function_type.as_ptr() }
    }

    fn is_class_of(&self, object: &Ref) -> bool {
        // SAFETY: the object is live.
        unsafe { ffi::Py_TYPE(object.as_ptr()).cast() == self.ty.as_ptr() }
    }

    /// Whether nobody has replaced a method in the class.
    #[inline]
    fn is_intact(&self) -> bool {
        // SAFETY: the type is live.
        unsafe { self.version.is_current(self.ty.as_ptr().cast()) || self.look_again() }
    }

    #[cold]
    fn look_again(&self) -> bool {
        let intact = self.methods.iter().all(|(name, method)| {
            // SAFETY: attached; what cannot be looked up is not intact.
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
        if intact {
            // SAFETY: the type is live.
            unsafe { self.version.remember(self.ty.as_ptr().cast()) };
        }
        intact
    }

    /// Whether `object` has none of the methods in its own dictionary.
    fn is_plain(&self, object: &Ref) -> FfiResult<bool> {
        for (name, method) in &self.methods {
            if !self.is_function(method) {
                // A property goes before the dictionary.
                continue;
            }
            // SAFETY: attached; PyMethod_Function is given a bound method.
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
        // SAFETY: attached; a new reference or an error.
        unsafe { Ref::new(ffi::PyObject_GetAttr(object.as_ptr(), self.0.as_ptr())) }
    }

    /// `object.name = value`
    fn set(&self, object: &Ref, value: *mut PyObject) -> FfiResult<()> {
        // SAFETY: attached; the value is live.
        if unsafe { ffi::PyObject_SetAttr(object.as_ptr(), self.0.as_ptr(), value) } != 0 {
            return Err(ErrSet);
        }
        Ok(())
    }
}

/// What is known of asyncio's classes.
struct Known {
    protocol: Class,
    reader: Class,
    protocol_reader: Attribute,
    buffer: Attribute,
    eof: Attribute,
    waiter: Attribute,
    transport: Attribute,
    paused: Attribute,
    limit: Attribute,
}

static KNOWN: OnceLock<Known> = OnceLock::new();

impl Known {
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
        let attribute = |name| Attribute(pyo3::types::PyString::intern(py, name).into());
        Ok(Some(Self {
            protocol: Class::new(&protocol_class, &["data_received", "_stream_reader"])?,
            reader: Class::new(&reader_class, &["feed_data", "_wakeup_waiter"])?,
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
    fn knows_protocol(&self, protocol: &Ref) -> FfiResult<bool> {
        if !self.protocol.is_class_of(protocol) || !self.protocol.is_intact() {
            return Ok(false);
        }
        self.protocol.is_plain(protocol)
    }

    /// Whether `reader.feed_data()` is asyncio's.
    #[inline]
    fn knows_reader(&self, reader: &Ref) -> FfiResult<bool> {
        if !self.reader.is_class_of(reader) || !self.reader.is_intact() {
            return Ok(false);
        }
        self.reader.is_plain(reader)
    }

    /// `protocol.data_received(data)`; `false` if that is to be called instead.
    fn feed(&self, protocol: &Ref, data: &[u8]) -> FfiResult<bool> {
        if !self.knows_protocol(protocol)? {
            return Ok(false);
        }
        let weak = self.protocol_reader.get(protocol)?;
        // SAFETY: `None` is always live.
        let none = unsafe { ffi::Py_None() };
        if weak.as_ptr() == none {
            return Ok(true);
        }
        let Some(reader) = referent(&weak)? else {
            return Ok(true);
        };
        if !self.knows_reader(&reader)? || is_true(&self.eof.get(&reader)?)? {
            return Ok(false);
        }
        let buffer = self.buffer.get(&reader)?;
        let Some(size) = append(&buffer, data)? else {
            return Ok(false);
        };
        let waiter = self.waiter.get(&reader)?;
        if waiter.as_ptr() != none {
            self.waiter.set(&reader, none)?;
            waiter::wake(&waiter)?;
        }
        self.pause(&reader, size)?;
        Ok(true)
    }

    /// Stops the transport while more than twice the limit waits to be read.
    fn pause(&self, reader: &Ref, size: usize) -> FfiResult<()> {
        let limit = self.limit.get(reader)?;
        // SAFETY: attached; −1 may be an error.
        let limit = unsafe { ffi::PyLong_AsSsize_t(limit.as_ptr()) };
        if limit == -1 {
            // SAFETY: attached. A limit beyond what a buffer can hold is none.
            unsafe { ffi::PyErr_Clear() };
            return Ok(());
        }
        if size.cast_signed() <= limit.saturating_mul(2) {
            return Ok(());
        }
        let transport = self.transport.get(reader)?;
        // SAFETY: `None` is always live.
        let none = unsafe { ffi::Py_None() };
        if transport.as_ptr() == none || is_true(&self.paused.get(reader)?)? {
            return Ok(());
        }
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        match transport.bind(py).call_method0("pause_reading") {
            Ok(_) => self.paused.set(reader, Ref::bool(true).as_ptr()),
            // It can't: everything has to be kept, and there is no point in trying again.
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                self.transport.set(reader, none)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What a weak reference refers to, while it lives.
fn referent(weak: &Ref) -> FfiResult<Option<Ref>> {
    let mut object = ptr::null_mut::<PyObject>();
    // SAFETY: attached; gives a new reference, or null if the object is gone.
    unsafe {
        match ffi::compat::PyWeakref_GetRef(weak.as_ptr(), &raw mut object) {
            0 => Ok(None),
            1 => Ref::new(object).map(Some),
            _ => Err(ErrSet),
        }
    }
}

fn is_true(object: &Ref) -> FfiResult<bool> {
    // SAFETY: attached; the object is live.
    match unsafe { ffi::PyObject_IsTrue(object.as_ptr()) } {
        -1 => Err(ErrSet),
        answer => Ok(answer == 1),
    }
}

/// Appends to an exact `bytearray` and gives its new size; `None` for anything else.
fn append(buffer: &Ref, data: &[u8]) -> FfiResult<Option<usize>> {
    // SAFETY: attached; an exact bytearray that has been resized has room for the data behind its old end.
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

static NATIVE_PROTOCOL: NativeProtocol = NativeProtocol {
    data_received: feed_protocol,
    error_message: "Fatal error: protocol.data_received() call failed.",
};

unsafe fn feed_protocol(_: LoopContext<'_>, protocol: &Ref, data: &[u8]) -> FfiResult<()> {
    let known = KNOWN
        .get()
        .ok_or_else(|| PySystemError::new_err("streams were used before they were imported"))
        .map_err(ErrSet::from)?;
    if known.feed(protocol, data)? {
        return Ok(());
    }
    // SAFETY: attached; the name and the protocol are live.
    unsafe {
        let data = Ref::new(ffi::PyBytes_FromStringAndSize(
            data.as_ptr().cast(),
            data.len().cast_signed(),
        ))?;
        let args = [protocol.as_ptr(), data.as_ptr()];
        Ref::new(ffi::PyObject_VectorcallMethod(
            Stdlib::get().names.data_received.as_ptr(),
            args.as_ptr(),
            2,
            ptr::null_mut(),
        ))?;
    }
    Ok(())
}

fn find(protocol: &Ref) -> Option<&'static NativeProtocol> {
    KNOWN
        .get()?
        .protocol
        .is_class_of(protocol)
        .then_some(&NATIVE_PROTOCOL)
}

/// Looks at asyncio's classes. If they are not what this code knows, data goes to `data_received()`.
pub fn register(py: Python<'_>) -> PyResult<()> {
    // A `bytearray` that another thread may resize at the same time is for its own methods.
    if !cfg!(Py_GIL_DISABLED) && KNOWN.get().is_none() {
        if let Some(known) = Known::find(py)? {
            // A second import of the module finds it set.
            let _ = KNOWN.set(known);
        }
    }
    native_protocol::register(find);
    Ok(())
}
