//! What waits: a [`Stack`], and how it is left and gone on with. `hybridloop.sync` makes the greenlets.
//!
//! A function of this file is on a stack while another stack runs, so it holds no cell open, and what it borrows lives on.

use hybridloop_sync::clock::{now_ns, ns_to_seconds};
use pyo3::prelude::*;
use pyo3::pyclass::PyVisit;
use pyo3::types::{PyDict, PyList, PyTuple};
use pyo3::PyTraverseError;

use crate::event_loop::stacks::Clock;
use crate::event_loop::{driving, LoopCore};
use crate::python::context::{enter, leave};
use crate::python::greenlet::Greenlets;
use crate::python::stdlib::{as_name, Stdlib};
use crate::python::{ErrSet, FfiResult, Ref, RelaxedU64, SlotCell};

/// Native base of `hybridloop.sync.stacks.Stacks`: what the stacks of one loop share, and that is used for each wait.
#[pyclass(frozen, subclass, module = "hybridloop._core")]
pub struct StacksCore {
    greenlets: &'static Greenlets,
    event_loop: SlotCell<Ref>,
    /// The loop is one of hybridloop.
    is_native: bool,
    /// The message that a stack is to go on, and the arguments of a switch with it.
    go: Ref,
    go_arguments: Py<PyTuple>,
    swap_current_task: Ref,
    /// More idle runners than this are reported.
    min_idle: usize,
    /// The greenlet that runs the loop.
    active: SlotCell<Ref>,
    idle: Py<PyList>,
    waiting: Py<PyDict>,
    /// The greenlets in which a callback runs an iteration, and how many each.
    within: Py<PyDict>,
}

/// What is to be restored when a stack goes on.
struct Left {
    contexts: Vec<Ref>,
    clock: Option<Clock>,
}

#[pymethods]
impl StacksCore {
    #[new]
    fn new(
        event_loop: &Bound<'_, PyAny>,
        go: &Bound<'_, PyAny>,
        swap_current_task: &Bound<'_, PyAny>,
        min_idle: usize,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        let greenlets = Greenlets::get(py)?;
        Ok(Self {
            greenlets,
            event_loop: SlotCell::new(Some(event_loop.into())),
            is_native: event_loop.is_instance_of::<LoopCore>(),
            go: go.into(),
            go_arguments: PyTuple::new(py, [go])?.unbind(),
            swap_current_task: swap_current_task.into(),
            min_idle,
            active: SlotCell::new(Some(greenlets.current()?)),
            idle: PyList::empty(py).unbind(),
            waiting: PyDict::new(py).unbind(),
            within: PyDict::new(py).unbind(),
        })
    }

    #[getter(r#loop)]
    pub fn get_loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        bound_or_none(py, self.event_loop.get())
    }

    #[getter]
    fn get_active<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        bound_or_none(py, self.active.get())
    }

    #[setter]
    fn set_active(&self, greenlet: &Bound<'_, PyAny>) {
        drop(self.active.replace(Some(greenlet.into())));
    }

    #[getter]
    fn get_idle(&self, py: Python<'_>) -> Py<PyList> {
        self.idle.clone_ref(py)
    }

    #[getter]
    fn get_waiting(&self, py: Python<'_>) -> Py<PyDict> {
        self.waiting.clone_ref(py)
    }

    #[getter]
    fn get_within(&self, py: Python<'_>) -> Py<PyDict> {
        self.within.clone_ref(py)
    }

    /// Wait until somebody calls `stack`. Runs on the stack, and switches to `target`, or to an idle runner, or to a new one.
    #[pyo3(signature = (stack, target=None))]
    fn wait(
        slf: &Bound<'_, Self>,
        stack: &Bound<'_, Stack>,
        target: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Ok(Self::wait_on(slf, stack, target.map(Ref::from))?)
    }

    /// Switch to `target`, which is active from now on; return the next message for this greenlet.
    #[pyo3(signature = (target, *message))]
    fn switch<'py>(
        slf: &Bound<'py, Self>,
        target: &Bound<'py, PyAny>,
        message: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let message = Self::switch_to(slf, &target.into(), message)?;
        Ok(message.bind(slf.py()).clone())
    }

    /// Run what `await` would run with this iterator, and return its result. Runs in `greenlet`, in `task` or in a callback.
    fn drive<'py>(
        slf: &Bound<'py, Self>,
        greenlet: &Bound<'py, PyAny>,
        task: &Bound<'py, PyAny>,
        iterator: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let result = driving::drive(slf, greenlet, task, iterator)?;
        Ok(result.bind(slf.py()).clone())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.event_loop.visit(&visit)?;
        self.active.visit(&visit)?;
        visit.call(&self.idle)?;
        visit.call(&self.waiting)?;
        visit.call(&self.within)
    }

    fn __clear__(&self) {
        drop(self.event_loop.take());
        drop(self.active.take());
    }
}

