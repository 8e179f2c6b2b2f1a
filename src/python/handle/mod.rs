//! Handles: [`HandleObject`] is their layout, [`types`] makes their classes, [`pool`] makes and reuses handles, and
//! [`running`] lets other threads wait for one that runs.
//!
//! They are real subclasses of `asyncio.Handle` and its subclasses, so everything cold (`__repr__`, comparison) is
//! inherited. Ours answer for every attribute themselves. The words in which the bases keep their `__slots__` stay, empty
//! unless somebody uses the descriptors of a base; our fields follow behind them.

mod pool;
pub mod running;
mod types;

use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::ffi::{self, PyObject};

pub use pool::{new_handle, new_timer, recycle, track_if_shared, visit_owned, Call, HandlePool};
pub use types::{class_of, downcast, make_type, Class};

use crate::python::refs::Ref;
use crate::python::vectorcall::FfiResult;

/// Arguments that fit into the handle; more go into a tuple.
pub const INLINE_ARGS: usize = 3;
const IN_TUPLE: u8 = u8::MAX;

/// `cancel()` was called.
pub const CANCELLED: u8 = 1;
/// The callback runs now: its references must stay.
pub const RUNNING: u8 = 1 << 1;
/// A reader or writer: it runs again and again.
pub const PERSISTENT: u8 = 1 << 2;
/// The context is a template: the callback runs in a copy of it.
pub const TEMPLATE: u8 = 1 << 4;
/// Known to the garbage collector.
const TRACKED: u8 = 1 << 5;
/// In the timer heap.
pub const SCHEDULED: u8 = 1 << 3;
/// Other threads may wait for the callback to return.
pub const THREAD_SAFE: u8 = 1 << 6;

/// `SCHEDULED`, and the heap has counted it as cancelled.
pub const COUNTED: u8 = 1 << 7;

/// The attributes of `asyncio.Handle`: its `__slots__` without `__weakref__`.
const BASE_WORDS: usize = 7;
/// What its subclasses add at most: `_scheduled` and `_when`.
const SUBCLASS_WORDS: usize = 2;

/// A callback that waits to be run.
#[repr(C)]
pub struct HandleObject {
    ob_base: ffi::PyObject,
    /// Attributes of the base, reached only by its own descriptors: null or owned.
    base: [*mut PyObject; BASE_WORDS],
    /// Since Python 3.12 the list of weak references is kept in front of the object.
    #[cfg(not(Py_3_12))]
    weakrefs: *mut PyObject,
    /// Attributes that a subclass of the base adds.
    subclass: [*mut PyObject; SUBCLASS_WORDS],
    /// `[0]` is the scratch word that vectorcall lets a bound method borrow; the arguments follow.
    args: [*mut PyObject; INLINE_ARGS + 1],
    pub callback: *mut PyObject,
    pub context: *mut PyObject,
    pub event_loop: *mut PyObject,
    /// Where the handle was made, in debug mode.
    pub source_traceback: *mut PyObject,
    /// `repr()` from before a cancellation, in debug mode.
    pub debug_repr: *mut PyObject,
    /// `when()` of a timer, in the loop's seconds.
    pub when: f64,
    /// The time was given as an int, and `when()` returns one.
    pub when_is_int: bool,
    count: u8,
    flags: AtomicU8,
}

/// An owned reference to a handle.
#[repr(transparent)]
pub struct HandleRef(Ref);

impl HandleRef {
    /// # Safety
    /// `object` is a live handle.
    #[inline]
    pub unsafe fn borrowed(object: *mut PyObject) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Ref::borrowed(object) })
    }

    #[inline]
    pub fn as_ptr(&self) -> *mut HandleObject {
        self.0.as_ptr().cast()
    }

    #[inline]
    pub fn as_object(&self) -> &Ref {
        &self.0
    }

    #[inline]
    pub fn into_object(self) -> Ref {
        self.0
    }

    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        // SAFETY: an owned reference is live, and the flags are atomic.
        unsafe { (*self.as_ptr()).has(flag) }
    }
}

impl Clone for HandleRef {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl HandleObject {
    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    #[inline]
    pub fn set(&self, flag: u8, on: bool) {
        if cfg!(Py_GIL_DISABLED) {
            // Another thread may cancel the handle at the same time.
            if on {
                self.flags.fetch_or(flag, Ordering::SeqCst);
            } else {
                self.flags.fetch_and(!flag, Ordering::SeqCst);
            }
            return;
        }
        let old = self.flags.load(Ordering::Relaxed);
        let new = if on { old | flag } else { old & !flag };
        self.flags.store(new, Ordering::Relaxed);
    }

    /// Marks the handle as running; what the flags were before.
    #[inline]
    pub fn begin_run(&self) -> u8 {
        if cfg!(Py_GIL_DISABLED) {
            return self.flags.fetch_or(RUNNING, Ordering::SeqCst);
        }
        let before = self.flags.load(Ordering::Relaxed);
        self.flags.store(before | RUNNING, Ordering::Relaxed);
        before
    }

    /// Calls the callback with its arguments.
    ///
    /// # Safety
    /// The handle is live, has a callback, and is marked `RUNNING` so that nobody clears it meanwhile.
    #[inline]
    pub unsafe fn call(this: *mut Self) -> FfiResult<Ref> {
        // SAFETY: the fields stay as they are while RUNNING is set; `args[0]` is free for the callee to borrow.
        unsafe {
            let (callback, count) = ((*this).callback, (*this).count);
            let args = (&raw mut (*this).args).cast::<*mut PyObject>().add(1);
            Ref::new(if count == IN_TUPLE {
                ffi::PyObject_Call(callback, *args, ptr::null_mut())
            } else {
                ffi::PyObject_Vectorcall(
                    callback,
                    args,
                    usize::from(count) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                    ptr::null_mut(),
                )
            })
        }
    }

