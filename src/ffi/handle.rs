//! The object layout of `Handle` and `TimerHandle`.
//!
//! They are real subclasses of `asyncio.Handle` and `asyncio.TimerHandle`, whose `__slots__` are Python attributes at
//! fixed offsets. Ours take these words for their own object pointers and answer for every attribute themselves, so a
//! handle costs one small allocation with its arguments inside, and everything cold (`__repr__`, comparison) is
//! inherited.

use std::ffi::{c_int, c_void};
use std::mem::{offset_of, size_of};
use std::ptr;
use std::sync::atomic::{AtomicIsize, AtomicPtr, AtomicU8, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::PyType;
use pyo3::PyTraverseError;

use super::context::Contexts;
use super::fastcall::Res;
use super::local::Local;
use super::refs::Ref;
use super::typespec::{getset_end, method_end, Slots};

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

/// A callback that waits to be run.
#[repr(C)]
pub struct HandleObject {
    ob_base: ffi::PyObject,
    /// `[0]` is the scratch word that vectorcall lets a bound method borrow; the arguments follow.
    args: [*mut PyObject; INLINE_ARGS + 1],
    pub callback: *mut PyObject,
    pub context: *mut PyObject,
    pub event_loop: *mut PyObject,
    /// Since Python 3.12 the list of weak references is kept in front of the object.
    #[cfg(not(Py_3_12))]
    weakrefs: *mut PyObject,
    /// Where the handle was made, in debug mode.
    pub source_traceback: *mut PyObject,
    /// `repr()` from before a cancellation, in debug mode.
    pub debug_repr: *mut PyObject,
    /// `when()` of a timer, in the loop's seconds.
    pub when: f64,
    count: u8,
    flags: AtomicU8,
}

/// What `asyncio.Handle` takes up; `TimerHandle` adds two words.
const HANDLE_SIZE: usize = offset_of!(HandleObject, source_traceback);
const TIMER_SIZE: usize = offset_of!(HandleObject, when);

static HANDLE_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static TIMER_TYPE: AtomicPtr<PyTypeObject> = AtomicPtr::new(ptr::null_mut());
/// Where both types keep their list of weak references, relative to the object.
static WEAKREFS: AtomicIsize = AtomicIsize::new(0);

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
        let old = self.flags.load(Ordering::Relaxed);
        let new = if on { old | flag } else { old & !flag };
        self.flags.store(new, Ordering::Relaxed);
    }

    /// Calls the callback with its arguments.
    ///
    /// # Safety
    /// The handle is live, has a callback, and is marked `RUNNING` so that nobody clears it meanwhile.
    #[inline]
    pub unsafe fn call(this: *mut Self) -> Res<Ref> {
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
    pub unsafe fn args_tuple(this: *mut Self) -> Res<Ref> {
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
    /// # Safety
    /// The handle is live and not `RUNNING`. Python code may run.
    #[inline]
    pub unsafe fn release(this: *mut Self) {
        // SAFETY: each word is emptied before what it held is given back, so nobody sees a dead pointer.
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
            let event_loop = std::mem::replace(&mut (*this).event_loop, ptr::null_mut());
            for arg in args.into_iter().take(n) {
                ffi::Py_DECREF(arg);
            }
            ffi::Py_XDECREF(callback);
            ffi::Py_XDECREF(context);
            ffi::Py_XDECREF(event_loop);
        }
    }
}

/// Whether a reference count tells who holds an object: free-threaded builds split it.
const COUNTS_TELL: bool = cfg!(not(Py_GIL_DISABLED));

/// What a new handle is to call.
pub struct Call<'a> {
    pub callback: *mut PyObject,
    pub args: &'a [*mut PyObject],
    /// The context to run in, or none for a copy of the current one.
    pub context: Option<Ref>,
    pub event_loop: *mut PyObject,
}

/// Where a loop makes its handles.
///
/// The collector need not walk a handle that only the loop holds: the loop shows it what is inside (see
/// [`visit_owned`]). Such are most handles, because callers mostly drop what `call_soon()` returns; but that shows only
/// after the call. So a handle is tracked when it is made, and untracked when the next one is, if nobody kept it. While
/// the loop runs, plain handles are not tracked at all: a running loop is alive, and so is everything in its queues.
/// When it stops, [`track_kept`] makes up for it.
#[derive(Default)]
pub struct Maker {
    /// Handles and timers that have run and nobody holds: empty, untracked, ready to be used again. As many are kept
    /// as the loop's last burst needed; see [`Maker::trim`].
    free: [Vec<Ref>; 2],
    /// The handle made last, while it is in the loop's queues.
    last: Option<HandleRef>,
}