impl StacksCore {
    fn is_go(&self, message: &Ref) -> bool {
        self.go.as_ptr() == message.as_ptr()
    }

    /// The loop, if it is one of hybridloop.
    fn core<'a>(&self, event_loop: Option<&'a Ref>) -> Option<&'a LoopCore> {
        let event_loop = event_loop.filter(|_| self.is_native)?;
        // SAFETY: `new` has checked the class, and the caller holds the loop.
        Some(unsafe { LoopCore::of(event_loop.as_ptr()) })
    }

    /// See `wait()`.
    pub fn wait_on(
        slf: &Bound<'_, Self>,
        stack: &Bound<'_, Stack>,
        target: Option<Ref>,
    ) -> FfiResult<()> {
        let Some((left, target)) = slf.get().leave(stack, target)? else {
            return Ok(slf.call_method0("_refuse").map(drop)?);
        };
        let message = match target {
            Ok(Some(target)) => {
                Self::switch_to(slf, &target, slf.get().go_arguments.bind(slf.py()))
            }
            Ok(None) => Self::begin_runner(slf, stack),
            Err(error) => Err(error),
        };
        Self::return_to(slf, stack, left, message)
    }

    /// Returns what is to be restored and where to switch to, or `None` if the stack must not wait.
    #[inline(never)]
    fn leave(
        &self,
        stack: &Bound<'_, Stack>,
        target: Option<Ref>,
    ) -> FfiResult<Option<(Left, FfiResult<Option<Ref>>)>> {
        let py = stack.py();
        let greenlet = &stack.get().greenlet;
        let event_loop = self.event_loop.get();
        let core = self.core(event_loop.as_ref());
        // A runner says in which context it has begun.
        let base = as_name(py, &Stdlib::get().names.base)?;
        let base = greenlet
            .bind(py)
            .getattr_opt(base)?
            .map_or_else(Ref::none, Ref::from);
        if let (Some(core), Some(event_loop)) = (core, &event_loop) {
            if !core.leave_stack(py, event_loop.as_ptr())? {
                return Ok(None);
            }
        }
        let contexts = match leave(self.greenlets, greenlet, &base) {
            Ok(contexts) => contexts,
            Err(error) => {
                core.inspect(|core| core.return_to_stack());
                return Err(error);
            }
        };
        let clock = core.and_then(LoopCore::stop_clock);
        let target = self.begin_wait(stack, target);
        Ok(Some((
            Left { contexts, clock },
            target.map_err(ErrSet::from),
        )))
    }

    fn begin_wait(&self, stack: &Bound<'_, Stack>, target: Option<Ref>) -> PyResult<Option<Ref>> {
        let py = stack.py();
        self.swap_task(stack, false)?;
        stack.get().since.set(now_ns());
        self.waiting.bind(py).set_item(stack, py.None())?;
        let idle = self.idle.bind(py);
        if target.is_some() || idle.is_empty() {
            return Ok(target);
        }
        let last = idle.len() - 1;
        let target = idle.get_item(last)?;
        idle.del_item(last)?;
        Ok(Some(target.into()))
    }

    #[inline(never)]
    fn return_to(
        slf: &Bound<'_, Self>,
        stack: &Bound<'_, Stack>,
        left: Left,
        message: FfiResult<Ref>,
    ) -> FfiResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let message = message.map_err(PyErr::from);
        let waiting = this.waiting.bind(py);
        if waiting.contains(stack)? {
            waiting.del_item(stack)?;
        }
        let swapped = this.swap_task(stack, true);
        if let Some(core) = this.core(this.event_loop.get().as_ref()) {
            core.return_to_stack();
            core.restart_clock(left.clock);
        }
        enter(&left.contexts)?;
        let message = message?;
        swapped?;
        if this.is_go(&message) {
            return Ok(());
        }
        Ok(slf
            .call_method1("_end_wait", (message.bind(py),))
            .map(drop)?)
    }

    /// Makes the task of the stack the current one, or none.
    fn swap_task(&self, stack: &Bound<'_, Stack>, current: bool) -> PyResult<()> {
        let py = stack.py();
        let task = stack.get().task.bind(py);
        if task.is_none() {
            return Ok(());
        }
        let none = py.None();
        let task = if current { task } else { none.bind(py) };
        let event_loop = self.get_loop(py);
        let swap = self.swap_current_task.bind(py);
        swap.call1((event_loop, task)).map(drop)
    }

    fn switch_to(
        slf: &Bound<'_, Self>,
        target: &Ref,
        message: &Bound<'_, PyTuple>,
    ) -> FfiResult<Ref> {
        let this = slf.get();
        drop(this.active.replace(Some(target.clone())));
        match this.greenlets.switch(target, message) {
            Ok(message) if this.is_go(&message) => Ok(message),
            received => Self::received(slf, received),
        }
    }

    #[cold]
    #[inline(never)]
    fn received(slf: &Bound<'_, Self>, received: FfiResult<Ref>) -> FfiResult<Ref> {
        let py = slf.py();
        let message = match received {
            Ok(value) => slf.call_method1("_received", (value.bind(py),)),
            Err(error) => {
                let error = PyErr::from(error).into_value(py);
                slf.call_method1("_received", (py.None(), error))
            }
        };
        Ok(message?.into())
    }

    #[cold]
    #[inline(never)]
    fn begin_runner(slf: &Bound<'_, Self>, stack: &Bound<'_, Stack>) -> FfiResult<Ref> {
        let greenlet = stack.get().greenlet.bind(slf.py());
        Ok(slf.call_method1("_begin_runner", (greenlet,))?.into())
    }
}

