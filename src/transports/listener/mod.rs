//! Listening sockets: accepting connections, and making a protocol and a transport for each.
//!
//! * [`accept_task`] — the task that stands for connections until their transports have started.

pub mod accept_task;

use std::io;
use std::os::fd::RawFd;

use hybridloop_reactor::Interest;
use hybridloop_sync::clock::{now_ns, ns_to_seconds};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;
use socket2::SockAddr;

use crate::event_loop::{
    exceptions, file_descriptor, install, IoRef, IoSource, LoopContext, LoopCore, LoopRef, Source,
    SourceVTable,
};
use crate::fastcall;
use crate::python::stdlib::Stdlib;
use crate::python::unstable::socket_fd::still_open;
use crate::python::{context, nested_drop, Args, Cell, ErrSet, FfiResult, Ref, SlotCell};
use crate::transports::address::Address;
use crate::transports::lifecycle::fatal_error;
use crate::transports::listener::accept_task::AcceptTask;
use crate::transports::socket::{set_nodelay, FdGuard};
use crate::transports::stream::class::{create, StreamParts};
use crate::transports::stream::state::StreamTransport;

/// A listening socket of a server.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct Listener {
    fd: RawFd,
    backlog: u32,
    event_loop: SlotCell<LoopRef>,
    protocol_factory: SlotCell<Ref>,
    server: SlotCell<Ref>,
    socket: SlotCell<Ref>,
    context: SlotCell<Ref>,
    /// The descriptor was removed from the loop.
    stopped: Cell<bool>,
    /// The system is out of descriptors or memory: nothing is accepted until `_retry()` is called.
    backing_off: Cell<bool>,
}

// SAFETY: `LoopCell` lets one thread in at a time. A `Cell` is used with the interpreter lock held, and locks by itself on
// free-threaded builds.
unsafe impl Sync for Listener {}

impl Listener {
    fn slots(&self) -> [&SlotCell<Ref>; 4] {
        [
            &self.protocol_factory,
            &self.server,
            &self.socket,
            &self.context,
        ]
    }

    fn stop(&self) {
        self.stopped.set(true);
    }

