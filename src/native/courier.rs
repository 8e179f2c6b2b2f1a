//! News from the bus and from channels for one event loop, of whatever kind: a descriptor that its selector watches, and the
//! futures that wait. Threads that know nothing of Python post; the loop's thread delivers.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hybridloop_native::bus::Notify;
use hybridloop_native::{BusError, Mailbox, View, Wake, Watch as KeyWatch};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;
use socket2::{Domain, Socket, Type};

use super::buffer::NativeBuffer;
use super::channel::Waiters;
use super::exceptions::bus_error;

/// What is told of a future, by its number.
pub enum Notice {
    /// The key is sealed.
    Sealed(u64, View),
    /// The bus is closed.
    Closed(u64),
    /// There is something in the channel, or it is closed.
    Arrived(u64),
}

/// The end of a pair of sockets that wakes the loop; gone once the courier is closed.
struct Bell(Arc<Mutex<Option<Socket>>>);

impl Wake for Bell {
    fn wake(&self) {
        // A peer that is gone must not raise SIGPIPE; elsewhere the socket has an option for that.
        let flags = if cfg!(target_os = "linux") {
            libc::MSG_NOSIGNAL
        } else {
            0
        };
        // Nobody but `close` competes for the lock. One byte per delivery: there is room, unless the loop is gone.
        if let Ok(socket) = self.0.try_lock() {
            if let Some(socket) = socket.as_ref() {
                let _ = socket.send_with_flags(&[1], flags);
            }
        }
    }
}

/// Where native threads leave notices.
pub struct Mail(Mailbox<Notice>);

impl Mail {
    pub fn post(&self, notice: Notice) {
        self.0.post(notice);
    }
}

impl Notify for Mail {
    fn sealed(&self, token: u64, view: &View) {
        self.0.post(Notice::Sealed(token, view.clone()));
    }

    fn closed(&self, token: u64) {
        self.0.post(Notice::Closed(token));
    }
}

/// What brings news from native threads to one event loop.
#[pyclass(frozen, weakref, module = "hybridloop._core")]
pub struct Courier {
    mail: Arc<Mail>,
    /// What the loop watches.
    socket: Mutex<Option<Socket>>,
    bell: Arc<Mutex<Option<Socket>>>,
    waiting: Mutex<HashMap<u64, Py<PyAny>>>,
    users: AtomicUsize,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Courier {
    pub fn mail(&self) -> &Arc<Mail> {
        &self.mail
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Py<PyAny>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self) -> MutexGuard<'_, Option<Socket>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a future that waits for a notice.
    pub fn remember(&self, future: Py<PyAny>) -> u64 {
        let token = NEXT.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(token, future);
        token
    }

    fn forget(&self, token: u64) {
        let future = self.waiting().remove(&token);
        drop(future);
    }

    fn tell(&self, py: Python<'_>, notice: Notice) -> PyResult<()> {
        let (Notice::Sealed(token, _) | Notice::Closed(token) | Notice::Arrived(token)) = notice;
        let Some(future) = self.waiting().remove(&token) else {
            return Ok(());
        };
        let future = future.bind(py);
        if future.call_method0("done")?.is_truthy()? {
            return Ok(());
        }
        match notice {
            Notice::Sealed(_, view) => {
                future.call_method1("set_result", (NativeBuffer::new(view),))
            }
            Notice::Arrived(_) => future.call_method1("set_result", (py.None(),)),
            Notice::Closed(_) => {
                let error = bus_error(py, &BusError::Closed, None);
                future.call_method1("set_exception", (error,))
            }
        }?;
        Ok(())
    }
}

#[pymethods]
impl Courier {
    #[new]
    fn new() -> PyResult<Self> {
        let (socket, bell) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        let bell = Arc::new(Mutex::new(Some(bell)));
        Ok(Self {
            mail: Arc::new(Mail(Mailbox::new(Box::new(Bell(bell.clone()))))),
            bell,
            socket: Mutex::new(Some(socket)),
            waiting: Mutex::default(),
            users: AtomicUsize::new(0),
        })
    }

    /// Somebody begins to wait.
    fn join(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody waits no longer; True if that was the last one.
    fn leave(&self) -> bool {
        self.users.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// What the loop watches for reading; -1 once it is closed.
    fn fileno(&self) -> i32 {
        self.socket().as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Resolve the futures whose notice has come: what the loop calls.
    fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        let mut bytes = [0; 16];
        if let Some(socket) = self.socket().as_mut() {
            // An error says that there is nothing to read.
            let _ = socket.read(&mut bytes);
        }
        self.mail.0.open();
        let mut outcome = Ok(());
        while let Some(notice) = self.mail.0.pop() {
            // One future that cannot be resolved does not keep the others waiting.
            let told = self.tell(py, notice);
            outcome = outcome.and(told);
        }
        outcome
    }

    fn close(&self) {
        let socket = self.socket().take();
        drop(socket);
        let bell = self
            .bell
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(bell);
        let waiting = std::mem::take(&mut *self.waiting());
        drop(waiting);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(waiting) = self.waiting.try_lock() else {
            return Ok(());
        };
        waiting.values().try_for_each(|future| visit.call(future))
    }

    fn __clear__(&self) {
        self.close();
    }
}

/// What a watch takes back.
enum Source {
    Key(#[allow(dead_code, reason = "dropping it takes the watch back")] KeyWatch),
    Channel(Arc<Waiters>),
}

/// A future that waits for news.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct Watch {
    courier: Py<Courier>,
    token: u64,
    source: Mutex<Option<Source>>,
}

impl Watch {
    pub fn of_key(courier: Py<Courier>, token: u64, watch: KeyWatch) -> Self {
        Self::new(courier, token, Source::Key(watch))
    }

    pub fn of_channel(courier: Py<Courier>, token: u64, waiters: Arc<Waiters>) -> Self {
        Self::new(courier, token, Source::Channel(waiters))
    }

    fn new(courier: Py<Courier>, token: u64, source: Source) -> Self {
        Self {
            courier,
            token,
            source: Mutex::new(Some(source)),
        }
    }
}

#[pymethods]
impl Watch {
    /// Wait no longer.
    fn close(&self) {
        let source = self
            .source
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Source::Channel(waiters)) = &source {
            waiters.remove(self.token);
        }
        drop(source);
        self.courier.get().forget(self.token);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.courier)
    }
}
