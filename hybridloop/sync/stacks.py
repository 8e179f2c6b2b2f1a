"""Stacks: greenlets in which a loop runs its iterations, and in which callbacks wait.

`run_forever()` parks its greenlet as the *hub* and runs the iterations in a *runner*. A function
that waits leaves its runner as it is, with the iteration and the callback on it, and another runner
goes on with the iterations: an idle one, or a new one that the hub starts, so that all begin at the
same depth of the C stack. Once what the function waits for is done, the runner in which that is
noticed becomes idle and switches back.

A greenlet of another library may have a runner or the hub as its parent, and switch to it long
after that has been left. So a runner or hub that is parked passes on what is no `Message` to the
runner that is active: this one is inside the call that has switched to the other greenlet.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import warnings
from collections.abc import Callable
from contextvars import Context
from typing import Any, NoReturn, TypeAlias

from greenlet import GreenletExit, getcurrent, greenlet

from .._core import Stack, StacksCore
from .errors import SyncAwaitError
from .tasks import set_must_cancel, swap_current_task

Greenlet: TypeAlias = greenlet

_context = greenlet.__dict__["gr_context"]
get_context: Callable[[Greenlet], Context | None] = _context.__get__
"""The context of a greenlet; of the running one it is the current context."""

MIN_IDLE = 16
"""So many idle runners are kept, and as many as there are stacks that wait."""
TRIM_DELAY = 0.1
"""After so many seconds the others end."""


class Message:
    """What a parked runner or hub expects."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Throw(Message):
    """Raise `error` where the stack waits."""

    __slots__ = ()


class _Ended(Message):
    """The run of the loop ends, by `error` if there is one."""

    __slots__ = ()


_GO = Message()
_START = Message()
_END = Message()


class _EndRunner(SystemExit):
    """Ends the iteration that an idle runner has under way. The loop passes on a `SystemExit`."""


class Runner(greenlet):
    """A greenlet that runs iterations of a loop."""

    def __init__(self, stacks: Stacks, parent: Greenlet) -> None:
        super().__init__(None, parent)
        self.stacks = stacks
        self.base = stacks.base_context
        _context.__set__(self, stacks.base_context)

    # A library that reads the context of "its" greenlet, as greenback does, wants the current one:
    # it may run in another runner than the one that it knows.
    @property
    def gr_context(self) -> Context | None:
        return get_context(getcurrent())

    @gr_context.setter
    def gr_context(self, context: Context | None) -> None:
        _context.__set__(getcurrent(), context)

    def run(self) -> Message | None:
        stacks = self.stacks
        while True:
            error: BaseException | None = None
            try:
                stacks.iterate()
            except _EndRunner:
                return None
            except BaseException as raised:
                error = raised
            if error is None or not stacks.waiting or not stacks.poll_interrupted(error):
                return _Ended(error)
            # Ctrl-C while the loop polls: the user most likely waits for what began to wait last.
            stack = next(reversed(stacks.waiting))
            stacks.idle.append(self)
            message = stacks.switch(stack.greenlet, _Throw(error))
            error = None
            if message is _END:
                return None