    /// The descriptor; −1 once the program has closed the socket, because the system may have given its number to another file.
    fn open_fd(&self) -> RawFd {
        match self.socket.get() {
            // SAFETY: the clone keeps the socket alive, and only an attached thread can have it.
            Some(socket) => unsafe { still_open(socket.as_ptr(), self.fd) },
            None => self.fd,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let slots = self.slots().map(SlotCell::take);
        nested_drop::drop_content((self.event_loop.take(), slots));
    }
}

#[pymethods]
impl Listener {
    /// Accepts again, some time after the system ran out of descriptors.
    fn _retry(slf: &Bound<'_, Self>) {
        let listener = slf.get();
        listener.backing_off.set(false);
        if let Some(event_loop) = listener
            .event_loop
            .get()
            .filter(|_| !listener.stopped.get())
        {
            schedule_accept(event_loop.core(), &slf.into());
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.event_loop.visit(&visit)?;
        for slot in self.slots() {
            slot.visit(&visit)?;
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

/// `_listen(protocol_factory, sock, server, backlog, context)`: accepts connections and makes a transport for each, in a copy
/// of `context`, or of the current context if that is `None`.
unsafe fn listen(slf: *mut PyObject, args: Args<'_>) -> FfiResult<Ref> {
    let [factory, socket, server, backlog, context] = args.positional else {
        return Err(PyTypeError::new_err("_listen() takes 5 arguments").into());
    };
    // SAFETY: CPython calls a method of the loop `slf` in an attached thread; arguments are live during the call.
    let (cx, [factory, socket, server, backlog, context]) = unsafe {
        let args = [factory, socket, server, backlog, context];
        let cx = LoopContext::new(Python::assume_attached(), slf);
        (cx, args.map(|arg| Ref::from_ptr_ref(arg)))
    };
    let core = cx.core;
    core.check_open()?;
    // SAFETY: the references keep the objects alive.
    let (fd, context) = unsafe {
        (
            file_descriptor(socket.as_ptr())?,
            context::given_or_copy(context.as_ptr())?,
        )
    };
    let backlog: i64 = backlog.bind(cx.py).extract()?;
    // On Linux accepted sockets inherit this, which saves a system call for each.
    set_nodelay(fd);
    let some = |object: &Ref| SlotCell::new(Some(object.clone()));
    let listener = Listener {
        fd,
        backlog: u32::try_from(backlog.max(1)).unwrap_or(u32::MAX),
        event_loop: SlotCell::new(Some(cx.loop_ref())),
        protocol_factory: some(factory),
        server: some(server),
        socket: some(socket),
        context: SlotCell::new(Some(context)),
        stopped: Cell::new(false),
        backing_off: Cell::new(false),
    };
    let listener = Ref::from(Bound::new(cx.py, listener)?);
    let source = Source::IoSource(IoSource::owned(listener, &VTABLE));
    core.reserve_queues()?;
    let registered = core.descriptors.with(|all| all.token(fd).is_some());
    let (token, replaced) = core.descriptors.with(|all| all.insert(fd, source));
    if let Some(replaced) = replaced {
        replaced.forget();
    }
    if let Err(error) = core.register_edge(fd, token, Interest::READ, registered) {
        if let Some(source) = core.descriptors.with(|all| all.remove(fd, token)) {
            source.forget();
        }
        return Err(exceptions::os_error(&error).into());
    }
    Ok(Ref::none())
}

/// The functions that the loop calls on listeners.
static VTABLE: SourceVTable = SourceVTable {
    ready: |cx, listener, _| accept(cx, listener),
    resume: |cx, listener| accept(cx, listener),
    flush: |_, _| Ok(()),
    uncork: |_, _| Ok(()),
    is_exclusive: |_| false,
    is_held: |_| true,
    dropped,
    is_reader: true,
};

/// Accepts no connection from now on, not even in an iteration that is accepting.
unsafe fn dropped(listener: *mut PyObject) {
    // SAFETY: the loop calls this in an attached thread, with a live listener. It gives back the reference that `listen` has
    // put into the table by `IoSource::owned`.
    let listener = unsafe { Bound::from_owned_ptr(Python::assume_attached(), listener) };
    if let Ok(listener) = listener.cast::<Listener>() {
        listener.get().stop();
    }
}

/// Has the loop continue to accept in its next iteration.
fn schedule_accept(core: &LoopCore, slf: &Ref) {
    let entry = IoRef {
        object: slf.clone(),
        vtable: &VTABLE,
    };
    core.to_resume.push_back(entry);
}

/// Accepts connections, as many as the backlog.
fn accept(cx: LoopContext<'_>, slf: &Ref) -> FfiResult<()> {
    let listener = slf
        .bind(cx.py)
        .cast::<Listener>()
        .map_err(PyErr::from)?
        .get();
    let mut task = None;
    for _ in 0..listener.backlog {
        if listener.stopped.get() || listener.backing_off.get() {
            return Ok(());
        }
        let result = match accept_one(listener.open_fd()) {
            Ok((fd, peer)) => on_connection(cx, listener, &mut task, fd, Address::new(&peer)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(()),
                Some(libc::EINTR | libc::ECONNABORTED) => Ok(()),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    return back_off(cx, listener, slf, &error);
                }
                code => {
                    let _ = ErrSet::from(exceptions::os_error(&error));
                    let reported = report(cx, listener, "socket.accept() failed");
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
            // An exception ends the loop. No edge will report the connections that are waiting.
            schedule_accept(cx.core, slf);
            return result;
        }
    }
    schedule_accept(cx.core, slf);
    Ok(())
}

fn accept_one(fd: RawFd) -> io::Result<(RawFd, SockAddr)> {
    // SAFETY: the system writes at most `*length` bytes, and `try_init` sets that to the size of the storage.
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

/// Reports the exception that is set, with the listening socket.
fn report(cx: LoopContext<'_>, listener: &Listener, message: &str) -> FfiResult<()> {
    let Some(socket) = listener.socket.get() else {
        return exceptions::report(cx.event_loop, message, &[]);
    };
    // The exception is set aside while Python runs.
    let error = PyErr::fetch(cx.py);
    let socket: Ref = Stdlib::get()
        .transport_socket
        .bind(cx.py)
        .call1((socket.bind(cx.py),))?
        .into();
    let _ = ErrSet::from(error);
    exceptions::report(cx.event_loop, message, &[("socket", &socket)])
}

/// The system is out of descriptors or memory: accepts again after a second, as asyncio does.
#[cold]
fn back_off(
    cx: LoopContext<'_>,
    listener: &Listener,
    slf: &Ref,
    error: &io::Error,
) -> FfiResult<()> {
    let LoopContext {
        py,
        core,
        event_loop,
    } = cx;
    listener.backing_off.set(true);
    let retry: Ref = slf.bind(py).getattr("_retry")?.into();
    // In seconds.
    let delay: f64 = py
        .import("asyncio.constants")?
        .getattr("ACCEPT_RETRY_DELAY")?
        .extract()?;
    let when = ns_to_seconds(now_ns()) + delay;
    // SAFETY: the loop of a context is live, and `retry` keeps the callback alive.
    unsafe { core.call_at(event_loop, when, retry.as_ptr(), &[], None)? };
    let _ = ErrSet::from(exceptions::os_error(error));
    report(cx, listener, "socket.accept() out of system resource")
}

/// Makes protocol and transport for a new connection. If that fails, the descriptor is closed and the reason reported.
fn on_connection(
    cx: LoopContext<'_>,
    listener: &Listener,
    task: &mut Option<AcceptTask>,
    fd: RawFd,
    peer: Address,
) -> FfiResult<()> {
    let LoopContext {
        py,
        core,
        event_loop,
    } = cx;
    let slf = match make_transport(cx, listener, task, fd, peer) {
        Ok(slf) => slf,
        Err(error) => {
            let _ = ErrSet::from(error);
            let message = "Error on transport creation for incoming connection";
            return exceptions::report(event_loop, message, &[]);
        }
    };
    // SAFETY: `make_transport` makes stream transports.
    let transport = unsafe { StreamTransport::of(slf.as_ptr()) };
    let called = transport
        .call_protocol(&Stdlib::get().names.connection_made, [slf.as_ptr()])
        .map(drop)
        .or_else(|ErrSet| {
            let protocol = transport.protocol.get().unwrap_or_else(Ref::none);
            exceptions::report(
                event_loop,
                "Exception in callback protocol.connection_made()",
                &[("transport", &slf), ("protocol", &protocol)],
            )
        });
    // An exception ends the loop, but the connection has to be read when the loop runs again.
    let ends_loop = called.err().map(|_| PyErr::fetch(py));
    if transport.start(core, &slf).is_err() {
        fatal_error(py, &slf, "Fatal error: the socket cannot be watched")?;
    }
    ends_loop.map_or(Ok(()), |error| Err(error.into()))
}

fn make_transport(
    cx: LoopContext<'_>,
    listener: &Listener,
    task: &mut Option<AcceptTask>,
    fd: RawFd,
    peer: Address,
) -> PyResult<Ref> {
    let py = cx.py;
    let guard = FdGuard::new(fd, true);
    let task = match task {
        Some(task) => task,
        None => task.insert(AcceptTask::new(cx)?),
    };
    let context = match listener.context.get() {
        Some(context) => context::copy(&context)?,
        None => context::copy_current()?,
    };
    let factory = listener.protocol_factory.get().unwrap_or_else(Ref::none);
    // SAFETY: `context` keeps the context alive.
    let protocol = unsafe {
        context::run_in(context.as_ptr(), || {
            Ok(Ref::from(factory.bind(py).call0()?))
        })?
    };
    let server = listener.server.get();
    let parts = StreamParts {
        fd,
        socket: None,
        protocol,
        server: server.filter(|server| !server.bind(py).is_none()),
        extra: None,
        context,
        peer,
    };
    guard.release();
    let transport = create(cx, parts)?;
    task.push(&transport)?;
    Ok(transport)
}

/// Adds the class to the module, and the method that makes listeners to the loop.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Listener>()?;
    install(
        &module.py().get_type::<LoopCore>(),
        [(
            fastcall!(c"_listen", listen),
            "(self, protocol_factory, sock, server, backlog, context, /)",
            "Accept connections and make transports of them.",
        )],
    )
}
