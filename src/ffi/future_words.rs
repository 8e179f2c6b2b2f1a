//! Futures without the calls: resolving one, and making one that has served new.
//!
//! Making a future, resolving it and freeing it cost more than most of what is done between two waits. In memory, the
//! futures of a loop differ by a few words only: the state, the result, the callback that waits and its context. Which
//! words these are shows by futures that are known, and so does what is in all the others. Only a future of which every
//! word is as expected is touched here; whatever else a future may hold, now or in later Pythons, leaves it to its own
//! methods.

use std::collections::VecDeque;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::fastcall::Res;
use super::future::set_none;
use super::local::Local;
use super::refs::Ref;

const WORD: usize = size_of::<usize>();
/// The words in front of an object: two for the collector, and two more if its type says so.
const IN_FRONT: usize = 4;
/// Where the words of the object's own begin.
const BODY: usize = IN_FRONT + size_of::<PyObject>() / WORD;
/// Free-threaded builds split the count of references, so that it does not tell who holds an object.
const COUNTS_TELL: bool = cfg!(not(Py_GIL_DISABLED));
/// How many futures are kept at most.
const LIMIT: usize = 256;
/// Types of which all objects have the two words more: a dictionary and weak references.
#[cfg(Py_3_12)]
const HAS_MORE: std::ffi::c_ulong = ffi::Py_TPFLAGS_MANAGED_DICT | ffi::Py_TPFLAGS_MANAGED_WEAKREF;
#[cfg(not(Py_3_12))]
const HAS_MORE: std::ffi::c_ulong = 1 << 4;

/// What is in the words of a future behind the header. Only the bits in the mask matter.
struct Expected {
    masks: Vec<usize>,
    bits: Vec<usize>,
}

/// What is where in the futures of a loop. Places are counted in words, from `IN_FRONT` words before the object on.
struct Words {
    /// The words in front of those of the collector are there to be read, and 0.
    has_more: bool,
    /// One callback waits, and nothing has happened yet.
    awaited: Expected,
    /// The result is `None`, and the callback has been scheduled.
    served: Expected,
    state: Place,
    result: usize,
    callback: usize,
    context: usize,
}

/// The word of a future's state, and what is in there.
struct Place {
    at: usize,
    new: usize,
    served: usize,
}

/// The first word that [`Words`] can count. It need not be there to be read.
#[inline]
fn start(future: &Ref) -> *mut usize {
    future.as_ptr().cast::<usize>().wrapping_sub(IN_FRONT)
}