class Stacks(StacksCore):
    """The stacks of one loop."""

    def __new__(cls, loop: Any) -> Stacks:
        return super().__new__(cls, loop, _GO, swap_current_task, MIN_IDLE)

    def __init__(self, loop: Any) -> None:
        self.hub: Greenlet | None = None
        self.late_base: Greenlet | None = None
        """The greenlet of `run_forever()`, if that has begun before the stacks were made."""
        self.base_context: Context | None = None
        self.trimming: asyncio.TimerHandle | None = None
        self.closing = False
        self.nested = False
        self.thread = threading.get_ident()
        self.process = os.getpid()

    # What differs between loops.

    def iterate(self) -> None:
        """Run iterations until the loop is stopped."""
        self.loop._run_iterations()

    def poll_interrupted(self, error: BaseException) -> bool:
        """Whether a poll has raised the exception that ended `iterate()`."""
        return bool(self.loop._poll_interrupted())

    def end_iterations(self) -> None:
        """Have the iterations that are under way call nothing more."""
        self.loop._end_iterations()

    def iterate_within(self) -> None:
        """Run one iteration within a callback, by `loop._run_once()`."""
        current = getcurrent()
        self.within[current] = self.within.get(current, 0) + 1
        try:
            self.loop._iterate_within()
        finally:
            self.within[current] -= 1
            if self.within[current] == 0:
                del self.within[current]

    # The hub.

    def run(self) -> None:
        """Run the loop until it is stopped; called by `run_forever()`."""
        if os.getpid() != self.process or threading.get_ident() != self.thread:
            self._forget()
        self.end_idle()
        self.hub = hub = getcurrent()
        self.late_base = None
        self.base_context = get_context(hub)
        for stack in self.waiting:
            stack.greenlet.parent = hub
        try:
            ended = self._serve(_START)
        finally:
            self.end_idle()
            self.hub = None
            self.active = hub
        if ended.error is not None:
            try:
                raise ended.error
            finally:
                del ended

    def _serve(self, message: Message) -> Message:
        """The hub: start runners until one of them ends the run."""
        while message is _START:
            runner = Runner(self, getcurrent())
            message = self.switch(runner)
        return message

    def _received(self, value: Any, error: BaseException | None = None) -> Message:
        """What `switch()` does with something else than `_GO`."""
        if error is not None:
            if isinstance(error, GreenletExit):
                raise error
            return self.forward(None, error)
        return value if isinstance(value, Message) else self.forward(value)

    def forward(self, value: Any, failure: BaseException | None = None) -> Message:
        """Pass on what a greenlet of another library has sent; return the next message for us."""
        while True:
            target = self.active
            try:
                if failure is None:
                    value = target.switch(value)
                else:
                    value = target.throw(type(failure), failure, failure.__traceback__)
                    failure = None
            except GreenletExit:
                raise
            except BaseException as raised:
                failure = raised
            else:
                if isinstance(value, Message):
                    return value

    # Waiting.

    def _refuse(self) -> NoReturn:
        """What `wait()` does if the stack must not wait."""
        raise SyncAwaitError("the loop's own code has called this: nothing that can wait")

    def _end_wait(self, message: Message) -> NoReturn:
        """What `wait()` does with another message than that the stack is to go on."""
        try:
            if type(message) is _Ended:
                # `run_forever()` is on this stack and cannot return otherwise.
                self._late_end()
                raise message.error or asyncio.CancelledError("the loop was stopped")
            assert message.error is not None
            raise message.error
        finally:
            del message

    def _wake_elsewhere(self, stack: Stack, current: Greenlet) -> None:
        """What a call of `stack` does that cannot make the current greenlet idle."""
        loop = self.loop
        if current is not self.active:
            # Somebody runs the loop in a greenlet of his own.
            loop.call_soon(stack, context=Context())
            return
        # Its callback runs an iteration: it goes on in its turn.
        caller = Stack(self, current, asyncio.current_task(loop), None)
        loop.call_soon(caller, context=Context())
        self.wait(caller, stack.greenlet)

    def _begin_runner(self, current: Greenlet) -> Message:
        if self.hub is None:
            # The loop has begun to run before the stacks were made.
            self.late_base = current
            self.base_context = get_context(current)
            self.hub = greenlet(self._serve, current)
            _context.__set__(self.hub, self.base_context)
        message: Message = self.switch(self.hub, _START)
        return message

    # What `drive()` does in rare cases.

    def _bad_yield(self, task: Any, yielded: Any) -> RuntimeError:
        """The error for what is neither a future that was awaited nor `None`."""
        blocking = getattr(yielded, "_asyncio_future_blocking", None)
        if blocking is None:
            if inspect.isgenerator(yielded):
                return RuntimeError(
                    "yield was used instead of yield from for generator in task "
                    f"{task!r} with {yielded!r}"
                )
            return RuntimeError(f"Task got bad yield: {yielded!r}")
        if yielded.get_loop() is not self.loop:
            return RuntimeError(
                f"Task {task!r} got Future {yielded!r} attached to a different loop"
            )
        if not blocking:
            return RuntimeError(
                f"yield was used instead of yield from in task {task!r} with {yielded!r}"
            )
        return RuntimeError(f"Task cannot await on itself: {task!r}")

    def _cancel_future(self, task: Any, future: Any) -> None:
        """The task was cancelled before it began to wait."""
        if future.cancel(msg=task._cancel_message):
            set_must_cancel(task, False)

    def _cancelled(self, task: Any, error: BaseException | None) -> BaseException | None:
        """The task was cancelled when the future was done. Returns the exception to throw."""
        set_must_cancel(task, False)
        if isinstance(error, asyncio.CancelledError):
            return error
        cancelled: BaseException = task._make_cancelled_error()
        return cancelled

    # Ends.

    def _end_iteration(self, message: Message) -> None:
        """What an idle runner does with another message than that it is needed."""
        if message is _END:
            raise _EndRunner
        self._late_end()
        if message.error is not None:
            raise message.error

    def end_idle(self, keep: int = 0) -> None:
        """End idle runners. They belong to a thread, and no collector sees what they refer to."""
        current = getcurrent()
        while len(self.idle) > keep:
            # The last ones are used again first.
            runner = self.idle.pop(0)
            if runner is not self.late_base:
                runner.parent = current
                runner.switch(_END)

    def _trim_later(self) -> None:
        """End the idle runners that are too many, unless they are needed soon."""
        if self.trimming is None and len(self.idle) > len(self.waiting):
            self.trimming = self.loop.call_later(TRIM_DELAY, self._trim, context=Context())

    def _trim(self) -> None:
        self.trimming = None
        base_is_idle = self.late_base in self.idle
        self.end_idle(max(MIN_IDLE, len(self.waiting)))
        if base_is_idle and self.late_base is not None:
            self.idle.append(self.late_base)

    def _late_end(self) -> None:
        """The hub that was made late has ended."""
        self.hub = None
        self.active = getcurrent()
        self.end_idle()

    def _forget(self) -> None:
        """Keep the greenlets of another thread, or of the parent process: they cannot end."""
        if self.waiting and os.getpid() == self.process:
            warnings.warn(
                f"functions that wait on {self.loop!r} are left: they wait in another thread",
                ResourceWarning,
                stacklevel=4,
            )
        _lost.append((list(self.idle), dict(self.waiting), self.hub))
        self.idle.clear()
        self.waiting.clear()
        self.hub = None
        self.thread, self.process = threading.get_ident(), os.getpid()

    def close(self) -> None:
        """Raise `CancelledError` in what waits; the loop is about to be closed."""
        if not self.waiting and not self.idle:
            return
        if os.getpid() != self.process:
            self._forget()
            return
        if threading.get_ident() != self.thread:
            self._forget()
            return
        running = asyncio._get_running_loop()
        self.closing = True
        self.end_iterations()
        asyncio._set_running_loop(self.loop)
        try:
            current = getcurrent()
            while self.waiting:
                stack = next(iter(self.waiting))
                stack.greenlet.parent = current
                self.switch(stack.greenlet, _Throw(asyncio.CancelledError("the loop is closed")))
            self.end_idle()
        finally:
            asyncio._set_running_loop(running)
            self.hub = None


_lost: list[Any] = []
