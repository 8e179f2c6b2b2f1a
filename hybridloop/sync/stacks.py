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
import os
import threading
import warnings
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeAlias

from greenlet import GreenletExit, getcurrent, greenlet

from .errors import SyncAwaitError
from .tasks import swap_current_task

Greenlet: TypeAlias = greenlet

_context = greenlet.__dict__["gr_context"]
get_context: Callable[[Greenlet], Context | None] = _context.__get__
"""The context of a greenlet; of the running one it is the current context."""

Leave: TypeAlias = Callable[[Any, Greenlet, Context | None], list[Any] | None]

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


class Stack:
    """A stack that waits."""

    __slots__ = ("future", "greenlet", "since", "stacks", "task")

    def __init__(self, stacks: Stacks, greenlet: Greenlet, task: Any, future: Any) -> None:
        self.stacks = stacks
        self.greenlet = greenlet
        self.task = task
        self.future = future
        self.since = 0.0

    def wake(self, _future: Any = None) -> None:
        """Go on; the callback of what the stack waits for. The current runner becomes idle."""
        stacks = self.stacks
        if self not in stacks.waiting:
            return
        current = getcurrent()
        if (type(current) is not Runner or current.stacks is not stacks) and (
            current is not stacks.late_base
        ):
            # Somebody runs the loop in a greenlet of his own.
            stacks.loop.call_soon(self.wake, context=Context())
            return
        if current in stacks.within:
            # Its callback runs an iteration: it is not idle, and goes on in its turn.
            task = asyncio.current_task(stacks.loop)
            caller = Stack(stacks, current, task, None)
            stacks.loop.call_soon(caller.wake, context=Context())
            stacks.wait(caller, self.greenlet)
            return
        idle = stacks.idle
        idle.append(current)
        if len(idle) > MIN_IDLE:
            stacks.trim_later()
        # Only debug mode measures iterations that are under way.
        clock = stacks.stop_clock() if stacks.loop._debug else None
        message = stacks.switch(self.greenlet, _GO)
        if clock is not None:
            stacks.restart_clock(clock)
        if message is not _GO:
            stacks.end_iteration(message)


class Stacks:
    """The stacks of one loop."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.hub: Greenlet | None = None
        self.late_base: Greenlet | None = None
        """The greenlet of `run_forever()`, if that has begun before the stacks were made."""
        self.active: Greenlet = getcurrent()
        self.base_context: Context | None = None
        self.idle: list[Greenlet] = []
        self.trimming: asyncio.TimerHandle | None = None
        self.waiting: dict[Stack, None] = {}
        self.within: dict[Greenlet, int] = {}
        """The greenlets in which a callback runs an iteration, and how many each."""
        self.closing = False
        self.nested = False
        self.thread = threading.get_ident()
        self.process = os.getpid()
        self.leave, self.return_to = self.find_leaving()

    # What differs between loops.

    def find_leaving(self) -> tuple[Leave, Callable[[list[Any]], object]]:
        """Two functions.

        `leave(get_context, greenlet, base)` is called when a stack begins to wait. It leaves the
        contexts that the greenlet has entered since `base`, and returns what `return_to()` takes
        when the stack goes on, or `None` if it must not wait.
        """
        return self.loop._leave_stack, self.loop._return_to_stack

    def iterate(self) -> None:
        """Run iterations until the loop is stopped."""
        self.loop._run_iterations()

    def poll_interrupted(self, error: BaseException) -> bool:
        """Whether a poll has raised the exception that ended `iterate()`."""
        return bool(self.loop._poll_interrupted())

    def end_iterations(self) -> None:
        """Have the iterations that are under way call nothing more."""
        self.loop._end_iterations()

    def stop_clock(self) -> Any:
        """The running stack is left: it does no work. Returns what `restart_clock()` takes."""
        return self.loop._stop_clock()

    def restart_clock(self, left: Any) -> None:
        """The stack is the running one again."""
        self.loop._restart_clock(left)

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
            message = self.switch(runner, None)
        return message

    def switch(self, target: Greenlet, message: Message | None) -> Message:
        """Switch to `target`, which is active from now on; return the next message for this one."""
        self.active = target
        try:
            value = target.switch() if message is None else target.switch(message)
        except GreenletExit:
            raise
        except BaseException as raised:
            return self.forward(None, raised)
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

    def wait(self, stack: Stack, target: Greenlet | None = None) -> None:
        """Wait until somebody calls `stack.wake()`. Runs on the stack, and switches to `target`."""
        current = stack.greenlet
        task = stack.task
        base = current.base if type(current) is Runner else None
        left = self.leave(get_context, current, base)
        if left is None:
            raise SyncAwaitError("the loop's own code has called this: nothing that can wait")
        if task is not None:
            swap_current_task(self.loop, None)
        stack.since = self.loop.time()
        self.waiting[stack] = None
        try:
            if target is None and self.idle:
                target = self.idle.pop()
            if target is not None:
                message = self.switch(target, _GO)
            else:
                message = self._begin_runner(current)
        finally:
            self.waiting.pop(stack, None)
            if task is not None:
                swap_current_task(self.loop, task)
            self.return_to(left)
        if message is _GO:
            return
        try:
            if type(message) is _Ended:
                # `run_forever()` is on this stack and cannot return otherwise.
                self._late_end()
                raise message.error or asyncio.CancelledError("the loop was stopped")
            assert message.error is not None
            raise message.error
        finally:
            del message

    def _begin_runner(self, current: Greenlet) -> Message:
        if self.hub is None:
            # The loop has begun to run before the stacks were made.
            self.late_base = current
            self.base_context = get_context(current)
            self.hub = greenlet(self._serve, current)
            _context.__set__(self.hub, self.base_context)
        return self.switch(self.hub, _START)

    # Ends.

    def end_iteration(self, message: Message) -> None:
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

    def trim_later(self) -> None:
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
        _lost.append((self.idle, self.waiting, self.hub))
        self.idle, self.waiting, self.hub = [], {}, None
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
