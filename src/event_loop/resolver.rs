//! `getaddrinfo`: literal addresses at once, names on the resolver's own threads.
//!
//! What is not plain goes the way of asyncio, in the executor: debug mode, which logs slow lookups, arguments of unusual
//! types, and a `socket.getaddrinfo` that somebody has replaced.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{c_char, c_int, CStr, CString};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hybridloop_reactor::resolver::{self, Address, Answer, Failure, Found, Query};
use hybridloop_reactor::{Inbox, WakeHandle};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple, PyType};

use super::schedule::{current, install, ASYNCIO};
use super::watch::resolve;
use super::{errors, LoopCore};
use crate::fastcall;
use crate::ffi::arguments::{bind, Parameter};
use crate::ffi::coroutine::{self, Class, Operation, Step, Visit};
use crate::ffi::{Args, Local, Raised, Ref, Res};

/// Lookups of one loop that are under way.
pub struct Lookups {
    mailbox: Arc<Mailbox>,
    /// The futures that wait, by number.
    waiting: Local<HashMap<u64, Ref>>,
    last: Cell<u64>,
}

/// Where finished lookups are reported. It outlives the loop if a lookup does.
struct Mailbox {
    done: Inbox<u64>,
    /// Gone once the loop is closed.
    waker: Mutex<Option<WakeHandle>>,
}

impl Mailbox {
    fn waker(&self) -> std::sync::MutexGuard<'_, Option<WakeHandle>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, number: u64) {
        // Nobody sleeps on this inbox itself.
        let _ = self.done.push(number);
        if let Some(waker) = self.waker().as_ref() {
            // It fails only when the counter is full, and then the loop has been woken.
            let _ = waker.wake();
        }
    }
}

/// What the thread and the coroutine of a lookup share.
#[derive(Default)]
struct Slot {
    answer: Mutex<Option<Answer>>,
    given_up: AtomicBool,
}

impl Lookups {
    pub fn new(waker: WakeHandle) -> Self {
        Self {
            mailbox: Arc::new(Mailbox {
                done: Inbox::new(),
                waker: Mutex::new(Some(waker)),
            }),
            waiting: Local::default(),
            last: Cell::new(0),
        }
    }

    /// Whether a lookup has finished.
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.mailbox.done.has_mail()
    }

    /// Wakes who waits for lookups that have finished.
    #[cold]
    pub fn deliver(&self, event_loop: *mut PyObject) -> Res<()> {
        self.mailbox.done.open();
        while let Some(number) = self.mailbox.done.pop() {
            let future = self.waiting.with(|waiting| waiting.remove(&number));
            if let Some(future) = future {
                errors::contain(event_loop, resolve(&future))?;
            }
        }
        Ok(())
    }

    /// Lets go of everything, for a loop that is closed.
    pub fn close(&self) {
        let waker = self.mailbox.waker().take();
        drop(waker);
        drop(self.waiting.take());
    }

    /// Shows the futures to the collector.
    pub fn each<E>(&self, visit: impl FnMut(&Ref) -> Result<(), E>) -> Result<(), E> {
        self.waiting
            .with(|waiting| waiting.values().try_for_each(visit))
    }

    fn start(&self, query: Query, slot: &Arc<Slot>) -> Res<u64> {
        let number = self.last.get() + 1;
        self.last.set(number);
        let (slot, mailbox) = (Arc::clone(slot), Arc::clone(&self.mailbox));
        let job = move || {
            if slot.given_up.load(Ordering::Relaxed) {
                return;
            }
            let answer = query.ask();
            *slot.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            mailbox.deliver(number);
        };
        resolver::spawn(Box::new(job))
            .map_err(|_| PyRuntimeError::new_err("can't start new thread"))?;
        Ok(number)
    }
}

/// One call of `getaddrinfo`.
struct Lookup {
    event_loop: Ref,
    host: Ref,
    port: Ref,
    /// Family, type, protocol and flags.
    hints: [c_int; 4],
    under_way: Local<Option<(u64, Arc<Slot>)>>,
}

