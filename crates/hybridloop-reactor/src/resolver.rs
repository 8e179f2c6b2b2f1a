//! Name lookups by the system's resolver, on threads of their own.
//!
//! The system's functions block, for seconds if a server does not answer. So they run on a small pool of threads that know
//! nothing of event loops: a finished lookup goes to whoever asked, by a closure. Threads start when there is work, end
//! when there is none, and never keep the process from ending.

use std::collections::VecDeque;
use std::ffi::{c_int, CStr, CString};
use std::net::Ipv4Addr;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::fork::Process;

/// So many lookups run at a time; the others wait for their turn.
const THREADS: usize = 16;
/// How long a thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(10);
/// The system's functions keep their buffers on the stack, and modules of the name service switch add theirs.
const STACK: usize = 512 * 1024;

/// What `getaddrinfo` is asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Name or literal address; none for the wildcard or loopback address.
    pub host: Option<CString>,
    /// Name or number of the port.
    pub service: Option<CString>,
    /// `AF_…`, or 0.
    pub family: c_int,
    /// `SOCK_…`, or 0.
    pub kind: c_int,
    /// `IPPROTO_…`, or 0.
    pub protocol: c_int,
    /// `AI_…`.
    pub flags: c_int,
}

/// One address that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `AF_…`.
    pub family: c_int,
    /// `SOCK_…`.
    pub kind: c_int,
    /// `IPPROTO_…`.
    pub protocol: c_int,
    /// The canonical name, if it was asked for and this is the first address.
    pub canonical_name: Option<CString>,
    /// Where it is.
    pub address: Address,
}

/// An address with its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `AF_INET`.
    V4 {
        /// The host, in numbers.
        host: String,
        /// The port.
        port: u16,
    },
    /// `AF_INET6`.
    V6 {
        /// The host, in numbers and without its zone.
        host: String,
        /// The port.
        port: u16,
        /// The flow label.
        flow: u32,
        /// The zone.
        scope: u32,
    },
    /// Another family: what follows the family in the system's structure.
    Other(Vec<u8>),
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `EAI_…`.
    pub code: c_int,
    /// `errno`, which counts if the code is `EAI_SYSTEM`.
    pub errno: c_int,
    /// The system's words.
    pub message: CString,
}

/// What `getnameinfo` is asked for.
#[derive(Clone, Debug)]
pub struct NameQuery {
    /// The address in numbers, with its zone if it has one.
    pub host: CString,
    /// The port, a number.
    pub service: CString,
    /// The flow label of an IPv6 address.
    pub flow: u32,
    /// The zone of an IPv6 address.
    pub scope: u32,
    /// `NI_…`.
    pub flags: c_int,
}

/// Names of a host and of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The host's.
    pub host: CString,
    /// The port's.
    pub service: CString,
}

impl NameQuery {
    /// Asks the system, and blocks as long as that takes.
    ///
    /// # Errors
    /// As the system says.
    pub fn ask(&self) -> Result<Names, Failure> {
        // NI_MAXHOST and NI_MAXSERV
        let (mut host, mut service) = ([0; 1025], [0; 32]);
        // SAFETY: all-zero is a valid request; texts and buffers are valid for the calls and as long as they say; the
        // list is freed once, and a list without an error is not empty. The system ends texts with a zero byte.
        unsafe {
            let mut hints: libc::addrinfo = std::mem::zeroed();
            hints.ai_socktype = libc::SOCK_DGRAM;
            hints.ai_flags = libc::AI_NUMERICHOST | libc::AI_NUMERICSERV;
            let mut list = ptr::null_mut();
            let code = libc::getaddrinfo(
                self.host.as_ptr(),
                self.service.as_ptr(),
                &raw const hints,
                &raw mut list,
            );
            if code != 0 {
                return Err(Failure::new(code));
            }
            let (address, length) = ((*list).ai_addr, (*list).ai_addrlen);
            if (*list).ai_family == libc::AF_INET6 {
                let bytes = address.cast::<u8>();
                let put = |at: usize, value: u32| {
                    ptr::copy_nonoverlapping(value.to_ne_bytes().as_ptr(), bytes.add(at), 4);
                };
                let flow = std::mem::offset_of!(libc::sockaddr_in6, sin6_flowinfo);
                put(flow, self.flow.to_be());
                let scope = std::mem::offset_of!(libc::sockaddr_in6, sin6_scope_id);
                put(scope, self.scope);
            }
            let code = libc::getnameinfo(
                address,
                length,
                host.as_mut_ptr(),
                1025,
                service.as_mut_ptr(),
                32,
                self.flags,
            );
            let failure = (code != 0).then(|| Failure::new(code));
            libc::freeaddrinfo(list);
            failure.map_or_else(
                || {
                    Ok(Names {
                        host: CStr::from_ptr(host.as_ptr()).to_owned(),
                        service: CStr::from_ptr(service.as_ptr()).to_owned(),
                    })
                },
                Err,
            )
        }
    }
}

/// What a lookup comes to.
pub type Answer = Result<Vec<Found>, Failure>;

