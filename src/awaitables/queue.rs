//! What a callback coroutine has still to do: a queue of steps, and the blocks that it is in.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::python::coroutine::Visit;
use crate::python::{awaitable, nested_drop, ErrSet, Ref};

/// `hla_callback` and `hla_error`.
pub type Callback = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> c_int;
/// `hla_defer`
pub type Defer = unsafe extern "C" fn(*mut PyObject) -> c_int;

/// One step that is queued.
pub enum Entry {
    Await {
        awaitable: Ref,
        callback: Option<Callback>,
        error: Option<Callback>,
    },
    Defer(Defer),
    With {
        /// The bound methods.
        enter: Ref,
        exit: Ref,
        body: Option<Callback>,
        error: Option<Callback>,
    },
    For {
        iterable: Ref,
        item: Option<Callback>,
        end: Option<Defer>,
        error: Option<Callback>,
    },
}

impl Entry {
    fn traverse(&self, visit: Visit<'_>) -> c_int {
        match self {
            Self::Await { awaitable, .. } => visit(awaitable),
            Self::Defer(_) => 0,
            Self::With { enter, exit, .. } => match visit(enter) {
                0 => visit(exit),
                stop => stop,
            },
            Self::For { iterable, .. } => visit(iterable),
        }
    }
}

struct Node {
    next: Option<NonNull<Self>>,
    entry: Entry,
}

/// A queue of entries. Its memory is Python's, so that a program that has none left gets `MemoryError`.
///
/// Dropping it closes the coroutines in it, which may run Python code.
#[derive(Default)]
pub struct Queue {
    first: Option<NonNull<Node>>,
    last: Option<NonNull<Node>>,
}

// SAFETY: the queue owns its nodes, which are reached through it only.
unsafe impl Send for Queue {}

impl Queue {
    /// Returns the entry if there is no memory for it. Runs no Python code.
    pub fn push(&mut self, entry: Entry) -> Result<(), Entry> {
        // SAFETY: the caller is attached. The memory is for one node, which is written before it is used.
        let node = unsafe {
            let memory = ffi::PyMem_Malloc(size_of::<Node>()).cast::<MaybeUninit<Node>>();
            let Some(memory) = NonNull::new(memory) else {
                return Err(entry);
            };
            (*memory.as_ptr()).write(Node { next: None, entry });
            memory.cast::<Node>()
        };
        match self.last.replace(node) {
            // SAFETY: the queue owns its nodes.
            Some(last) => unsafe { (*last.as_ptr()).next = Some(node) },
            None => self.first = Some(node),
        }
        Ok(())
    }

    /// Runs no Python code.
    pub fn pop(&mut self) -> Option<Entry> {
        let node = self.first?;
        // SAFETY: the queue owns its nodes; this one is taken out, its content moved, and its memory freed once.
        unsafe {
            let Node { next, entry } = ptr::read(node.as_ptr());
            ffi::PyMem_Free(node.as_ptr().cast());
            self.first = next;
            if next.is_none() {
                self.last = None;
            }
            Some(entry)
        }
    }

    /// Moves all entries of another queue behind those of this one.
    fn append(&mut self, mut other: Self) {
        let Some(first) = other.first.take() else {
            return;
        };
        match std::mem::replace(&mut self.last, other.last.take()) {
            // SAFETY: the queue owns its nodes.
            Some(last) => unsafe { (*last.as_ptr()).next = Some(first) },
            None => self.first = Some(first),
        }
    }

    pub fn traverse(&self, visit: Visit<'_>) -> c_int {
        let mut at = self.first;
        while let Some(node) = at {
            // SAFETY: the queue owns its nodes, and nothing changes them meanwhile.
            let node = unsafe { node.as_ref() };
            let stop = node.entry.traverse(visit);
            if stop != 0 {
                return stop;
            }
            at = node.next;
        }
        0
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        while let Some(entry) = self.pop() {
            match entry {
                Entry::Await { awaitable, .. } => discard(awaitable),
                other => drop(other),
            }
        }
    }
}

/// Drops an awaitable that will not be awaited. A coroutine is closed, so that nothing warns of it. An exception that is set
/// stays.
pub fn discard(awaitable: Ref) {
    nested_drop::drop_limited(Unused(awaitable));
}