static CLASS: Class = Class::new();

impl Operation for Lookup {
    fn class() -> &'static Class {
        &CLASS
    }

    fn step(&self) -> Res<Step> {
        // SAFETY: attached.
        let py = unsafe { Python::assume_attached() };
        let (number, slot) = match self.under_way.take() {
            Some((number, slot)) => {
                let answer = slot
                    .answer
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                match answer {
                    Some(Ok(found)) => return Ok(Step::Done(list(py, &found)?)),
                    Some(Err(failure)) => return Err(error_of(py, &failure)?.into()),
                    None => (number, slot),
                }
            }
            None => {
                self.audit()?;
                let query = match self.query(py)? {
                    Ok(found) => return Ok(Step::Done(list(py, &found)?)),
                    Err(query) => query,
                };
                let slot = Arc::default();
                (self.lookups().start(query, &slot)?, slot)
            }
        };
        // The answer is delivered by this thread, so there is time to wait for it.
        // SAFETY: the loop of a call is a LoopCore.
        let future =
            unsafe { LoopCore::of(self.event_loop.as_ptr()).new_future(self.event_loop.as_ptr()) };
        drop(self.under_way.replace(Some((number, slot))));
        let future = future?;
        let before = self
            .lookups()
            .waiting
            .with(|waiting| waiting.insert(number, future.clone()));
        drop(before);
        Ok(Step::Wait(future))
    }

    fn abandon(&self) {
        if let Some((number, slot)) = self.under_way.take() {
            slot.given_up.store(true, Ordering::Relaxed);
            let future = self
                .lookups()
                .waiting
                .with(|waiting| waiting.remove(&number));
            drop(future);
        }
    }

    fn traverse(&self, visit: Visit<'_>) -> c_int {
        [&self.event_loop, &self.host, &self.port]
            .into_iter()
            .map(visit)
            .find(|stop| *stop != 0)
            .unwrap_or(0)
    }
}

impl Lookup {
    fn lookups(&self) -> &Lookups {
        // SAFETY: the operation holds the loop, and that of a call is a LoopCore.
        &unsafe { LoopCore::of(self.event_loop.as_ptr()) }.lookups
    }

    /// Tells audit hooks, as the function of `socket` does.
    fn audit(&self) -> Res<()> {
        let [family, kind, protocol, _] = self.hints;
        // SAFETY: attached; the format fits the arguments.
        let failed = unsafe {
            PySys_Audit(
                c"socket.getaddrinfo".as_ptr(),
                c"OOiii".as_ptr(),
                self.host.as_ptr(),
                self.port.as_ptr(),
                family,
                kind,
                protocol,
            )
        };
        if failed == 0 {
            Ok(())
        } else {
            Err(Raised)
        }
    }