impl Query {
    /// Asks the system, and blocks as long as that takes.
    ///
    /// # Errors
    /// As the system says.
    pub fn ask(&self) -> Answer {
        self.ask_with(self.flags)
    }

    /// The answer if it takes no lookup: the host is a literal address or none, and the port a number or none.
    ///
    /// The system itself answers, told not to look anything up. `None` when it can't.
    #[must_use]
    pub fn literal(&self) -> Option<Vec<Found>> {
        let host = self.host.as_deref().map(CStr::to_bytes);
        let service = self.service.as_deref().map(CStr::to_bytes);
        if !host.is_none_or(may_be_literal) || !service.is_none_or(is_number) {
            return None;
        }
        // What other flags ask for may take a look at more than the host.
        if self.flags & !(libc::AI_PASSIVE | libc::AI_NUMERICHOST | libc::AI_NUMERICSERV) != 0 {
            return None;
        }
        self.ask_with(self.flags | libc::AI_NUMERICHOST | libc::AI_NUMERICSERV)
            .ok()
    }

    fn ask_with(&self, flags: c_int) -> Answer {
        let text = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |it| it.as_ptr());
        // SAFETY: all-zero is a valid request.
        let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
        hints.ai_family = self.family;
        hints.ai_socktype = self.kind;
        hints.ai_protocol = self.protocol;
        hints.ai_flags = flags;
        let mut list = ptr::null_mut();
        // SAFETY: both texts and the request are valid for the call.
        let code = unsafe {
            libc::getaddrinfo(
                text(&self.host),
                text(&self.service),
                &raw const hints,
                &raw mut list,
            )
        };
        if code != 0 {
            return Err(Failure::new(code));
        }
        let mut found = Vec::new();
        let mut next = list;
        // SAFETY: the system's list ends with a null pointer and is valid until it is freed.
        unsafe {
            while let Some(entry) = next.as_ref() {
                found.push(Found::read(entry));
                next = entry.ai_next;
            }
            libc::freeaddrinfo(list);
        }
        Ok(found)
    }
}

/// Whether a host may be an address in numbers: what the system's functions take for one has no other characters, and
/// behind a `%` there is the name of an interface.
fn may_be_literal(host: &[u8]) -> bool {
    /// No label of a name is longer, so that whoever checks those has nothing to check.
    const LONGEST: usize = 63;
    let end = host.iter().position(|&byte| byte == b'%');
    let (address, zone) = host.split_at(end.unwrap_or(host.len()));
    !address.is_empty()
        && host.len() <= LONGEST
        && address
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'x' | b'X'))
        && address
            .iter()
            .any(|byte| matches!(byte, b'.' | b':' | b'0'..=b'9'))
        && zone.iter().all(u8::is_ascii_graphic)
}

fn is_number(service: &[u8]) -> bool {
    !service.is_empty() && service.iter().all(u8::is_ascii_digit)
}

impl Failure {
    fn new(code: c_int) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        // SAFETY: the system's text is terminated and stays.
        let message = unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_owned();
        Self {
            code,
            errno,
            message,
        }
    }
}

impl Found {
    /// # Safety
    /// The entry is one of the system's list.
    unsafe fn read(entry: &libc::addrinfo) -> Self {
        // SAFETY: an entry's texts are terminated or null, and its address has the type that its family says.
        unsafe {
            let canonical_name = (!entry.ai_canonname.is_null())
                .then(|| CStr::from_ptr(entry.ai_canonname).to_owned());
            Self {
                family: entry.ai_family,
                kind: entry.ai_socktype,
                protocol: entry.ai_protocol,
                canonical_name,
                address: Address::read(entry.ai_addr, entry.ai_addrlen as usize),
            }
        }
    }
}

impl Address {
    unsafe fn read(address: *const libc::sockaddr, length: usize) -> Self {
        // SAFETY: the caller's address is as long as it says, and of the type that its family says.
        unsafe {
            match c_int::from((*address).sa_family) {
                libc::AF_INET => {
                    let inet = address.cast::<libc::sockaddr_in>().read_unaligned();
                    Self::V4 {
                        host: Ipv4Addr::from_bits(u32::from_be(inet.sin_addr.s_addr)).to_string(),
                        port: u16::from_be(inet.sin_port),
                    }
                }
                libc::AF_INET6 => {
                    let inet = address.cast::<libc::sockaddr_in6>().read_unaligned();
                    Self::V6 {
                        host: numbers(&inet.sin6_addr),
                        port: u16::from_be(inet.sin6_port),
                        flow: u32::from_be(inet.sin6_flowinfo),
                        scope: inet.sin6_scope_id,
                    }
                }
                _ => {
                    let start = std::mem::offset_of!(libc::sockaddr, sa_data);
                    let data = address.cast::<u8>().add(start);
                    Self::Other(
                        std::slice::from_raw_parts(data, length.saturating_sub(start)).to_vec(),
                    )
                }
            }
        }
    }
}

/// The address as the system writes it, which is not how Rust does: `::1.2.3.4`.
fn numbers(address: &libc::in6_addr) -> String {
    // INET6_ADDRSTRLEN
    let mut text = [0; 46];
    // SAFETY: the buffer is as long as the length given, and long enough for every address, so that it is terminated.
    unsafe {
        inet_ntop(
            libc::AF_INET6,
            ptr::from_ref(address).cast(),
            text.as_mut_ptr(),
            46,
        );
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    }
}

