//! Threads that run Python while the interpreter goes away.
//!
//! A daemon thread that wants the interpreter back then does not get it. Since CPython 3.14 it hangs for ever. Before, it calls
//! `pthread_exit()`, wherever it happens to be: deep inside Python code that functions of ours have called. With glibc that
//! unwinds the stack, and a forced unwind must not pass through frames of Rust that have destructors or catch panics: the
//! process is aborted. Those destructors would also touch Python objects without the interpreter.
//!
//! So such a thread hangs here as well, before anything is unwound. The C library runs the cleanup handlers of a thread when
//! the unwinding leaves the part of the stack in which they were registered. A handler whose record is not on the stack is run
//! first of all.

/// Lets this thread hang, instead of unwinding its stack, if it wants the interpreter back while that goes away. Whoever calls
/// Python in a thread that may be a daemon's says so first; once per thread does something.
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

    /// Registered from its making until the thread ends.
    struct Registration(Box<UnsafeCell<Record>>);

    thread_local! {
        // On the heap: glibc takes what lies between the stack and its end, as a thread-local variable may, for a part of it.
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
            // SAFETY: the record stays where it is until it is taken out again.
            unsafe { _pthread_cleanup_push(record.get(), hang, ptr::null_mut()) };
            Self(record)
        }
    }

    impl Drop for Registration {
        fn drop(&mut self) {
            // SAFETY: runs at the end of the thread, when everything that was registered later is out again.
            unsafe { _pthread_cleanup_pop(self.0.get(), 0) };
        }
    }

    pub fn register() {
        // A thread whose variables are gone calls no Python any more.
        let _ = REGISTRATION.try_with(|_| ());
    }

    /// Does not return if the interpreter goes away. Other reasons to end the thread are not ours.
    unsafe extern "C" fn hang(_: *mut c_void) {
        // SAFETY: may be called at any time.
        if unsafe { _Py_IsFinalizing() } == 0 {
            return;
        }
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
}