    /// What to ask for, or what is found without asking.
    fn query(&self, py: Python<'_>) -> Res<Result<Vec<Found>, Query>> {
        let [family, kind, protocol, flags] = self.hints;
        let (host, port) = (self.host.bind(py), self.port.bind(py));
        let mut query = Query {
            host: text(host)?,
            service: text(port)?,
            family,
            kind,
            protocol,
            flags,
        };
        if let Some(found) = query.literal() {
            return Ok(Ok(found));
        }
        if let Ok(name) = host.cast::<PyString>() {
            query.host = text(&name.call_method1("encode", ("idna",))?)?;
            if let Some(found) = query.literal() {
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

/// A text for the system: of `str`, `bytes` or `int`. None for what has no place there, which is refused before.
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

/// Whether `host` or `port` is of a type that needs no judgement.
unsafe fn is_plain(object: *mut PyObject, number: bool) -> bool {
    // SAFETY: an argument is live during the call.
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

/// The number of a hint, if it is one.
unsafe fn hint(object: *mut PyObject) -> Option<c_int> {
    // SAFETY: an argument is live during the call.
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

/// What is used of `socket`.
struct Module {
    whole: Ref,
    /// The contents of `asyncio.base_events`, and its name for the module.
    user_contents: Ref,
    socket: Ref,
    contents: Ref,
    native_contents: Ref,
    name: Ref,
    /// The functions that the resolver stands in for.
    functions: Option<[Ref; 2]>,
    gaierror: Ref,
    families: Enumeration,
    kinds: Enumeration,
}

/// Numbers that `socket` shows as members of an enumeration.
struct Enumeration {
    known: Vec<(c_int, Ref)>,
    converter: Ref,
    class: Ref,
}

impl Enumeration {
    fn new(module: &Bound<'_, PyModule>, class: &str, names: &[&str]) -> PyResult<Self> {
        let mut known = Vec::new();
        for name in names {
            if let Ok(member) = module.getattr(*name) {
                known.push((member.extract()?, member.into()));
            }
        }
        Ok(Self {
            known,
            converter: module.getattr("_intenum_converter")?.into(),
            class: module.getattr(class)?.into(),
        })
    }

    fn member(&self, py: Python<'_>, number: c_int) -> PyResult<Ref> {
        if let Some((_, member)) = self.known.iter().find(|(known, _)| *known == number) {
            return Ok(member.clone());
        }
        Ok(self
            .converter
            .bind(py)
            .call1((number, self.class.bind(py)))?
            .into())
    }
}

static MODULE: OnceLock<Module> = OnceLock::new();

impl Module {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let module = py.import("socket")?;
        let native = py.import("_socket")?;
        let (function, native_function) = (
            module.getattr("getaddrinfo")?,
            native.getattr("getaddrinfo")?,
        );
        // One that was replaced before this package was imported is no less replaced.
        let original = function
            .getattr("__globals__")
            .is_ok_and(|globals| globals.is(module.dict()))
            && native_function
                .getattr("__self__")
                .is_ok_and(|owner| owner.is(&native));
        Ok(Self {
            whole: module.clone().into_any().into(),
            user_contents: py.import("asyncio.base_events")?.dict().into_any().into(),
            socket: PyString::intern(py, "socket").into(),
            contents: module.dict().into_any().into(),
            native_contents: native.dict().into_any().into(),
            name: PyString::intern(py, "getaddrinfo").into(),
            functions: original.then(|| [function.into(), native_function.into()]),
            gaierror: module.getattr("gaierror")?.into(),
            families: Enumeration::new(&module, "AddressFamily", &["AF_INET", "AF_INET6"])?,
            kinds: Enumeration::new(
                &module,
                "SocketKind",
                &["SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW"],
            )?,
        })
    }

    /// Whether the `socket.getaddrinfo` that asyncio would call is Python's own.
    fn is_original(&self) -> bool {
        let same = |contents, name, object: &Ref| match current(contents, name) {
            Ok(found) => std::ptr::eq(found.as_ptr(), object.as_ptr()),
            Err(Raised) => {
                // SAFETY: attached.
                unsafe { ffi::PyErr_Clear() };
                false
            }
        };
        self.functions.as_ref().is_some_and(|[function, native]| {
            same(&self.contents, &self.name, function)
                && same(&self.native_contents, &self.name, native)
                && same(&self.user_contents, &self.socket, &self.whole)
        })
    }
}

fn module(py: Python<'_>) -> PyResult<&'static Module> {
    if let Some(module) = MODULE.get() {
        return Ok(module);
    }
    let made = Module::new(py)?;
    Ok(MODULE.get_or_init(|| made))
}

/// The list that `socket.getaddrinfo` returns.
fn list(py: Python<'_>, found: &[Found]) -> PyResult<Ref> {
    let module = module(py)?;
    let list = PyList::empty(py);
    for entry in found {
        let name = match &entry.canonical_name {
            Some(name) => decoded(py, name)?,
            None => PyString::intern(py, ""),
        };
        list.append((
            module.families.member(py, entry.family)?.bind(py),
            module.kinds.member(py, entry.kind)?.bind(py),
            entry.protocol,
            name,
            address(py, entry)?,
        ))?;
    }
    Ok(list.into_any().into())
}

fn decoded<'py>(py: Python<'py>, text: &CStr) -> PyResult<Bound<'py, PyString>> {
    PyString::from_bytes(py, text.to_bytes())
}

fn address<'py>(py: Python<'py>, entry: &Found) -> PyResult<Bound<'py, PyTuple>> {
    match &entry.address {
        Address::V4 { host, port } => (host, *port).into_pyobject(py),
        Address::V6 {
            host,
            port,
            flow,
            scope,
        } => (host, *port, *flow, *scope).into_pyobject(py),
        Address::Other(data) => (entry.family, PyBytes::new(py, data)).into_pyobject(py),
    }
}

/// `socket.gaierror`, or an `OSError` for an error of the system.
fn error_of(py: Python<'_>, failure: &Failure) -> PyResult<PyErr> {
    if failure.code == libc::EAI_SYSTEM {
        return Ok(errors::os_error(&io::Error::from_raw_os_error(
            failure.errno,
        )));
    }
    let message = decoded(py, &failure.message)?;
    let error = module(py)?
        .gaierror
        .bind(py)
        .call1((failure.code, message))?;
    Ok(PyErr::from_value(error))
}

/// `getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0)`.
unsafe fn getaddrinfo(slf: *mut PyObject, args: Args<'_>) -> Res<Ref> {
    const PARAMETERS: [Parameter; 6] = [
        Parameter::needed(c"host"),
        Parameter::needed(c"port"),
        Parameter::optional(c"family"),
        Parameter::optional(c"type"),
        Parameter::optional(c"proto"),
        Parameter::optional(c"flags"),
    ];
    const BY_POSITION: usize = 2;
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let core = LoopCore::of(slf);
        let own_way = args.positional.len() <= BY_POSITION
            && !core.is_debug()
            && !core.is_closed()
            && module(Python::assume_attached())?.is_original();
        if own_way {
            let [host, port, hints @ ..] = bind(b"getaddrinfo", PARAMETERS, &args)?;
            let [family, kind, protocol, flags] = hints.map(|object| hint(object));
            if let (true, true, Some(family), Some(kind), Some(protocol), Some(flags)) = (
                is_plain(host, false),
                is_plain(port, true),
                family,
                kind,
                protocol,
                flags,
            ) {
                let operation = Lookup {
                    event_loop: Ref::borrowed(slf),
                    host: Ref::borrowed(host),
                    port: Ref::borrowed(port),
                    hints: [family, kind, protocol, flags],
                    under_way: Local::default(),
                };
                return coroutine::new(operation, c"Loop.getaddrinfo");
            }
        }
        inherited(slf, &args)
    }
}

/// `asyncio.BaseEventLoop.getaddrinfo`.
#[cold]
unsafe fn inherited(slf: *mut PyObject, args: &Args<'_>) -> Res<Ref> {
    // SAFETY: as for `getaddrinfo`.
    unsafe {
        let py = Python::assume_attached();
        let borrowed = |object| Bound::from_borrowed_ptr(py, object);
        let kwargs = PyDict::new(py);
        for (name, value) in args.keywords() {
            kwargs.set_item(borrowed(name), borrowed(value))?;
        }
        let positional: Vec<_> = std::iter::once(slf)
            .chain(args.positional.iter().copied())
            .map(borrowed)
            .collect();
        let class = py.import("asyncio.base_events")?.getattr("BaseEventLoop")?;
        let called = class
            .getattr("getaddrinfo")?
            .call(PyTuple::new(py, positional)?, Some(&kwargs))?;
        Ok(called.into())
    }
}

/// Makes the class of the coroutines and adds the method to the loop.
pub fn register(class: &Bound<'_, PyType>) -> PyResult<()> {
    CLASS.init::<Lookup>(class.py(), c"hybridloop._core.Lookup")?;
    // At import, when nobody has replaced the functions yet.
    module(class.py())?;
    install(
        class,
        [(
            fastcall!(c"getaddrinfo", getaddrinfo),
            ASYNCIO,
            "Like socket.getaddrinfo(), without blocking the loop.",
        )],
    )
}
