"""`prepare()`: stacks for asyncio's own selector loop."""

from __future__ import annotations

import asyncio
import collections
import selectors
import weakref
from typing import Any

from .._core import LoopCore
from .errors import SyncAwaitError, check_python
from .stacks import Stacks

_selector_file = selectors.__file__


class _ReadyQueue(collections.deque[asyncio.Handle]):
    """`loop._ready`: an iteration that goes on late finds cancelled handles in place of none."""

    def __init__(self, handles: Any, loop: Any) -> None:
        super().__init__(handles)
        self.ended = False
        self._nothing = asyncio.Handle(_do_nothing, (), loop)
        self._nothing.cancel()

    def popleft(self) -> asyncio.Handle:
        if self.ended or not self:
            return self._nothing
        return super().popleft()


def _do_nothing() -> None:
    """The callback of a handle that is never run."""


class PreparedStacks(Stacks):
    """The stacks of a selector loop of asyncio."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._iterate_once = loop._run_once
        self._close_loop = loop.close
        self._ready = _ReadyQueue(loop._ready, loop)

    def install(self) -> None:
        """Have the loop use these stacks."""
        loop = self.loop
        loop._ready = self._ready
        loop._run_once = self._run_once
        loop.close = self._close
        loop._hybridloop_stacks = self
        prepared.add(loop)

    def _run_once(self) -> None:
        """Called by `run_forever()`, again and again until the loop is stopped."""
        if self.hub is None:
            self.run()
        else:
            self._iterate_once()

    def _close(self) -> None:
        if not self.loop.is_running() and not self.loop.is_closed():
            self.close()
        self._close_loop()

    def iterate(self) -> None:
        while True:
            self._iterate_once()
            if self.loop._stopping:
                return

    def poll_interrupted(self, error: BaseException) -> bool:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        return traceback is not None and traceback.tb_frame.f_code.co_filename == _selector_file

    def end_iterations(self) -> None:
        self.loop._stopping = True
        self._ready.ended = True


prepared: weakref.WeakSet[Any] = weakref.WeakSet()


def prepare(loop: asyncio.AbstractEventLoop) -> None:
    """Let ordinary functions wait on this loop: one of hybridloop, or a selector loop of asyncio.

    A loop of hybridloop needs no preparation. Other loops, as uvloop's, cannot be prepared.
    """
    if isinstance(loop, LoopCore) or loop in prepared:
        return
    check_python()
    any_loop: Any = loop
    if hasattr(any_loop, "_nest_patched"):
        raise SyncAwaitError(f"cannot prepare {loop!r}: nest_asyncio has replaced its methods")
    if not isinstance(loop, asyncio.SelectorEventLoop):
        raise SyncAwaitError(
            f"cannot prepare a {type(loop).__module__}.{type(loop).__qualname__}: "
            "it is not a selector event loop of asyncio"
        )
    PreparedStacks(loop).install()