impl Words {
    /// Finds out by two futures; `None` if it can't be told what is where.
    ///
    /// # Safety
    /// Attached; both are live, new, of exactly the native class, of the same loop, and nobody else holds them.
    unsafe fn find(one: &Ref, other: &Ref) -> Res<Option<Self>> {
        // SAFETY: attached; what is read are the words of live objects.
        unsafe {
            let ty = ffi::Py_TYPE(one.as_ptr());
            let size = (*ty).tp_basicsize.unsigned_abs();
            let has_more = ffi::PyType_HasFeature(ty, HAS_MORE) != 0;
            let first = if has_more { 0 } else { IN_FRONT };
            let end = IN_FRONT + size / WORD;
            let look = |future: &Ref| -> Vec<usize> {
                (first..end)
                    .map(|at| start(future).add(at).read())
                    .collect()
            };
            // The collector's words, the count of references and the class.
            let is_header = |at: usize| (2..BODY).contains(&at);
            let changed = |before: &[usize], after: &[usize]| -> Vec<(usize, usize, usize)> {
                (first..end)
                    .zip(before.iter().zip(after))
                    .filter(|(at, (before, after))| !is_header(*at) && before != after)
                    .map(|(at, (before, after))| (at, *before, *after))
                    .collect()
            };

            let new = look(one);
            let is_strange = has_more && new[..2] != [0, 0] || !size.is_multiple_of(WORD);
            if is_strange || !changed(&new, &look(other)).is_empty() {
                return Ok(None);
            }
            set_none(one)?;
            let by_result = changed(&new, &look(one));
            let callback = ty.cast::<PyObject>();
            let context = Ref::new(ffi::PyContext_New())?;
            add_callback(other, &Ref::borrowed(callback), &context)?;
            let by_callback = changed(&new, &look(other));

            let find = |changes: &[(usize, usize, usize)], object: *mut PyObject| {
                let is_set = |&&(_, before, after): &&(_, usize, usize)| {
                    (before, after) == (0, object as usize)
                };
                let [one, other] = changes else { return None };
                match (is_set(&one), is_set(&other)) {
                    (true, false) => Some((one.0, *other)),
                    (false, true) => Some((other.0, *one)),
                    _ => None,
                }
            };
            let (Some((result, state)), Some((callback, rest))) = (
                find(&by_result, ffi::Py_None()),
                find(&by_callback, callback),
            ) else {
                return Ok(None);
            };
            let is_context = (rest.1, rest.2) == (0, context.as_ptr() as usize);
            let places = [state.0, result, callback, rest.0];
            if !is_context || places.iter().any(|at| *at < BODY) {
                return Ok(None);
            }
            let state = Place {
                at: state.0,
                new: state.1,
                served: state.2,
            };
            let expect = |free: &[usize], known: &[(usize, usize)]| {
                let word = |at: usize| {
                    if free.contains(&at) {
                        return (0, 0);
                    }
                    let known = known.iter().find(|(place, _)| *place == at);
                    let bits = known.map_or(new[at - first], |(_, bits)| *bits);
                    (usize::MAX, bits)
                };
                let (masks, bits) = (BODY..end).map(word).unzip();
                Expected { masks, bits }
            };
            Ok(Some(Self {
                has_more,
                awaited: expect(&[callback, rest.0], &[]),
                served: expect(
                    &[],
                    &[(state.at, state.served), (result, ffi::Py_None() as usize)],
                ),
                state,
                result,
                callback,
                context: rest.0,
            }))
        }
    }

    #[inline]
    unsafe fn is(&self, future: &Ref, expected: &Expected) -> bool {
        let Expected { masks, bits } = expected;
        // SAFETY: the caller's future is live and of the class that was looked at, so these are its words.
        let (more, words) = unsafe {
            let more = if self.has_more {
                start(future).read() | start(future).add(1).read()
            } else {
                0
            };
            let words = std::slice::from_raw_parts(start(future).add(BODY), bits.len());
            (more, words)
        };
        let differences = words
            .iter()
            .zip(masks)
            .zip(bits)
            .map(|((word, mask), bits)| (word & mask) ^ bits);
        differences.fold(more, |all, one| all | one) == 0
    }

    /// Gives a future on which one callback waits the result `None`. The callback and its context are the caller's.
    #[inline]
    unsafe fn resolve(&self, future: &Ref) -> Option<(Ref, Ref)> {
        // SAFETY: the caller's future is live and of the class that was looked at. What is in its words is as in an
        // awaited one, so that two hold references, which change their owner, and one takes a new one.
        unsafe {
            if !self.is(future, &self.awaited) {
                return None;
            }
            let words = start(future);
            let take = |at: usize| {
                let word = words.add(at).cast::<*mut PyObject>();
                Ref::new(word.replace(std::ptr::null_mut())).ok()
            };
            if words.add(self.callback).read() == 0 || words.add(self.context).read() == 0 {
                return None;
            }
            let waiting = (take(self.callback)?, take(self.context)?);
            words
                .add(self.result)
                .write(Ref::none().into_ptr() as usize);
            words.add(self.state.at).write(self.state.served);
            Some(waiting)
        }
    }

    /// Makes a future new that has served, if it has nothing more than that about it.
    #[inline]
    unsafe fn renew(&self, future: &Ref) -> bool {
        // SAFETY: as for `resolve`; the result is a reference to `None`, which is given back.
        unsafe {
            let served = self.is(future, &self.served);
            if served {
                let words = start(future);
                words.add(self.result).write(0);
                words.add(self.state.at).write(self.state.new);
                ffi::Py_DECREF(ffi::Py_None());
            }
            served
        }
    }
}