impl Maker {
    /// What is kept for good …
    const KEEP: usize = 1024;
    /// … and what is kept at most.
    const LIMIT: usize = 256 * 1024;

    /// Everything the maker holds, to be dropped.
    pub fn take_all(&mut self) -> impl Sized {
        (std::mem::take(&mut self.free), self.last.take())
    }

    /// The handle made last, which the collector has to see: nobody else shows this reference.
    pub fn last(&self) -> Option<&HandleRef> {
        self.last.as_ref()
    }

    /// Half of what is free beyond `KEEP`, to be dropped: a loop that goes to sleep gives back what a burst has left.
    pub fn trim(&mut self) -> Option<impl Sized> {
        if self.free.iter().all(|free| free.len() <= Self::KEEP) {
            return None;
        }
        let halve = |free: &mut Vec<Ref>| {
            let rest = free.split_off(free.len().min(Self::KEEP.max(free.len() / 2)));
            free.shrink_to(free.len());
            rest
        };
        let [handles, timers] = &mut self.free;
        Some((halve(handles), halve(timers)))
    }
}

/// Shows a handle in the loop's queues to the collector: itself, or what is inside if only the loop holds it.
///
/// # Safety
/// The handle is live.
pub fn visit_owned(handle: &HandleRef, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
    let object = handle.as_object();
    // SAFETY: the handle is live; a field that is set holds a live object.
    unsafe {
        if (*handle.as_ptr()).has(TRACKED) {
            return object.visit(visit);
        }
        for field in fields(handle.as_ptr()) {
            if !field.is_null() {
                // A borrowed look: the collector counts references, it must not see one more.
                std::mem::ManuallyDrop::new(Ref::unowned(field)).visit(visit)?;
            }
        }
    }
    Ok(())
}

/// Makes a handle for `call`.
///
/// # Safety
/// Everything in `call` is live.
#[inline]
pub unsafe fn new_handle(
    maker: &Local<Maker>,
    contexts: &Local<Contexts>,
    running: bool,
    call: Call<'_>,
) -> Res<HandleRef> {
    // SAFETY: an object of the free list is an empty handle that nobody else can see.
    unsafe {
        let handle = take_free(maker, &HANDLE_TYPE, 0)?;
        fill(handle.as_ptr(), contexts, call)?;
        if !running {
            made(maker, &handle);
        }
        Ok(handle)
    }
}

/// Has the collector track a handle that somebody else than the loop holds, or will hold.
pub fn track_kept(handle: &HandleRef, whatever: bool) {
    let this = handle.as_ptr();
    // SAFETY: an owned handle is live.
    unsafe {
        let kept = whatever || !COUNTS_TELL || ffi::Py_REFCNT(this.cast()) > 1;
        if kept && !(*this).has(TRACKED) {
            (*this).set(TRACKED, true);
            ffi::PyObject_GC_Track(this.cast());
        }
    }
}

/// Makes a timer handle.
///
/// # Safety
/// As [`new_handle`].
#[inline]
pub unsafe fn new_timer(
    maker: &Local<Maker>,
    contexts: &Local<Contexts>,
    call: Call<'_>,
    when: f64,
) -> Res<HandleRef> {
    // SAFETY: a fresh object.
    unsafe {
        let handle = take_free(maker, &TIMER_TYPE, 1)?;
        (*handle.as_ptr()).when = when;
        fill(handle.as_ptr(), contexts, call)?;
        made(maker, &handle);
        Ok(handle)
    }
}

#[inline]
unsafe fn take_free(
    maker: &Local<Maker>,
    ty: &AtomicPtr<PyTypeObject>,
    list: usize,
) -> Res<HandleRef> {
    // SAFETY: what is free is an empty handle of that type, and nobody else holds it.
    unsafe {
        match maker.with(|maker| maker.free[list].pop()) {
            Some(object) => {
                let this = object.as_ptr().cast::<HandleObject>();
                (*this).flags.store(0, Ordering::Relaxed);
                Ok(HandleRef(object))
            }
            None => allocate(ty.load(Ordering::Relaxed)),
        }
    }
}

