//! Accepting connections.
//!
//! * [`accepting`] — the task that stands for an accepted connection until its transport is made.

pub mod accepting;

use std::io;
use std::os::fd::RawFd;

use hybridloop_reactor::Interest;
use hybridloop_sync::clock::{now_ns, ns_to_seconds};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::PyType;
use pyo3::PyTraverseError;
use socket2::SockAddr;

use crate::event_loop::{
    exceptions, file_descriptor, install, IoRef, IoSource, LoopContext, LoopCore, LoopRef, Source,
    SourceVTable,
};
use crate::fastcall;
use crate::python::stdlib::Stdlib;
use crate::python::unstable::socket_fd::still_open;
use crate::python::{context, nested_drop, Args, Cell, ErrSet, FfiResult, LoopCell, Ref};
use crate::transports::address::{Address, Side};
use crate::transports::base::{FdGuard, Transport};
use crate::transports::listener::accepting::Accepted;
use crate::transports::stream::{create, Parts, Stream};

const CREATION_FAILED: &str = "Error on transport creation for incoming connection";

/// A listening socket of a server.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct Listener {
    fd: RawFd,
    backlog: u32,
    event_loop: LoopCell<Option<LoopRef>>,
    factory: LoopCell<Option<Ref>>,
    server: LoopCell<Option<Ref>>,
    socket: LoopCell<Option<Ref>>,
    context: LoopCell<Option<Ref>>,
    stopped: Cell<bool>,
    /// Out of descriptors: new connections wait until it is tried again.
    resting: Cell<bool>,
}

// SAFETY: touched by the thread that holds the loop, like the loop's own state.
unsafe impl Sync for Listener {}

impl Listener {
    fn slots(&self) -> [&LoopCell<Option<Ref>>; 4] {
        [&self.factory, &self.server, &self.socket, &self.context]
    }

    fn stop(&self) {
        self.stopped.set(true);
    }

    /// The descriptor; −1 once somebody has closed the socket, since its number may belong to somebody else by then.
    fn open_fd(&self) -> RawFd {
        match self.socket.get() {
            // SAFETY: called by the loop, attached; the socket is held here.
            Some(socket) => unsafe { still_open(socket.as_ptr(), self.fd) },
            None => self.fd,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        nested_drop::drop_content((self.event_loop.take(), self.slots().map(LoopCell::take)));
    }
}

#[pymethods]
impl Listener {
    /// Tries again after the system ran out of descriptors.
    fn _retry(slf: &Bound<'_, Self>) {
        let it = slf.get();
        it.resting.set(false);
        if let Some(event_loop) = it.event_loop.get().filter(|_| !it.stopped.get()) {
            go_on_later(event_loop.core(), &slf.into());
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(event_loop) = self
            .event_loop
            .with(|slot| slot.as_ref().map(std::ptr::from_ref))
        {
            // SAFETY: nothing changes the slot while the collector looks.
            unsafe { &*event_loop }.object().visit(&visit)?;
        }
        for slot in self.slots() {
            if let Some(object) = slot.with(|slot| slot.as_ref().map(std::ptr::from_ref)) {
                // SAFETY: nothing changes the slot while the collector looks.
                unsafe { &*object }.visit(&visit)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.stop();
        drop(self.event_loop.take());
        for slot in self.slots() {
            drop(slot.take());
        }
    }
}

/// `_listen(protocol_factory, sock, server, backlog, context)`: accepts connections and makes transports of them, each in a
/// copy of `context`, or of the current context if that is `None`.
unsafe fn listen(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let &[factory, socket, server, backlog, context] = args.positional else {
        return Err(pyo3::exceptions::PyTypeError::new_err("_listen() takes 5 arguments").into());
    };
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let py = Python::assume_attached();
        let core = LoopCore::of(slf);
        core.check_open()?;
        let fd = file_descriptor(socket)?;
        let backlog: i64 = Bound::from_borrowed_ptr(py, backlog).extract()?;
        // On Linux accepted sockets inherit this, which saves a system call for each.
        set_nodelay(fd);
        let some = |object| LoopCell::new(Some(Ref::borrowed(object)));
        let listener = Bound::new(
            py,
            Listener {
                fd,
                backlog: u32::try_from(backlog.max(1)).unwrap_or(u32::MAX),
                event_loop: LoopCell::new(Some(LoopRef::borrowed(slf))),
                factory: some(factory),
                server: some(server),
                socket: some(socket),
                context: LoopCell::new(Some(context::given_or_copy(context)?)),
                stopped: Cell::new(false),
                resting: Cell::new(false),
            },
        )?;
        let source = Source::IoSource(IoSource::owned(Ref::from(&listener), &LISTENER));
        core.keep_places()?;
        let known = core.descriptors.with(|all| all.token(fd).is_some());
        let (token, replaced) = core.descriptors.with(|all| all.insert(fd, source));
        if let Some(replaced) = replaced {
            replaced.forget();
        }
        if let Err(error) = core.register_edge(fd, token, Interest::READ, known) {
            if let Some(source) = core.descriptors.with(|all| all.remove(fd, token)) {
                source.forget();
            }
            return Err(exceptions::os_error(&error).into());
        }
    }
    Ok(Ref::none())
}

/// Sends small writes at once. What is no TCP socket does not know the option, which is no error.
fn set_nodelay(fd: RawFd) {
    let on: libc::c_int = 1;
    // SAFETY: the option value is valid for the call.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            4,
        )
    };
}

/// What the loop asks of a listener.
static LISTENER: SourceVTable = SourceVTable {
    ready: |cx, listener, _| accept(cx, listener),
    resume: |cx, listener| accept(cx, listener),
    flush: |_, _| Ok(()),
    is_exclusive: |_| false,
    is_held: |_| true,
    dropped,
    is_reader: true,
};

/// No connection is accepted from now on, not even by an iteration that has begun to.
unsafe fn dropped(listener: *mut PyObject) {
    // SAFETY: the loop passes a live listener and gives back the reference that `listen` has put into the table.
    unsafe {
        let py = Python::assume_attached();
        let listener = Bound::from_owned_ptr(py, listener);
        if let Ok(listener) = listener.cast::<Listener>() {
            listener.get().stop();
        }
    }
}

fn pending(listener: Ref) -> IoRef {
    IoRef {
        object: listener,
        vtable: &LISTENER,
    }
}

/// Accepts what has come in, up to the backlog.
fn accept(cx: LoopContext<'_>, listener: &Ref) -> FfiResult<()> {
    let LoopContext { py, event_loop, .. } = cx;
    let it = listener
        .bind(py)
        .cast::<Listener>()
        .map_err(PyErr::from)?
        .get();
    let mut accepted = None;
    for _ in 0..it.backlog {
        if it.stopped.get() || it.resting.get() {
            return Ok(());
        }
        let result = match accept_one(it.open_fd()) {
            Ok((fd, peer)) => connected(cx, it, &mut accepted, fd, Address::new(&peer)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(()),
                Some(libc::EINTR | libc::ECONNABORTED) => Ok(()),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    return out_of_resources(cx, it, listener, error);
                }
                code => {
                    let _ = ErrSet::from(exceptions::os_error(&error));
                    let reported = report(event_loop, it, "socket.accept() failed");
                    if matches!(
                        code,
                        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP)
                    ) {
                        // This socket will never accept.
                        return reported;
                    }
                    reported
                }
            },
        };
        if result.is_err() {
            // What ends the loop must not lose the connections behind: no edge tells of them again.
            go_on_later(cx.core, listener);
            return result;
        }
    }
    go_on_later(cx.core, listener);
    Ok(())
}