/// `future.add_done_callback(callback, context=context)`
fn add_callback(future: &Ref, callback: &Ref, context: &Ref) -> PyResult<()> {
    // SAFETY: attached.
    let py = unsafe { Python::assume_attached() };
    let keywords = PyDict::new(py);
    keywords.set_item("context", context.bind(py))?;
    future
        .bind(py)
        .call_method("add_done_callback", (callback.bind(py),), Some(&keywords))?;
    Ok(())
}

/// What is known of the futures of a loop.
#[derive(Default)]
enum Look {
    #[default]
    NotYet,
    Known(Words),
    Unknown,
}

/// The futures of one loop that have served. All are of exactly the native class.
#[derive(Default)]
pub struct Futures {
    look: Local<Look>,
    spare: Local<VecDeque<Ref>>,
}

impl Futures {
    /// A new future, if there is one.
    #[inline]
    pub fn take(&self) -> Option<Ref> {
        let oldest = self.spare.with(VecDeque::pop_front)?;
        // SAFETY: the future is live.
        if unsafe { ffi::Py_REFCNT(oldest.as_ptr()) } != 1 {
            // The task that it has woken has not run yet, or somebody keeps it.
            self.spare.with(|spare| spare.push_back(oldest));
            return None;
        }
        let renewed = self.look.with(|look| match look {
            // SAFETY: of the class that was looked at; nobody else holds it.
            Look::Known(words) => unsafe { words.renew(&oldest) },
            Look::NotYet | Look::Unknown => false,
        });
        renewed.then_some(oldest)
    }

    /// Gives a future the result `None`, if exactly one callback waits for it and nothing else is to be told. What comes
    /// back is the callback, which the caller schedules, and its context.
    ///
    /// # Safety
    /// Attached; the future is live, and of exactly the native class.
    #[inline]
    pub unsafe fn resolve(&self, future: &Ref) -> Option<(Ref, Ref)> {
        self.look.with(|look| match look {
            // SAFETY: the caller's promise.
            Look::Known(words) => unsafe { words.resolve(future) },
            Look::NotYet | Look::Unknown => None,
        })
    }

    /// Keeps a future that has just been given the result `None`.
    #[inline]
    pub fn keep(&self, future: Ref) {
        let known = self.look.with(|look| matches!(look, Look::Known(_)));
        let left = self.spare.with(|spare| {
            if !known {
                return Some(future);
            }
            let oldest = (spare.len() >= LIMIT).then(|| spare.pop_front()).flatten();
            spare.push_back(future);
            oldest
        });
        drop(left);
    }

    /// Whether [`Futures::learn`] has still to be called.
    #[inline]
    pub fn is_ignorant(&self) -> bool {
        COUNTS_TELL && self.look.with(|look| matches!(look, Look::NotYet))
    }

    /// Looks at what futures of this loop are made of.
    ///
    /// # Safety
    /// Attached; both futures are live, new, of exactly the native class, of the same loop, made while it is not in
    /// debug mode, and nobody else holds them.
    pub unsafe fn learn(&self, one: &Ref, other: &Ref) -> Res<()> {
        // SAFETY: the caller's promise.
        let words = unsafe { Words::find(one, other)? };
        drop(self.look.replace(words.map_or(Look::Unknown, Look::Known)));
        Ok(())
    }

    /// Leaves all futures to their own methods.
    pub fn give_up(&self) {
        drop(self.look.replace(Look::Unknown));
    }

    /// Everything kept, to be dropped.
    pub fn take_all(&self) -> impl Sized {
        self.spare.take()
    }

    /// Shows what is kept to the collector.
    pub fn each<E>(&self, visit: impl FnMut(&Ref) -> Result<(), E>) -> Result<(), E> {
        self.spare.with(|spare| spare.iter().try_for_each(visit))
    }
}
