"""Child processes: asyncio's transports, that leave a child's status to the loop."""

from __future__ import annotations

import os
import subprocess
import types
import warnings
from asyncio import SelectorEventLoop, events, unix_events
from contextlib import nullcontext
from typing import Any

# Children are reaped by asyncio's child watcher. `Popen.poll()` reaps as well, and asyncio calls
# it: `close()` always, `kill()` and its kin before Python 3.13 and 3.12.9. If the child had just
# ended, the watcher came too late, and the child's status was lost: 255, with a warning.

_CAN_LOOK = hasattr(os, "waitid")


class Child(subprocess.Popen[bytes]):
    """A `Popen` that looks at a child's status and leaves it to whoever waits for the child."""

    def poll(self) -> int | None:
        """Like `Popen.poll()`, without reaping the child."""
        if self.returncode is None:
            try:
                ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                # Reaped already.
                return super().poll()
            if ended is not None:
                exited = ended.si_code == os.CLD_EXITED
                self.returncode = ended.si_status if exited else -ended.si_status
        return self.returncode


class SubprocessTransport(unix_events._UnixSubprocessTransport):  # type: ignore[name-defined,misc]
    """asyncio's transport of a child process."""

    def _start(self, *args: Any, **kwargs: Any) -> None:
        super()._start(*args, **kwargs)
        if type(self._proc) is subprocess.Popen and _CAN_LOOK:
            self._proc.__class__ = Child


# Python 3.12 and 3.13 get the child watcher with a warning, which they suppress: for the whole
# process, whatever other threads do meanwhile, and that takes long beside the rest. So our method
# finds something else where it looks for the two modules.


class _Watchers:
    @staticmethod
    def get_child_watcher() -> Any:
        policy = events.get_event_loop_policy()
        watcher = getattr(policy, "_watcher", None)
        found = getattr(policy.get_child_watcher, "__func__", None)
        if watcher is not None and found is _get_watcher:
            return watcher
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return events.get_child_watcher()


class _NoWarnings:
    catch_warnings = nullcontext

    @staticmethod
    def simplefilter(*args: Any) -> None:
        pass


_policy = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)
_get_watcher = getattr(_policy, "get_child_watcher", None)


def _with_our_transport(make: Any) -> Any:
    """asyncio's method, which finds our class where it looks for its own."""
    names = vars(unix_events) | {"_UnixSubprocessTransport": SubprocessTransport}
    if "simplefilter" in make.__code__.co_names:
        names |= {"events": _Watchers, "warnings": _NoWarnings}
    ours = types.FunctionType(
        make.__code__, names, make.__name__, make.__defaults__, make.__closure__
    )
    ours.__kwdefaults__ = make.__kwdefaults__
    return ours


make_transport = _with_our_transport(SelectorEventLoop._make_subprocess_transport)  # type: ignore[attr-defined]