extern "C" {
    fn inet_ntop(
        family: c_int,
        address: *const libc::c_void,
        into: *mut libc::c_char,
        size: libc::socklen_t,
    ) -> *const libc::c_char;
}

type Job = Box<dyn FnOnce() + Send>;

/// Runs a job on one of the resolver's threads.
///
/// # Errors
/// When there is no thread and none can be started.
pub fn spawn(job: Job) -> std::io::Result<()> {
    Pool::here().spawn(job)
}

struct Pool {
    process: Process,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Pool {
    /// The pool of this process. The child of a fork has none of its parent's threads, and whatever lock they held stays
    /// locked, so it gets a pool of its own; the parent's is left as it is.
    fn here() -> &'static Self {
        static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());
        loop {
            let known = POOL.load(Ordering::Acquire);
            // SAFETY: a pool, once made, is never dropped.
            if let Some(pool) = unsafe { known.as_ref() } {
                if pool.process.is_here() {
                    return pool;
                }
            }
            let made = Box::into_raw(Box::new(Self {
                process: Process::current(),
                state: Mutex::default(),
                work: Condvar::new(),
            }));
            if POOL
                .compare_exchange(known, made, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                // SAFETY: made above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&'static self, job: Job) -> std::io::Result<()> {
        let mut state = self.state();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.threads >= THREADS {
            self.work.notify_one();
            return Ok(());
        }
        let started = thread::Builder::new()
            .name("hybridloop-dns".into())
            .stack_size(STACK)
            .spawn(move || self.work());
        match started {
            Ok(_) => {
                state.threads += 1;
                Ok(())
            }
            // Those that are there will come to it.
            Err(_) if state.threads > 0 => Ok(()),
            Err(error) => {
                state.jobs.pop_back();
                Err(error)
            }
        }
    }

    fn work(&self) {
        block_signals();
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A panic has been reported by then; the thread goes on.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                state = self.state();
                continue;
            }
            state.idle += 1;
            let (woken, waited) = self
                .work
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// Signals are for the threads of the program.
fn block_signals() {
    // SAFETY: the set is filled before it is used; blocking changes this thread only.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Barrier};

    use super::*;

    fn query(host: Option<&str>, service: Option<&str>) -> Query {
        let text = |text: Option<&str>| text.map(|text| CString::new(text).unwrap());
        Query {
            host: text(host),
            service: text(service),
            ..Query::default()
        }
    }

    #[test]
    fn literals_need_no_lookup_and_come_out_the_same() {
        let hosts = [
            Some("127.0.0.1"),
            Some("1"),
            Some("0x7f.1"),
            Some("::1"),
            Some("::ffff:1.2.3.4"),
            Some("fe80::1%lo"),
            None,
        ];
        for host in hosts {
            let query = query(host, Some("80"));
            assert_eq!(query.literal(), Some(query.ask().unwrap()), "{host:?}");
        }
    }

    #[test]
    fn names_need_a_lookup() {
        for host in [
            "localhost",
            "abc",
            "a.b",
            "1.2.3.4.5",
            "::g",
            "",
            "fe80::1%no such",
        ] {
            assert_eq!(query(Some(host), Some("80")).literal(), None, "{host}");
        }
        for service in ["http", "", "8o", "-1", "99999999999"] {
            if service != "99999999999" {
                assert_eq!(
                    query(Some("::1"), Some(service)).literal(),
                    None,
                    "{service}"
                );
            }
        }
        assert_eq!(query(None, None).literal(), None);
    }

    #[test]
    fn failures_say_what_the_system_says() {
        let failure = query(None, None).ask().unwrap_err();
        assert_eq!(failure.code, libc::EAI_NONAME);
        assert!(!failure.message.is_empty());
    }

    #[test]
    fn more_jobs_than_threads_all_run_and_no_more_at_a_time() {
        let (sender, receiver) = channel();
        let gate = Arc::new(Barrier::new(THREADS));
        for number in 0..THREADS * 4 {
            let (sender, gate) = (sender.clone(), gate.clone());
            spawn(Box::new(move || {
                // Passes only if so many are here together.
                gate.wait();
                sender.send(number).unwrap();
            }))
            .unwrap();
        }
        let mut done: Vec<usize> = receiver.iter().take(THREADS * 4).collect();
        done.sort_unstable();
        assert_eq!(done, (0..THREADS * 4).collect::<Vec<_>>());
        assert!(Pool::here().state().threads <= THREADS);
    }

    #[test]
    fn a_panic_costs_no_thread() {
        let (sender, receiver) = channel();
        for number in 0..THREADS * 2 {
            let sender = sender.clone();
            spawn(Box::new(move || {
                sender.send(number).unwrap();
                assert!(number % 2 == 0, "meant to panic");
            }))
            .unwrap();
        }
        assert_eq!(receiver.iter().take(THREADS * 2).count(), THREADS * 2);
    }
}