/// An awaitable that will not be awaited. A coroutine is closed when this is dropped, so that nothing warns of it.
struct Unused(Ref);

impl Drop for Unused {
    fn drop(&mut self) {
        // SAFETY: the holder of a `Ref` is attached.
        let py = unsafe { Python::assume_attached() };
        let error = PyErr::take(py);
        if awaitable::is_coroutine(&self.0) {
            if let Err(ErrSet) = awaitable::close(&self.0) {
                PyErr::fetch(py).write_unraisable(py, Some(self.0.bind(py)));
            }
        }
        if let Some(error) = error {
            error.restore(py);
        }
    }
}

/// A block that the coroutine is in. What its callbacks queue belongs to it.
pub enum Block {
    With {
        exit: Ref,
        error: Option<Callback>,
    },
    For {
        iterator: Ref,
        item: Option<Callback>,
        end: Option<Defer>,
        error: Option<Callback>,
        /// The callback has asked for the end.
        is_broken: bool,
    },
}

/// What the coroutine awaits.
#[derive(Default)]
pub enum Current {
    #[default]
    Nothing,
    Await {
        callback: Option<Callback>,
        error: Option<Callback>,
    },
    /// `__aenter__()`
    Enter {
        exit: Ref,
        body: Option<Callback>,
        error: Option<Callback>,
    },
    /// `__aexit__()`, called with the exception of the block, or without one.
    Exit {
        raised: Option<Ref>,
        error: Option<Callback>,
    },
    /// `__anext__()` of the innermost block.
    Next,
}

/// The steps of a coroutine.
#[derive(Default)]
pub struct Steps {
    pub current: Current,
    queue: Queue,
    /// The blocks that the coroutine is in, with what they have queued; the innermost one is last.
    blocks: Vec<(Block, Queue)>,
}

impl Steps {
    fn innermost(&mut self) -> &mut Queue {
        match self.blocks.last_mut() {
            Some((_, queue)) => queue,
            None => &mut self.queue,
        }
    }

    pub fn push(&mut self, entry: Entry) -> Result<(), Entry> {
        self.innermost().push(entry)
    }

    pub fn pop(&mut self) -> Option<Entry> {
        self.innermost().pop()
    }

    /// Everything that is queued, for the caller to drop. The blocks stay.
    pub fn clear(&mut self) -> Vec<Queue> {
        let queues = self.blocks.iter_mut().map(|(_, queue)| queue);
        std::iter::once(&mut self.queue)
            .chain(queues)
            .map(std::mem::take)
            .collect()
    }

    /// Enters a block; returns it if there is no memory for it.
    pub fn enter(&mut self, block: Block) -> Result<(), Block> {
        if self.blocks.try_reserve(1).is_err() {
            return Err(block);
        }
        self.blocks.push((block, Queue::default()));
        Ok(())
    }

    pub fn block(&mut self) -> Option<&mut Block> {
        self.blocks.last_mut().map(|(block, _)| block)
    }

    /// Leaves the innermost block, and returns it and what it has queued, for the caller to drop.
    pub fn leave(&mut self) -> Option<(Block, Queue)> {
        self.blocks.pop()
    }

    /// Leaves the innermost block, which has come to its end. What was queued from outside meanwhile goes to the one around it.
    pub fn end(&mut self) -> Option<Block> {
        let (block, queue) = self.blocks.pop()?;
        self.innermost().append(queue);
        Some(block)
    }

    pub fn traverse(&self, visit: Visit<'_>) -> c_int {
        let current = match &self.current {
            Current::Enter { exit, .. } => visit(exit),
            Current::Exit {
                raised: Some(raised),
                ..
            } => visit(raised),
            Current::Nothing | Current::Await { .. } | Current::Exit { .. } | Current::Next => 0,
        };
        if current != 0 {
            return current;
        }
        for (block, queue) in &self.blocks {
            let (Block::With { exit: object, .. }
            | Block::For {
                iterator: object, ..
            }) = block;
            let stop = match visit(object) {
                0 => queue.traverse(visit),
                stop => stop,
            };
            if stop != 0 {
                return stop;
            }
        }
        self.queue.traverse(visit)
    }
}

/// Sets `MemoryError`.
#[cold]
pub fn no_memory() -> ErrSet {
    // SAFETY: the callers are attached.
    unsafe { ffi::PyErr_NoMemory() };
    ErrSet
}