/// Has the loop accept on in its next iteration.
fn go_on_later(core: &LoopCore, listener: &Ref) {
    core.to_resume
        .with(|again| again.push_back(pending(listener.clone())));
}

fn accept_one(fd: RawFd) -> io::Result<(RawFd, SockAddr)> {
    // SAFETY: the system writes an address of at most the given length into the storage.
    unsafe {
        SockAddr::try_init(|storage, length| {
            #[cfg(target_os = "linux")]
            let accepted = libc::accept4(
                fd,
                storage.cast(),
                length,
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            );
            #[cfg(not(target_os = "linux"))]
            let accepted = libc::accept(fd, storage.cast(), length);
            if accepted < 0 {
                return Err(io::Error::last_os_error());
            }
            #[cfg(not(target_os = "linux"))]
            {
                libc::fcntl(accepted, libc::F_SETFL, libc::O_NONBLOCK);
                libc::fcntl(accepted, libc::F_SETFD, libc::FD_CLOEXEC);
                set_nodelay(accepted);
            }
            Ok(accepted)
        })
    }
}

/// Tells the exception handler what the current exception did to the server.
fn report(event_loop: *mut PyObject, it: &Listener, message: &str) -> FfiResult<()> {
    match it.socket.get() {
        Some(socket) => {
            // SAFETY: attached. The exception waits while a wrapper without side effects is made.
            let py = unsafe { Python::assume_attached() };
            let error = PyErr::fetch(py);
            let shown: Ref = Stdlib::get()
                .transport_socket
                .bind(py)
                .call1((socket.bind(py),))?
                .into();
            let _ = ErrSet::from(error);
            exceptions::report(event_loop, message, &[("socket", &shown)])
        }
        None => exceptions::report(event_loop, message, &[]),
    }
}

#[cold]
fn out_of_resources(
    cx: LoopContext<'_>,
    it: &Listener,
    listener: &Ref,
    error: io::Error,
) -> FfiResult<()> {
    let LoopContext {
        py,
        core,
        event_loop,
    } = cx;
    it.resting.set(true);
    let retry: Ref = listener.bind(py).getattr("_retry")?.into();
    // Seconds, as asyncio waits.
    let delay: f64 = py
        .import("asyncio.constants")?
        .getattr("ACCEPT_RETRY_DELAY")?
        .extract()?;
    let when = ns_to_seconds(now_ns()) + delay;
    // SAFETY: all objects are live.
    unsafe { core.at(event_loop, when, retry.as_ptr(), &[], None)? };
    let _ = ErrSet::from(exceptions::os_error(&error));
    report(event_loop, it, "socket.accept() out of system resource")
}