/// Has the collector track a new handle, and no longer the one before if nobody kept it.
#[inline]
unsafe fn made(maker: &Local<Maker>, handle: &HandleRef) {
    // SAFETY: both are live handles. The one before is held here and, if it has not run, by one queue of the loop.
    unsafe {
        track_kept(handle, true);
        let before = maker.with(|maker| maker.last.replace(handle.clone()));
        if let Some(before) = before {
            if COUNTS_TELL
                && ffi::Py_REFCNT(before.as_ptr().cast()) == 2
                && !(*before.as_ptr()).has(PERSISTENT)
                && (*before.as_ptr()).has(TRACKED)
            {
                (*before.as_ptr()).set(TRACKED, false);
                ffi::PyObject_GC_UnTrack(before.as_ptr().cast());
            }
        }
    }
}

/// Gives back a handle that has run, keeping the object if nobody else holds it.
#[inline]
pub fn recycle(maker: &Local<Maker>, handle: HandleRef) {
    let this = handle.as_ptr();
    // SAFETY: the handle is live and not running; only handles that no one can reach are kept.
    unsafe {
        HandleObject::release(this);
        let last = maker.with(|maker| maker.last.take_if(|last| std::ptr::eq(last.as_ptr(), this)));
        drop(last);
        if COUNTS_TELL
            && ffi::Py_REFCNT(this.cast()) == 1
            && !has_weakrefs(this)
            && (*this).source_traceback.is_null()
            && (*this).debug_repr.is_null()
        {
            if (*this).has(TRACKED) {
                ffi::PyObject_GC_UnTrack(this.cast());
            }
            let left = maker.with(|maker| {
                let free = &mut maker.free[usize::from(is_timer(this))];
                if free.len() < Maker::LIMIT {
                    free.push(handle.into_object());
                    None
                } else {
                    Some(handle)
                }
            });
            drop(left);
        }
    }
}

unsafe fn has_weakrefs(this: *mut HandleObject) -> bool {
    // SAFETY: the offset is that of the handle's type.
    unsafe {
        !this
            .cast::<u8>()
            .offset(WEAKREFS.load(Ordering::Relaxed))
            .cast::<*mut PyObject>()
            .read_unaligned()
            .is_null()
    }
}

unsafe fn allocate(ty: *mut PyTypeObject) -> Res<HandleRef> {
    // SAFETY: the type has this layout; every field is set before the collector may look.
    unsafe {
        let this = ffi::PyObject_GC_New::<HandleObject>(ty);
        let object = Ref::new(this.cast())?;
        (*this).args = [ptr::null_mut(); INLINE_ARGS + 1];
        (*this).callback = ptr::null_mut();
        (*this).context = ptr::null_mut();
        (*this).event_loop = ptr::null_mut();
        #[cfg(not(Py_3_12))]
        {
            (*this).weakrefs = ptr::null_mut();
        }
        (*this).source_traceback = ptr::null_mut();
        (*this).debug_repr = ptr::null_mut();
        (*this).when = 0.0;
        (*this).count = 0;
        (*this).flags = AtomicU8::new(0);
        Ok(HandleRef(object))
    }
}

#[inline]
unsafe fn fill(this: *mut HandleObject, contexts: &Local<Contexts>, call: Call<'_>) -> Res<()> {
    // SAFETY: the handle is empty, and everything in `call` is live.
    unsafe {
        let n = call.args.len();
        if n <= INLINE_ARGS {
            for (i, &arg) in call.args.iter().enumerate() {
                ffi::Py_INCREF(arg);
                (*this).args[i + 1] = arg;
            }
            // At most INLINE_ARGS.
            #[allow(clippy::cast_possible_truncation)]
            {
                (*this).count = n as u8;
            }
        } else {
            let tuple = Ref::new(ffi::PyTuple_New(n.cast_signed()))?;
            for (i, &arg) in call.args.iter().enumerate() {
                ffi::Py_INCREF(arg);
                ffi::PyTuple_SET_ITEM(tuple.as_ptr(), i.cast_signed(), arg);
            }
            (*this).args[1] = tuple.into_ptr();
            (*this).count = IN_TUPLE;
        }
        ffi::Py_INCREF(call.callback);
        (*this).callback = call.callback;
        (*this).context = match call.context {
            Some(context) => context.into_ptr(),
            None => {
                let template = Contexts::template(contexts)?;
                (*this).set(TEMPLATE, true);
                template.into_ptr()
            }
        };
        ffi::Py_INCREF(call.event_loop);
        (*this).event_loop = call.event_loop;
        Ok(())
    }
}

