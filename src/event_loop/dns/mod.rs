//! `getaddrinfo` and `getnameinfo`: literal addresses at once, names on the resolver's own threads.
//!
//! * [`convert`] — conversion of results to the objects that `socket` returns.
//!
//! asyncio's implementation, in the executor, is used in debug mode, which logs slow lookups, for arguments of unusual types,
//! and if `socket.getaddrinfo` was replaced.

mod convert;

use std::collections::HashMap;
use std::ffi::{c_char, c_int, CString};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hybridloop_reactor::dns::{self, AddressInfo, AddressQuery, LookupError, NameQuery, Names};
use hybridloop_reactor::WakeHandle;
use hybridloop_sync::primitives::lock;
use hybridloop_sync::WakingQueue;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyType};

use self::convert::{decoded, error_of, list, module};
use crate::allocator::out_of_memory;
use crate::event_loop::methods::{install, ASYNCIO};
use crate::event_loop::{exceptions, LoopCore};
use crate::fastcall;
use crate::python::args::{bind, Parameter};
use crate::python::coroutine::{self, Class, Operation, Step, Visit};
use crate::python::{future, Args, ErrSet, FfiResult, LoopCell, Ref};

/// The pending lookups of one loop.
pub struct Lookups {
    /// The numbers of finished lookups. A pending lookup keeps it alive, also after the loop is closed.
    finished: Arc<WakingQueue<u64>>,
    /// The futures of pending lookups, by number.
    waiting: LoopCell<HashMap<u64, Ref>>,
    last: AtomicU64,
}

/// The result of a lookup.
enum Reply {
    Addresses(Result<Vec<AddressInfo>, LookupError>),
    Names(Result<Names, LookupError>),
}

impl Reply {
    /// The value that the coroutine returns, or the exception that it raises.
    fn outcome(self, py: Python<'_>) -> FfiResult<Step> {
        let failure = match self {
            Self::Addresses(Ok(found)) => return Ok(Step::Done(list(py, &found)?)),
            Self::Names(Ok(names)) => {
                let pair = (decoded(py, &names.host)?, decoded(py, &names.service)?);
                return Ok(Step::Done(pair.into_pyobject(py)?.into_any().into()));
            }
            Self::Addresses(Err(failure)) | Self::Names(Err(failure)) => failure,
        };
        Err(error_of(py, &failure)?.into())
    }
}

/// State that the thread and the coroutine of a lookup share.
#[derive(Default)]
struct Slot {
    reply: Mutex<Option<Reply>>,
    cancelled: AtomicBool,
}

impl Lookups {
    pub fn new(waker: WakeHandle) -> Self {
        let wake = move || {
            // It fails only if the counter is full; then the loop has been woken already.
            let _ = waker.wake();
        };
        Self {
            finished: Arc::new(WakingQueue::new(Some(Box::new(wake)))),
            waiting: LoopCell::default(),
            last: AtomicU64::new(0),
        }
    }

    /// Whether a lookup has finished.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.finished.is_pending()
    }

    /// Resolves the futures of finished lookups.
    #[cold]
    pub fn deliver(&self, event_loop: *mut PyObject) -> FfiResult<()> {
        self.finished.clear();
        while let Some(number) = self.finished.pop() {
            let future = self.waiting.with(|waiting| waiting.remove(&number));
            if let Some(future) = future {
                exceptions::report_unless_fatal(event_loop, future::resolve(&future))?;
            }
        }
        Ok(())
    }

    /// Drops all futures; the loop is closed.
    pub fn close(&self) {
        self.finished.stop_waking();
        drop(self.waiting.take());
    }

    /// Visits the futures, for the garbage collector.
    pub fn each<E>(&self, visit: impl FnMut(&Ref) -> Result<(), E>) -> Result<(), E> {
        self.waiting
            .with(|waiting| waiting.values().try_for_each(visit))
    }

    fn start(
        &self,
        resolve: impl FnOnce() -> Reply + Send + 'static,
        slot: &Arc<Slot>,
    ) -> FfiResult<u64> {
        self.waiting
            .with(|waiting| waiting.try_reserve(1))
            .map_err(out_of_memory)?;
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (slot, finished) = (Arc::clone(slot), Arc::clone(&self.finished));
        let job = move || {
            if slot.cancelled.load(Ordering::Relaxed) {
                return;
            }
            let reply = resolve();
            *lock(&slot.reply) = Some(reply);
            finished.push(number);
        };
        dns::spawn(Box::new(job)).map_err(|error| match error.raw_os_error() {
            Some(_) => PyRuntimeError::new_err("can't start new thread"),
            None => exceptions::os_error(&error),
        })?;
        Ok(number)
    }
}

