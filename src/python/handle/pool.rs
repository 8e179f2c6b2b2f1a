//! Making and reusing handles.

use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::pyclass::PyVisit;
use pyo3::PyTraverseError;

use crate::python::cell::LoopCell;
use crate::python::context::Contexts;
use crate::python::handle::types::{class_of, has_weakrefs, Class, CLASSES};
use crate::python::handle::{
    fields, is_plain, HandleObject, HandleRef, BASE_WORDS, FIELDS, INLINE_ARGS, IN_TUPLE,
    PERSISTENT, PLAIN_FIELDS, SUBCLASS_WORDS, TEMPLATE, THREAD_SAFE, TRACKED,
};
use crate::python::refs::Ref;
use crate::python::unstable::handle_reuse;
use crate::python::vectorcall::FfiResult;

/// The callback of a new handle.
pub struct Call<'a> {
    pub callback: *mut PyObject,
    pub args: &'a [*mut PyObject],
    /// The context to run in, or none for a copy of the current one.
    pub context: Option<Ref>,
    pub event_loop: *mut PyObject,
}

/// The handles of a loop that can be reused.
///
/// The collector need not track a handle that only the loop holds: the loop visits its fields (see [`visit_owned`]). That is
/// true of most handles, because callers usually drop the result of `call_soon()`, but it is known only after the call. So a
/// handle is tracked when it is made, and untracked when the next one is made, if nothing else holds it. While the loop runs,
/// plain handles are not tracked: a running loop is reachable, and so is all in its queues. When the loop stops,
/// [`track_if_shared`] tracks the handles that are shared.
#[derive(Default)]
pub struct HandlePool {
    /// Finished handles of each class without other references: empty and untracked. As many are kept as the loop's last burst
    /// needed; see [`HandlePool::trim`].
    free: [Vec<Ref>; CLASSES],
    /// The handle made last, while it is in the loop's queues.
    last: Option<HandleRef>,
}

impl HandlePool {
    /// How many handles are always kept …
    const KEEP: usize = 1024;
    /// … and how many are kept at most.
    const LIMIT: usize = 256 * 1024;

    /// Everything the pool holds, to be dropped.
    pub fn take_all(&mut self) -> impl Sized {
        (std::mem::take(&mut self.free), self.last.take())
    }

    /// The handle made last, for the garbage collector: no other traversal visits this reference.
    pub fn last(&self) -> Option<&HandleRef> {
        self.last.as_ref()
    }

    /// Whether [`HandlePool::trim`] has something to do.
    #[inline]
    pub fn has_too_many(&self) -> bool {
        self.free.iter().any(|free| free.len() > Self::KEEP)
    }

    /// Takes half of the free handles beyond `KEEP`, for the caller to drop: a sleeping loop frees the memory of a burst.
    #[cold]
    pub fn trim(&mut self) -> impl Sized {
        let halve = |free: &mut Vec<Ref>| {
            let kept = free.len().min(Self::KEEP.max(free.len() / 2));
            let mut rest = Vec::new();
            if rest.try_reserve_exact(free.len() - kept).is_ok() {
                rest.extend(free.drain(kept..));
                free.shrink_to(kept);
            }
            rest
        };
        self.free.each_mut().map(halve)
    }
}