unsafe extern "C" fn traverse(
    object: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live handle.
    unsafe {
        for field in fields(object.cast())
            .into_iter()
            .chain([ffi::Py_TYPE(object).cast()])
        {
            if !field.is_null() {
                let stop = visit(field, arg);
                if stop != 0 {
                    return stop;
                }
            }
        }
    }
    0
}

/// Every object of a handle, or null; `args[0]` is only ever borrowed.
unsafe fn fields(this: *mut HandleObject) -> [*mut PyObject; 8] {
    // SAFETY: the caller's handle is live.
    unsafe {
        [
            (*this).args[1],
            (*this).args[2],
            (*this).args[3],
            (*this).callback,
            (*this).context,
            (*this).event_loop,
            (*this).source_traceback,
            (*this).debug_repr,
        ]
    }
}

unsafe extern "C" fn clear(object: *mut PyObject) -> c_int {
    let this = object.cast::<HandleObject>();
    // SAFETY: the handle is live; while it runs, its references are in use and it is reachable anyway.
    unsafe {
        if (*this).has(RUNNING) {
            return 0;
        }
        HandleObject::release(this);
        for field in [
            &raw mut (*this).source_traceback,
            &raw mut (*this).debug_repr,
        ] {
            ffi::Py_XDECREF(std::mem::replace(&mut *field, ptr::null_mut()));
        }
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: the last reference is gone; this is the order that CPython's own types use.
    unsafe {
        let ty = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        if has_weakrefs(object.cast()) {
            ffi::PyObject_ClearWeakRefs(object);
        }
        clear(object);
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(ty.cast());
    }
}

/// Makes both types with the given methods and attributes.
pub fn make_types(
    py: Python<'_>,
    methods: fn() -> Vec<ffi::PyMethodDef>,
    attributes: fn() -> Vec<ffi::PyGetSetDef>,
) -> PyResult<(Ref, Ref)> {
    let events = py.import("asyncio.events")?;
    let make = |base: &str, name, size| -> PyResult<Ref> {
        let base = events.getattr(base)?.cast_into::<PyType>()?;
        let found: usize = base.getattr("__basicsize__")?.extract()?;
        if found != size {
            return Err(PyImportError::new_err(format!(
                "{base} of this Python is laid out in a way that hybridloop does not know ({found} bytes); please upgrade \
                 hybridloop"
            )));
        }
        WEAKREFS.store(
            base.getattr("__weakrefoffset__")?.extract()?,
            Ordering::Relaxed,
        );
        // PyType_FromSpec does not inherit the flag for the words in front of the object.
        #[cfg(Py_3_12)]
        let flags = ffi::Py_TPFLAGS_MANAGED_WEAKREF;
        #[cfg(not(Py_3_12))]
        let flags = 0;
        let slots = Slots::default()
            .add(ffi::Py_tp_traverse, traverse as *mut c_void)
            .add(ffi::Py_tp_clear, clear as *mut c_void)
            .add(ffi::Py_tp_dealloc, dealloc as *mut c_void)
            .table(ffi::Py_tp_methods, methods(), method_end())
            .table(ffi::Py_tp_getset, attributes(), getset_end());
        // SAFETY: the layout begins with the words of the base, as just checked.
        unsafe { slots.build(py, name, size_of::<HandleObject>(), flags, Some(&base)) }
    };
    let handle = make("Handle", c"hybridloop._core.Handle", HANDLE_SIZE)?;
    let timer = make("TimerHandle", c"hybridloop._core.TimerHandle", TIMER_SIZE)?;
    HANDLE_TYPE.store(handle.clone().into_ptr().cast(), Ordering::Relaxed);
    TIMER_TYPE.store(timer.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok((handle, timer))
}

/// The handle behind an object, if it is one of ours.
pub fn downcast(object: *mut PyObject) -> Option<*mut HandleObject> {
    // SAFETY: the object is live; the types were made at import.
    let ty = unsafe { ffi::Py_TYPE(object) };
    (ty == HANDLE_TYPE.load(Ordering::Relaxed) || ty == TIMER_TYPE.load(Ordering::Relaxed))
        .then_some(object.cast())
}

/// Whether a handle is a timer.
pub fn is_timer(handle: *mut HandleObject) -> bool {
    // SAFETY: the handle is live.
    unsafe { ffi::Py_TYPE(handle.cast()) == TIMER_TYPE.load(Ordering::Relaxed) }
}
