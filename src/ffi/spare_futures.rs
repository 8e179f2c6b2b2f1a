//! Futures that have served and that nobody holds any longer, made new.
//!
//! A future is made for each wait, and making and freeing one costs more than most of what is done in between. One that
//! has the result `None`, no callbacks and no other owner differs from a new one in two words, its state and its result.
//! Which words, and what is in all the others, shows by a future of the same loop that is known to be new. A future is
//! used again only if every word of it is as expected; so whatever else a future may hold, now or in later Pythons,
//! keeps it from being used again.

use std::collections::VecDeque;

use pyo3::ffi::{self, PyObject};

use super::fastcall::Res;
use super::future::set_none;
use super::local::Local;
use super::refs::Ref;

const WORD: usize = size_of::<usize>();
/// Free-threaded builds split the count of references, so that it does not tell who holds an object.
const COUNTS_TELL: bool = cfg!(not(Py_GIL_DISABLED));
/// How many futures are kept at most.
const LIMIT: usize = 256;
/// The flags of types whose objects have a dictionary or weak references in the words in front of them.
#[cfg(Py_3_12)]
const IN_FRONT: std::ffi::c_ulong = ffi::Py_TPFLAGS_MANAGED_DICT | ffi::Py_TPFLAGS_MANAGED_WEAKREF;
#[cfg(not(Py_3_12))]
const IN_FRONT: std::ffi::c_ulong = 1 << 4;

/// The words of a future: where, when it is new, and when it has the result `None`.
struct Words {
    /// From the start of the object.
    at: Vec<isize>,
    new: Vec<usize>,
    served: Vec<usize>,
}

impl Words {
    /// Looks at a new future of exactly the native class; `None` if it can't be told what is where.
    ///
    /// # Safety
    /// Attached; `future` is live, and nobody else holds it.
    unsafe fn find(future: &Ref) -> Res<Option<Self>> {
        // SAFETY: the words of a live object, and two in front of the collector's if its type says that they are there.
        unsafe {
            let ty = ffi::Py_TYPE(future.as_ptr());
            let size = (*ty).tp_basicsize;
            let first = size_of::<PyObject>().cast_signed();
            let front = if (*ty).tp_flags & IN_FRONT == 0 {
                0..0
            } else {
                -4..-2
            };
            let word = WORD.cast_signed();
            let at: Vec<_> = front
                .map(|index| index * word)
                .chain((first..size).step_by(WORD))
                .collect();
            let look = || at.iter().map(|&at| read(future, at)).collect::<Vec<_>>();
            let new = look();
            set_none(future)?;
            let served = look();
            let none = ffi::Py_None() as usize;
            let changed = || {
                new.iter()
                    .zip(&served)
                    .filter(|(before, after)| before != after)
            };
            let result = changed().filter(|&(before, after)| (*before, *after) == (0, none));
            let known = size % word == 0 && changed().count() == 2 && result.count() == 1;
            Ok(known.then_some(Self { at, new, served }))
        }
    }

    /// Whether every word of a future is as in one that has served.
    unsafe fn has_served(&self, future: &Ref) -> bool {
        self.at
            .iter()
            .zip(&self.served)
            // SAFETY: the caller's future is live and of the class that was looked at.
            .all(|(&at, &served)| unsafe { read(future, at) } == served)
    }

    /// Makes a future new that has served.
    unsafe fn renew(&self, future: &Ref) {
        for ((&at, &new), &served) in self.at.iter().zip(&self.new).zip(&self.served) {
            if new != served {
                // SAFETY: as above; the two words are the state, and the result.
                unsafe {
                    future
                        .as_ptr()
                        .byte_offset(at)
                        .cast::<usize>()
                        .write_unaligned(new);
                }
            }
        }
        // SAFETY: `None` was the result, and is no longer.
        unsafe { ffi::Py_DECREF(ffi::Py_None()) };
    }
}

unsafe fn read(future: &Ref, at: isize) -> usize {
    // SAFETY: the caller's offset is one of a word of the future.
    unsafe {
        future
            .as_ptr()
            .byte_offset(at)
            .cast::<usize>()
            .read_unaligned()
    }
}

/// What is known of the futures of a loop.
#[derive(Default)]
enum Look {
    #[default]
    NotYet,
    Known(Words),
    Unknown,
}

/// The futures of one loop. All of them are of exactly the native class.
#[derive(Default)]
pub struct SpareFutures {
    look: Local<Look>,
    queue: Local<VecDeque<Ref>>,
}

impl SpareFutures {
    /// A new future, if there is one.
    #[inline]
    pub fn take(&self) -> Option<Ref> {
        let oldest = self.queue.with(VecDeque::pop_front)?;
        // SAFETY: the future is live.
        if unsafe { ffi::Py_REFCNT(oldest.as_ptr()) } != 1 {
            // The task that it has woken has not run yet, or somebody keeps it.
            self.queue.with(|queue| queue.push_back(oldest));
            return None;
        }
        self.look.with(|look| match look {
            // SAFETY: all futures here are of the class that was looked at, and nobody else holds this one.
            Look::Known(words) => unsafe {
                words.has_served(&oldest).then(|| words.renew(&oldest))
            },
            Look::NotYet | Look::Unknown => None,
        })?;
        Some(oldest)
    }

    /// Keeps a future that has just been given the result `None`.
    #[inline]
    pub fn keep(&self, future: Ref) {
        let known = self.look.with(|look| matches!(look, Look::Known(_)));
        let left = self.queue.with(|queue| {
            if !known {
                return Some(future);
            }
            let oldest = (queue.len() >= LIMIT).then(|| queue.pop_front()).flatten();
            queue.push_back(future);
            oldest
        });
        drop(left);
    }

    /// Whether [`SpareFutures::learn`] has still to be called.
    #[inline]
    pub fn is_ignorant(&self) -> bool {
        COUNTS_TELL && self.look.with(|look| matches!(look, Look::NotYet))
    }

    /// Looks at what futures of this loop are made of, by one that is new and that nobody else holds.
    ///
    /// # Safety
    /// Attached; the future is live, of exactly the native class, and made while the loop is not in debug mode.
    #[cold]
    pub unsafe fn learn(&self, example: &Ref) -> Res<()> {
        // SAFETY: the caller's promise.
        let words = unsafe { Words::find(example)? };
        drop(self.look.replace(words.map_or(Look::Unknown, Look::Known)));
        Ok(())
    }

    /// Everything kept, to be dropped.
    pub fn take_all(&self) -> impl Sized {
        self.queue.take()
    }

    /// Shows what is kept to the collector.
    pub fn each<E>(&self, visit: impl FnMut(&Ref) -> Result<(), E>) -> Result<(), E> {
        self.queue.with(|queue| queue.iter().try_for_each(visit))
    }
}