/// A stack that waits, and the callback that goes on with it.
#[pyclass(frozen, module = "hybridloop._core")]
pub struct Stack {
    stacks: Py<StacksCore>,
    greenlet: Ref,
    task: Ref,
    future: Ref,
    since: RelaxedU64,
}

#[pymethods]
impl Stack {
    #[new]
    fn new(
        stacks: Py<StacksCore>,
        greenlet: &Bound<'_, PyAny>,
        task: &Bound<'_, PyAny>,
        future: &Bound<'_, PyAny>,
    ) -> Self {
        Self {
            stacks,
            greenlet: greenlet.into(),
            task: task.into(),
            future: future.into(),
            since: RelaxedU64::default(),
        }
    }

    #[getter]
    fn get_greenlet<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.greenlet.bind(py).clone()
    }

    #[getter]
    fn get_task<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.task.bind(py).clone()
    }

    #[getter]
    fn get_future<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.future.bind(py).clone()
    }

    /// When it began to wait, in seconds of `loop.time()`.
    #[getter]
    fn get_since(&self) -> f64 {
        ns_to_seconds(self.since.get())
    }

    /// Go on; the callback of what the stack waits for. The runner that calls it becomes idle.
    #[pyo3(signature = (_future=None))]
    fn __call__(slf: &Bound<'_, Self>, _future: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let stacks = this.stacks.bind(py);
        let shared = stacks.get();
        if !shared.waiting.bind(py).contains(slf)? {
            return Ok(());
        }
        let current = shared.greenlets.current()?;
        let within = shared.within.bind(py);
        if shared.active.as_ptr() != Some(current.as_ptr())
            || !within.is_empty() && within.contains(current.bind(py))?
        {
            return stacks
                .call_method1("_wake_elsewhere", (slf, current.bind(py)))
                .map(drop);
        }
        let (debugged, clock) = Self::begin_idle(stacks, &current)?;
        let message = StacksCore::switch_to(stacks, &this.greenlet, shared.go_arguments.bind(py));
        if debugged {
            if let Some(core) = shared.core(shared.event_loop.get().as_ref()) {
                core.restart_clock(clock);
            }
        }
        let message = message?;
        if shared.is_go(&message) {
            return Ok(());
        }
        Self::end_iteration(stacks, &message)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.stacks)?;
        self.greenlet.visit(&visit)?;
        self.task.visit(&visit)?;
        self.future.visit(&visit)
    }
}

impl Stack {
    /// The current runner becomes idle. Only debug mode measures iterations that are under way.
    #[inline(never)]
    fn begin_idle(
        stacks: &Bound<'_, StacksCore>,
        current: &Ref,
    ) -> PyResult<(bool, Option<Clock>)> {
        let (py, shared) = (stacks.py(), stacks.get());
        let idle = shared.idle.bind(py);
        idle.append(current.bind(py))?;
        if idle.len() > shared.min_idle {
            stacks.call_method0("_trim_later")?;
        }
        let event_loop = shared.event_loop.get();
        let debugged = shared
            .core(event_loop.as_ref())
            .filter(|core| core.is_debug());
        Ok((debugged.is_some(), debugged.and_then(LoopCore::stop_clock)))
    }

    #[cold]
    #[inline(never)]
    fn end_iteration(stacks: &Bound<'_, StacksCore>, message: &Ref) -> PyResult<()> {
        let message = message.bind(stacks.py());
        stacks.call_method1("_end_iteration", (message,)).map(drop)
    }

    /// A stack of the running greenlet.
    pub fn of<'py>(
        stacks: &Bound<'py, StacksCore>,
        greenlet: &Bound<'py, PyAny>,
        task: &Bound<'py, PyAny>,
        future: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Self>> {
        let stacks_of = stacks.clone().unbind();
        Bound::new(stacks.py(), Self::new(stacks_of, greenlet, task, future))
    }
}

fn bound_or_none(py: Python<'_>, object: Option<Ref>) -> Bound<'_, PyAny> {
    object.unwrap_or_else(Ref::none).bind(py).clone()
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StacksCore>()?;
    module.add_class::<Stack>()
}