/// One call of `getaddrinfo` or `getnameinfo`.
struct Lookup {
    event_loop: Ref,
    request: Request,
    pending: LoopCell<Option<(u64, Arc<Slot>)>>,
}

enum Request {
    Addresses(Arguments),
    Names(NameQuery),
}

/// The arguments of `getaddrinfo`.
struct Arguments {
    host: Ref,
    port: Ref,
    /// Family, type, protocol and flags.
    hints: [c_int; 4],
}

static CLASS: Class = Class::new();

impl Operation for Lookup {
    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> FfiResult<Step> {
        // SAFETY: coroutines run in attached threads.
        let py = unsafe { Python::assume_attached() };
        let (number, slot) = match self.pending.take() {
            Some((number, slot)) => {
                let reply = lock(&slot.reply).take();
                match reply {
                    Some(reply) => return reply.outcome(py),
                    None => (number, slot),
                }
            }
            None => {
                let slot = Arc::default();
                let number = match &self.request {
                    Request::Addresses(arguments) => {
                        arguments.audit()?;
                        let query = match arguments.query(py)? {
                            Ok(found) => return Ok(Step::Done(list(py, &found)?)),
                            Err(query) => query,
                        };
                        self.lookups()
                            .start(move || Reply::Addresses(query.resolve()), &slot)?
                    }
                    Request::Names(query) => {
                        let query = query.clone();
                        self.lookups()
                            .start(move || Reply::Names(query.resolve()), &slot)?
                    }
                };
                (number, slot)
            }
        };
        // `deliver` runs in this thread, so the future is registered before the reply is delivered.
        // SAFETY: the methods that make a `Lookup` store their receiver, a `LoopCore`, and the operation holds it.
        let future =
            unsafe { LoopCore::of(self.event_loop.as_ptr()).new_future(self.event_loop.as_ptr()) };
        drop(self.pending.replace(Some((number, slot))));
        let future = future?;
        let before = self
            .lookups()
            .waiting
            .with(|waiting| waiting.insert(number, future.clone()));
        drop(before);
        Ok(Step::Wait(future))
    }

    fn abandon(&self) {
        if let Some((number, slot)) = self.pending.take() {
            slot.cancelled.store(true, Ordering::Relaxed);
            let future = self
                .lookups()
                .waiting
                .with(|waiting| waiting.remove(&number));
            drop(future);
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        let stop = visit(&self.event_loop);
        match &self.request {
            Request::Addresses(arguments) if stop == 0 => [&arguments.host, &arguments.port]
                .into_iter()
                .map(visit)
                .find(|stop| *stop != 0)
                .unwrap_or(0),
            _ => stop,
        }
    }
}

impl Lookup {
    fn lookups(&self) -> &Lookups {
        // SAFETY: the methods that make a `Lookup` store their receiver, a `LoopCore`, and the operation holds it.
        &unsafe { LoopCore::of(self.event_loop.as_ptr()) }.lookups
    }
}

impl Arguments {
    /// Raises the audit event of `socket.getaddrinfo`.
    fn audit(&self) -> FfiResult<()> {
        let [family, socktype, protocol, _] = self.hints;
        // SAFETY: coroutines run in attached threads. The format matches the types of the arguments, which are live.
        let failed = unsafe {
            PySys_Audit(
                c"socket.getaddrinfo".as_ptr(),
                c"OOiii".as_ptr(),
                self.host.as_ptr(),
                self.port.as_ptr(),
                family,
                socktype,
                protocol,
            )
        };
        if failed == 0 {
            Ok(())
        } else {
            Err(ErrSet)
        }
    }