    /// The arguments as a tuple; `None` once they are gone.
    ///
    /// # Safety
    /// The handle is live.
    pub unsafe fn args_tuple(this: *mut Self) -> FfiResult<Ref> {
        // SAFETY: the first `count` inline words are live objects.
        unsafe {
            if (*this).callback.is_null() {
                return Ok(Ref::none());
            }
            if (*this).count == IN_TUPLE {
                return Ok(Ref::borrowed((*this).args[1]));
            }
            let n = usize::from((*this).count);
            let tuple = Ref::new(ffi::PyTuple_New(n.cast_signed()))?;
            for (i, &arg) in (&(*this).args)[1..=n].iter().enumerate() {
                ffi::Py_INCREF(arg);
                ffi::PyTuple_SET_ITEM(tuple.as_ptr(), i.cast_signed(), arg);
            }
            Ok(tuple)
        }
    }

    /// Lets go of callback, arguments, context and loop, so that no cycle runs through a handle that is done with.
    ///
    /// On free-threaded builds the loop stays, as it does in asyncio: other threads that cancel the handle look at it.
    ///
    /// # Safety
    /// The handle is live and not `RUNNING`. Python code may run.
    #[inline]
    pub unsafe fn release(this: *mut Self) {
        // SAFETY: each word is emptied before what it held is given back, so nobody sees a dead pointer.
        unsafe {
            let (args, n, others) = Self::locked(this, || Self::take(this));
            for arg in args.into_iter().take(n) {
                ffi::Py_DECREF(arg);
            }
            for object in others {
                ffi::Py_XDECREF(object);
            }
        }
    }

    /// Empties the words that `release` is about.
    ///
    /// # Safety
    /// As `release`.
    #[inline]
    unsafe fn take(this: *mut Self) -> Taken {
        // SAFETY: the caller's promise.
        unsafe {
            let count = std::mem::replace(&mut (*this).count, 0);
            let n = if count == IN_TUPLE {
                1
            } else {
                usize::from(count)
            };
            let mut args = [ptr::null_mut(); INLINE_ARGS];
            for (i, arg) in args.iter_mut().enumerate().take(n) {
                *arg = std::mem::replace(&mut (*this).args[i + 1], ptr::null_mut());
            }
            let callback = std::mem::replace(&mut (*this).callback, ptr::null_mut());
            let context = std::mem::replace(&mut (*this).context, ptr::null_mut());
            let event_loop = if cfg!(Py_GIL_DISABLED) {
                ptr::null_mut()
            } else {
                std::mem::replace(&mut (*this).event_loop, ptr::null_mut())
            };
            (args, n, [callback, context, event_loop])
        }
    }

    /// Runs `body`, which runs no Python, while no other thread looks at the words of the handle.
    ///
    /// # Safety
    /// Attached; the handle is live.
    #[inline]
    pub unsafe fn locked<T>(this: *mut Self, body: impl FnOnce() -> T) -> T {
        #[cfg(Py_GIL_DISABLED)]
        {
            // SAFETY: the caller's promise. No reference is counted: the handle may be on its way out.
            let object = std::mem::ManuallyDrop::new(unsafe {
                pyo3::Bound::from_owned_ptr(pyo3::Python::assume_attached(), this.cast())
            });
            pyo3::sync::critical_section::with_critical_section(&object, body)
        }
        #[cfg(not(Py_GIL_DISABLED))]
        {
            let _ = this;
            body()
        }
    }
}

/// The arguments of a handle and how many they are, then callback, context and loop.
type Taken = ([*mut PyObject; INLINE_ARGS], usize, [*mut PyObject; 3]);

const FIELDS: usize = PLAIN_FIELDS + 2 + BASE_WORDS + SUBCLASS_WORDS;
/// Those that come first, which are all that a plain handle has.
const PLAIN_FIELDS: usize = INLINE_ARGS + 3;

/// Every object of a handle, or null; `args[0]` is only ever borrowed.
unsafe fn fields(this: *mut HandleObject) -> [*mut *mut PyObject; FIELDS] {
    // SAFETY: the caller's handle is live.
    unsafe {
        [
            &raw mut (*this).args[1],
            &raw mut (*this).args[2],
            &raw mut (*this).args[3],
            &raw mut (*this).callback,
            &raw mut (*this).context,
            &raw mut (*this).event_loop,
            &raw mut (*this).source_traceback,
            &raw mut (*this).debug_repr,
            &raw mut (*this).base[0],
            &raw mut (*this).base[1],
            &raw mut (*this).base[2],
            &raw mut (*this).base[3],
            &raw mut (*this).base[4],
            &raw mut (*this).base[5],
            &raw mut (*this).base[6],
            &raw mut (*this).subclass[0],
            &raw mut (*this).subclass[1],
        ]
    }
}

/// Whether there is nothing but what [`HandleObject::release`] takes out.
#[inline]
unsafe fn is_plain(this: *mut HandleObject) -> bool {
    // SAFETY: the caller's handle is live.
    unsafe {
        let words = [(*this).source_traceback, (*this).debug_repr];
        words
            .into_iter()
            .chain((*this).base)
            .chain((*this).subclass)
            .fold(0, |all, word| all | word.addr())
            == 0
    }
}
