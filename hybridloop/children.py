"""Child processes: asyncio's transports, that leave a child's status to the loop."""

from __future__ import annotations

import os
import subprocess
import types
from asyncio import SelectorEventLoop, unix_events
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


def _with_our_transport(make: Any) -> Any:
    """asyncio's method, which finds our class where it looks for its own."""
    names = vars(unix_events) | {"_UnixSubprocessTransport": SubprocessTransport}
    ours = types.FunctionType(
        make.__code__, names, make.__name__, make.__defaults__, make.__closure__
    )
    ours.__kwdefaults__ = make.__kwdefaults__
    return ours


make_transport = _with_our_transport(SelectorEventLoop._make_subprocess_transport)  # type: ignore[attr-defined]
