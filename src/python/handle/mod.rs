//! Handles: [`HandleObject`] is their layout, [`types`] makes their classes, [`pool`] makes and reuses handles, and [`running`]
//! lets other threads wait for one that runs.
//!
//! They are subclasses of `asyncio.Handle` and its subclasses, so cold methods (`__repr__`, comparison) are inherited. The
//! native classes define all attributes themselves. The `__slots__` of the bases are null unless a program uses the descriptors
//! of a base. The native fields follow behind them.

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
/// The callback runs: the references of the handle must stay.
pub const RUNNING: u8 = 1 << 1;
/// A reader or writer: it runs many times.
pub const PERSISTENT: u8 = 1 << 2;
/// The context is a template: the callback runs in a copy of it.
pub const TEMPLATE: u8 = 1 << 4;
/// Tracked by the garbage collector.
const TRACKED: u8 = 1 << 5;
/// In the timer heap.
pub const SCHEDULED: u8 = 1 << 3;
/// Other threads may wait for the callback to return.
pub const THREAD_SAFE: u8 = 1 << 6;

/// `SCHEDULED`, and the heap has counted it as cancelled.
pub const COUNTED: u8 = 1 << 7;

/// The attributes of `asyncio.Handle`: its `__slots__` without `__weakref__`.
const BASE_WORDS: usize = 7;
/// The most slots that its subclasses add: `_scheduled` and `_when`.
const SUBCLASS_WORDS: usize = 2;

/// A scheduled callback.
#[repr(C)]
pub struct HandleObject {
    ob_base: ffi::PyObject,
    /// Slots of the base, used only by the base's descriptors: null or owned.
    base: [*mut PyObject; BASE_WORDS],
    /// Since Python 3.12 the list of weak references is in front of the object.
    #[cfg(not(Py_3_12))]
    weakrefs: *mut PyObject,
    /// Slots that a subclass of the base adds.
    subclass: [*mut PyObject; SUBCLASS_WORDS],
    /// `[0]` is the scratch slot of `PY_VECTORCALL_ARGUMENTS_OFFSET`; the arguments follow.
    args: [*mut PyObject; INLINE_ARGS + 1],
    pub callback: *mut PyObject,
    pub context: *mut PyObject,
    pub event_loop: *mut PyObject,
    /// The stack at which the handle was made, in debug mode.
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
        // SAFETY: the caller guarantees that `object` is a live handle.
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
        // SAFETY: `self` keeps the handle alive, and flags are atomic.
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

    /// Marks the handle as running. Returns the previous flags.
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
    /// The handle is live, has a callback, and is marked `RUNNING`, so that no code clears it during the call.
    #[inline]
    pub unsafe fn call(this: *mut Self) -> FfiResult<Ref> {
        // SAFETY: the caller guarantees that RUNNING is set, so no code clears the fields. `args[0]` is the callee's scratch
        // slot.
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

    /// The arguments as a tuple; `None` once the handle is cleared.
    ///
    /// # Safety
    /// The handle is live.
    pub unsafe fn args_tuple(this: *mut Self) -> FfiResult<Ref> {
        // SAFETY: the caller guarantees a live handle. Its first `count` inline arguments are references that it owns.
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

    /// Clears callback, arguments, context and loop, so that a finished handle cannot keep a cycle alive.
    ///
    /// On free-threaded builds the loop stays, as in asyncio: other threads read it when they cancel the handle.
    ///
    /// # Safety
    /// The handle is live and not `RUNNING`. Python code may run.
    #[inline]
    pub unsafe fn release(this: *mut Self) {
        // SAFETY: the caller guarantees a live handle that does not run. Each field is set to null before its reference is
        // dropped.
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

    /// Takes the fields that `release` clears.
    ///
    /// # Safety
    /// The handle is live and not `RUNNING`.
    #[inline]
    unsafe fn take(this: *mut Self) -> Taken {
        // SAFETY: the caller guarantees a live handle that does not run.
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

    /// Runs `body`, which runs no Python, while no other thread uses the fields of the handle.
    ///
    /// # Safety
    /// Attached; the handle is live.
    #[inline]
    pub unsafe fn locked<T>(this: *mut Self, body: impl FnOnce() -> T) -> T {
        #[cfg(Py_GIL_DISABLED)]
        {
            // SAFETY: the caller guarantees an attached thread and a live handle. The reference is not counted, because the
            // handle may be deallocating.
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

/// The arguments of a handle and their number, then callback, context and loop.
type Taken = ([*mut PyObject; INLINE_ARGS], usize, [*mut PyObject; 3]);

const FIELDS: usize = PLAIN_FIELDS + 2 + BASE_WORDS + SUBCLASS_WORDS;
/// The first fields, which are all that a plain handle uses.
const PLAIN_FIELDS: usize = INLINE_ARGS + 3;

/// All reference fields of a handle. `args[0]` is not one: it is borrowed.
///
/// # Safety
/// The handle is live.
unsafe fn fields(this: *mut HandleObject) -> [*mut *mut PyObject; FIELDS] {
    // SAFETY: the caller guarantees a live handle.
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

/// Whether only the fields that [`HandleObject::release`] clears are set.
///
/// # Safety
/// The handle is live.
#[inline]
unsafe fn is_plain(this: *mut HandleObject) -> bool {
    // SAFETY: the caller guarantees a live handle.
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