    /// The addresses if no lookup is needed, or the query.
    fn query(&self, py: Python<'_>) -> FfiResult<Result<Vec<AddressInfo>, AddressQuery>> {
        let [family, socktype, protocol, flags] = self.hints;
        let (host, port) = (self.host.bind(py), self.port.bind(py));
        let mut query = AddressQuery {
            host: text(host)?,
            service: text(port)?,
            family,
            socktype,
            protocol,
            flags,
        };
        if let Some(found) = query.resolve_literal() {
            return Ok(Ok(found));
        }
        if let Ok(name) = host.cast::<PyString>() {
            query.host = text(&name.call_method1("encode", ("idna",))?)?;
            if let Some(found) = query.resolve_literal() {
                return Ok(Ok(found));
            }
        }
        Ok(Err(query))
    }
}

extern "C" {
    /// Public, and missing in `pyo3-ffi`.
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

/// A C string of `str`, `bytes` or `int`; `None` for `None` and for text that a C string cannot hold.
fn text(object: &Bound<'_, PyAny>) -> PyResult<Option<CString>> {
    let bytes = if let Ok(bytes) = object.cast::<PyBytes>() {
        bytes.as_bytes().to_vec()
    } else if let Ok(text) = object.cast::<PyString>() {
        match text.to_str() {
            Ok(text) => text.as_bytes().to_vec(),
            Err(_) => return Ok(None),
        }
    } else if object.is_none() {
        return Ok(None);
    } else {
        object.extract::<i64>()?.to_string().into_bytes()
    };
    Ok(CString::new(bytes).ok())
}

/// Whether `host` or `port` has a type and value that need no check by `socket`.
///
/// # Safety
/// `object` is an argument of the current call.
unsafe fn is_plain(object: *mut PyObject, number: bool) -> bool {
    // SAFETY: the caller passes an argument of the current call, which CPython keeps alive.
    unsafe {
        if object == ffi::Py_None() {
            return true;
        }
        if ffi::PyBytes_CheckExact(object) != 0 {
            let bytes = Bound::from_borrowed_ptr(Python::assume_attached(), object);
            return bytes
                .cast::<PyBytes>()
                .is_ok_and(|bytes| !bytes.as_bytes().contains(&0));
        }
        if ffi::PyUnicode_CheckExact(object) != 0 {
            let text = Bound::from_borrowed_ptr(Python::assume_attached(), object);
            let Ok(text) = text.cast::<PyString>() else {
                return false;
            };
            return match text.to_str() {
                Ok(text) => !text.contains('\0') && (!number || text.is_ascii()),
                Err(_) => false,
            };
        }
        number && ffi::PyLong_CheckExact(object) != 0 && {
            let fits = ffi::PyLong_AsLongLong(object) != -1 || ffi::PyErr_Occurred().is_null();
            ffi::PyErr_Clear();
            fits
        }
    }
}

/// The number of a hint; `None` if it is not a C `int`.
///
/// # Safety
/// `object` is an argument of the current call, or null.
unsafe fn hint(object: *mut PyObject) -> Option<c_int> {
    // SAFETY: the caller passes an argument of the current call, which CPython keeps alive.
    unsafe {
        if object.is_null() {
            return Some(0);
        }
        if ffi::PyLong_Check(object) == 0 {
            return None;
        }
        let number = ffi::PyLong_AsLong(object);
        if number == -1 && !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        c_int::try_from(number).ok()
    }
}

/// `getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0)`.
unsafe fn getaddrinfo(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    const PARAMETERS: [Parameter; 6] = [
        Parameter::required(c"host"),
        Parameter::required(c"port"),
        Parameter::optional(c"family"),
        Parameter::optional(c"type"),
        Parameter::optional(c"proto"),
        Parameter::optional(c"flags"),
    ];
    const BY_POSITION: usize = 2;
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let use_resolver = args.positional.len() <= BY_POSITION
            && !core.is_debug()
            && !core.is_closed()
            && module(Python::assume_attached())?.is_original();
        if use_resolver {
            let [host, port, hints @ ..] = bind(c"getaddrinfo", PARAMETERS, &args)?;
            let [family, socktype, protocol, flags] = hints.map(|object| hint(object));
            if let (true, true, Some(family), Some(socktype), Some(protocol), Some(flags)) = (
                is_plain(host, false),
                is_plain(port, true),
                family,
                socktype,
                protocol,
                flags,
            ) {
                let operation = Lookup {
                    event_loop: Ref::borrowed(slf),
                    request: Request::Addresses(Arguments {
                        host: Ref::borrowed(host),
                        port: Ref::borrowed(port),
                        hints: [family, socktype, protocol, flags],
                    }),
                    pending: LoopCell::default(),
                };
                return coroutine::new(operation, c"Loop.getaddrinfo");
            }
        }
        inherited(slf, &args)
    }
}

/// `_getnameinfo(host, port, flowinfo, scope_id, flags)`: what `getnameinfo` awaits. The address is numeric.
unsafe fn getnameinfo(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let &[host, service, flow, scope, flags] = args.positional else {
        return Err(PyTypeError::new_err("_getnameinfo() takes five arguments").into());
    };
    // SAFETY: `slf` is a live `LoopCore`: CPython passes the method's receiver, whose class the descriptor has checked. It
    // keeps the arguments alive during the call.
    unsafe {
        let py = Python::assume_attached();
        LoopCore::of(slf).check_open()?;
        let borrowed = |object| Bound::from_borrowed_ptr(py, object);
        let operation = Lookup {
            event_loop: Ref::borrowed(slf),
            request: Request::Names(NameQuery {
                host: text(&borrowed(host))?.unwrap_or_default(),
                service: text(&borrowed(service))?.unwrap_or_default(),
                flow: borrowed(flow).extract()?,
                scope: borrowed(scope).extract()?,
                flags: borrowed(flags).extract()?,
            }),
            pending: LoopCell::default(),
        };
        coroutine::new(operation, c"Loop.getnameinfo")
    }
}

/// `asyncio.BaseEventLoop.getaddrinfo`.
#[cold]
unsafe fn inherited(slf: *mut PyObject, args: &Args<'_>) -> FfiResult<Ref> {
    // SAFETY: the caller is a method of the live `LoopCore` `slf`; CPython calls it attached and keeps its arguments alive.
    unsafe {
        let py = Python::assume_attached();
        let class = py.import("asyncio.base_events")?.getattr("BaseEventLoop")?;
        args.call_method(class.getattr("getaddrinfo")?.as_ptr(), slf)
    }
}

/// Makes the class of the coroutines and adds the method to the loop.
pub fn register(class: &Bound<'_, PyType>) -> PyResult<()> {
    CLASS.init::<Lookup>(class.py(), c"hybridloop._core.Lookup")?;
    // At import, before a program can replace the functions.
    module(class.py())?;
    install(
        class,
        [
            (
                fastcall!(c"getaddrinfo", getaddrinfo),
                ASYNCIO,
                "Like socket.getaddrinfo(), without blocking the loop.",
            ),
            (
                fastcall!(c"_getnameinfo", getnameinfo),
                "(self, host, port, flowinfo, scope_id, flags, /)",
                "Names of an address in numbers.",
            ),
        ],
    )
}