/// Visits a handle in the loop's queues, for the garbage collector: the handle itself, or its fields if it is untracked.
pub fn visit_owned(handle: &HandleRef, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
    let object = handle.as_object();
    // SAFETY: `handle` keeps the object alive. A field that is set is a reference that the handle owns.
    unsafe {
        if (*handle.as_ptr()).has(TRACKED) {
            return object.visit(visit);
        }
        let this = handle.as_ptr();
        let count = if is_plain(this) { PLAIN_FIELDS } else { FIELDS };
        for field in fields(this).into_iter().take(count).map(|field| *field) {
            if !field.is_null() {
                // The reference is not counted, so it is not dropped.
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
    handle_pool: &LoopCell<HandlePool>,
    contexts: &LoopCell<Contexts>,
    running: bool,
    class: Class,
    call: Call<'_>,
) -> FfiResult<HandleRef> {
    // SAFETY: `acquire` returns an empty handle without other references. The caller guarantees that all in `call` is live.
    unsafe {
        let handle = acquire(handle_pool, class)?;
        if class == Class::ThreadSafe {
            (*handle.as_ptr()).set(THREAD_SAFE, true);
        }
        fill(handle.as_ptr(), contexts, call)?;
        if !running {
            track_newest(handle_pool, &handle);
        }
        Ok(handle)
    }
}

/// Makes the collector track a handle that code other than the loop holds. With `force` it is tracked in any case.
pub fn track_if_shared(handle: &HandleRef, force: bool) {
    let this = handle.as_ptr();
    // SAFETY: `handle` keeps the object alive.
    unsafe {
        let track = force || !handle_reuse::is_on() || ffi::Py_REFCNT(this.cast()) > 1;
        if track && !(*this).has(TRACKED) {
            (*this).set(TRACKED, true);
            ffi::PyObject_GC_Track(this.cast());
        }
    }
}

/// Makes a timer handle.
///
/// # Safety
/// Everything in `call` is live.
#[inline]
pub unsafe fn new_timer(
    handle_pool: &LoopCell<HandlePool>,
    contexts: &LoopCell<Contexts>,
    call: Call<'_>,
    when: f64,
) -> FfiResult<HandleRef> {
    // SAFETY: `acquire` returns an empty handle without other references. The caller guarantees that all in `call` is live.
    unsafe {
        let handle = acquire(handle_pool, Class::Timer)?;
        (*handle.as_ptr()).when = when;
        (*handle.as_ptr()).when_is_int = false;
        fill(handle.as_ptr(), contexts, call)?;
        track_newest(handle_pool, &handle);
        Ok(handle)
    }
}

#[inline]
unsafe fn acquire(handle_pool: &LoopCell<HandlePool>, class: Class) -> FfiResult<HandleRef> {
    // SAFETY: `recycle` stores only empty handles without other references, by their type. The closure only moves one.
    unsafe {
        match handle_pool.with_leaf(|handle_pool| handle_pool.free[class as usize].pop()) {
            Some(object) => {
                let this = object.as_ptr().cast::<HandleObject>();
                (*this).flags.store(0, Ordering::Relaxed);
                Ok(HandleRef(object))
            }
            None => allocate(class.ty()),
        }
    }
}

/// Makes the collector track a new handle, and untracks the previous one if only the loop holds it.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "part of every call_soon() and call_later()"
)]
unsafe fn track_newest(handle_pool: &LoopCell<HandlePool>, handle: &HandleRef) {
    // SAFETY: both references keep their handles alive. `before` has two if only this function and a queue of the loop hold it.
    unsafe {
        track_if_shared(handle, true);
        let before = handle_pool.with_leaf(|handle_pool| handle_pool.last.replace(handle.clone()));
        if let Some(before) = before {
            if handle_reuse::is_on()
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

/// Clears a handle that has run, and keeps the object for reuse if it has no other references.
#[inline]
pub fn recycle(handle_pool: &LoopCell<HandlePool>, handle: HandleRef) {
    let this = handle.as_ptr();
    // SAFETY: the loop calls this after the callback has returned. `handle` keeps the object alive; only the last reference is
    // stored.
    unsafe {
        HandleObject::release(this);
        let last = handle_pool.with_leaf(|handle_pool| {
            handle_pool
                .last
                .take_if(|last| std::ptr::eq(last.as_ptr(), this))
        });
        drop(last);
        if handle_reuse::is_on()
            && ffi::Py_REFCNT(this.cast()) == 1
            && !has_weakrefs(this)
            && is_plain(this)
        {
            if (*this).has(TRACKED) {
                ffi::PyObject_GC_UnTrack(this.cast());
            }
            let left = handle_pool.with_leaf(|handle_pool| {
                let free = &mut handle_pool.free[class_of(this) as usize];
                let has_room = free.len() < free.capacity() || free.try_reserve(1).is_ok();
                if has_room && free.len() < HandlePool::LIMIT {
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

unsafe fn allocate(ty: *mut PyTypeObject) -> FfiResult<HandleRef> {
    // SAFETY: `make_type` has made the type with this layout. All fields are set before the object is tracked.
    unsafe {
        let this = ffi::PyObject_GC_New::<HandleObject>(ty);
        let object = Ref::new(this.cast())?;
        (*this).base = [ptr::null_mut(); BASE_WORDS];
        (*this).subclass = [ptr::null_mut(); SUBCLASS_WORDS];
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
        (*this).when_is_int = false;
        (*this).count = 0;
        (*this).flags = AtomicU8::new(0);
        Ok(HandleRef(object))
    }
}

#[inline]
unsafe fn fill(
    this: *mut HandleObject,
    contexts: &LoopCell<Contexts>,
    call: Call<'_>,
) -> FfiResult<()> {
    // SAFETY: the callers pass an empty handle without other references, and guarantee that all in `call` is live.
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