/// Makes protocol and transport for a new connection. Whatever fails, the descriptor is closed and the reason told.
fn connected(
    cx: LoopContext<'_>,
    it: &Listener,
    accepted: &mut Option<Accepted>,
    fd: RawFd,
    peer: Address,
) -> FfiResult<()> {
    let LoopContext {
        py,
        core,
        event_loop,
    } = cx;
    let me = match make_transport(cx, it, accepted, fd, peer) {
        Ok(me) => me,
        Err(error) => {
            let _ = ErrSet::from(error);
            return exceptions::report(event_loop, CREATION_FAILED, &[]);
        }
    };
    // SAFETY: just made.
    let stream = unsafe { Stream::of(me.as_ptr()) };
    let made = stream
        .call_protocol(&Stdlib::get().names.connection_made, [me.as_ptr()])
        .map(drop)
        .or_else(|ErrSet| {
            let protocol = stream.protocol.get().unwrap_or_else(Ref::none);
            exceptions::report(
                event_loop,
                "Exception in callback protocol.connection_made()",
                &[("transport", &me), ("protocol", &protocol)],
            )
        });
    // What ends the loop here must not leave a connection that is never read.
    let ends_loop = made.err().map(|_| PyErr::fetch(py));
    if stream.start(core, me.as_ptr()).is_err() {
        Stream::fatal_error(&me, "Fatal error: the socket cannot be watched")?;
    }
    ends_loop.map_or(Ok(()), |error| Err(error.into()))
}

fn make_transport(
    cx: LoopContext<'_>,
    it: &Listener,
    accepted: &mut Option<Accepted>,
    fd: RawFd,
    peer: Address,
) -> PyResult<Ref> {
    let LoopContext { py, .. } = cx;
    let guard = FdGuard::new(fd, true);
    let accepted = match accepted {
        Some(accepted) => accepted,
        None => accepted.insert(Accepted::new(cx)?),
    };
    let context = match it.context.get() {
        Some(context) => context::copy(&context)?,
        None => context::copy_current()?,
    };
    let factory = it.factory.get().unwrap_or_else(Ref::none);
    // SAFETY: the context is held here.
    let protocol = unsafe {
        context::run_in(context.as_ptr(), || {
            Ok(Ref::from(factory.bind(py).call0()?))
        })?
    };
    let server = it.server.get().filter(|server| !server.bind(py).is_none());
    guard.release();
    let me = create(
        py,
        cx.loop_ref(),
        Parts {
            fd,
            socket: None,
            protocol,
            server,
            extra: None,
            context,
            peer,
        },
    )?;
    accepted.push(&me)?;
    Ok(me)
}

/// `_connect_stream(sock, protocol, waiter, extra, server, context)`: a transport for a connected socket, whose callbacks run
/// in `context`, or in a copy of the current context if that is `None`.
unsafe fn connect_stream(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let &[socket, protocol, waiter, extra, server, context] = args.positional else {
        return Err(
            pyo3::exceptions::PyTypeError::new_err("_connect_stream() takes 6 arguments").into(),
        );
    };
    // SAFETY: the method descriptor has checked `self`; arguments are live during the call.
    unsafe {
        let py = Python::assume_attached();
        let core = LoopCore::of(slf);
        core.check_open()?;
        let none = pyo3::ffi::Py_None();
        let some = |object: *mut PyObject| (object != none).then(|| Ref::borrowed(object));
        let fd = file_descriptor(socket)?;
        set_nodelay(fd);
        let mut peer = Address::default();
        peer.fill(fd, Side::Peer);
        let context = context::given_or_copy(context)?;
        let me = create(
            py,
            LoopRef::borrowed(slf),
            Parts {
                fd,
                socket: some(socket),
                protocol: Ref::borrowed(protocol),
                server: some(server),
                extra: some(extra),
                context: context.clone(),
                peer,
            },
        )?;
        // Whoever closes the socket may still ask for its name.
        Stream::of(me.as_ptr())
            .local
            .with(|local| local.fill(fd, Side::Local));
        let made: Ref = Bound::from_borrowed_ptr(py, protocol)
            .getattr("connection_made")?
            .into();
        core.soon(slf, made.as_ptr(), &[me.as_ptr()], Some(context.clone()))?;
        let start: Ref = me.bind(py).getattr("_start")?.into();
        core.soon(slf, start.as_ptr(), &[waiter], Some(context))?;
        Ok(me)
    }
}

/// Adds the class, and what makes streams to the loop.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Listener>()?;
    let class: Bound<'_, PyType> = module.py().get_type::<LoopCore>();
    install(
        &class,
        [
            (
                fastcall!(c"_listen", listen),
                "(self, protocol_factory, sock, server, backlog, context, /)",
                "Accept connections and make transports of them.",
            ),
            (
                fastcall!(c"_connect_stream", connect_stream),
                "(self, sock, protocol, waiter, extra, server, context, /)",
                "A transport for a connected socket.",
            ),
        ],
    )
}
