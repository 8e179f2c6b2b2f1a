//! Threads that run Python during interpreter finalization.
//!
//! A daemon thread that attaches to the interpreter then does not return. Since CPython 3.14 it hangs. Before, CPython calls
//! `pthread_exit()`, possibly inside of Python code that Rust functions have called. With glibc that unwinds the stack. A
//! forced unwind must not pass through Rust frames that have destructors or catch panics: the process is aborted. The
//! destructors would also use Python objects in a detached thread.
//!
//! So such a thread hangs here as well, before the stack is unwound. glibc runs the cleanup handlers of a thread when the
//! unwinding leaves the part of the stack in which they were registered. It runs a handler whose record is not on the stack
//! first.

/// Makes this thread hang, instead of unwinding its stack, if it attaches to the interpreter during finalization. Code that
/// runs Python in a thread that may be a daemon thread calls this first. Only the first call in a thread has an effect.
#[inline]
pub fn hang_at_exit() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(Py_3_14)))]
    glibc::register();
}

#[cfg(all(target_os = "linux", target_env = "gnu", not(Py_3_14)))]
mod glibc {
    use std::cell::UnsafeCell;
    use std::ffi::{c_int, c_void};
    use std::ptr;

    /// `struct _pthread_cleanup_buffer` of glibc.
    #[repr(C)]
    struct Record {
        routine: Option<unsafe extern "C" fn(*mut c_void)>,
        arg: *mut c_void,
        cancel_type: c_int,
        previous: *mut Self,
    }

    extern "C" {
        /// Behind `pthread_cleanup_push()` of programs that are not built for setjmp or exceptions.
        fn _pthread_cleanup_push(
            record: *mut Record,
            routine: unsafe extern "C" fn(*mut c_void),
            arg: *mut c_void,
        );
        fn _pthread_cleanup_pop(record: *mut Record, execute: c_int);
        #[cfg(not(Py_3_13))]
        fn _Py_IsFinalizing() -> c_int;
    }

    #[cfg(Py_3_13)]
    use pyo3::ffi::Py_IsFinalizing as _Py_IsFinalizing;

    /// A cleanup handler that is registered until the thread ends.
    struct Registration(Box<UnsafeCell<Record>>);

    thread_local! {
        // On the heap: glibc takes addresses between the stack and its end, where thread-local variables may be, for the stack.
        static REGISTRATION: Registration = Registration::new();
    }

    impl Registration {
        fn new() -> Self {
            let record = Box::new(UnsafeCell::new(Record {
                routine: None,
                arg: ptr::null_mut(),
                cancel_type: 0,
                previous: ptr::null_mut(),
            }));
            // SAFETY: the record is on the heap, and `drop` unregisters it before it is freed.
            unsafe { _pthread_cleanup_push(record.get(), hang, ptr::null_mut()) };
            Self(record)
        }
    }

    impl Drop for Registration {
        fn drop(&mut self) {
            // SAFETY: destructors of thread-locals run at the end of the thread, when later handlers have been unregistered.
            unsafe { _pthread_cleanup_pop(self.0.get(), 0) };
        }
    }

    pub fn register() {
        // It fails at the end of the thread, when no Python is called any more.
        let _ = REGISTRATION.try_with(|_| ());
    }

    /// Does not return during finalization. Returns if the thread ends for another reason.
    unsafe extern "C" fn hang(_: *mut c_void) {
        // SAFETY: may be called by any thread at any time.
        if unsafe { _Py_IsFinalizing() } == 0 {
            return;
        }
        loop {
            // SAFETY: `pause` has no preconditions.
            unsafe { libc::pause() };
        }
    }
}
