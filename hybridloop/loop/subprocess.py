"""Child processes: asyncio's transports and child watchers, and a `Popen` that does not reap."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import warnings
from asyncio import events, unix_events
from contextlib import nullcontext

from .sockets import SocketMixin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# asyncio's child watcher reaps children. Popen.poll() reaps as well, and asyncio calls it: close()
# always, kill(), terminate() and send_signal() before Python 3.13 and 3.12.9. A child that had just
# ended was then reaped by poll(), and the watcher reported the status 255, with a warning.

_StandardPopen = subprocess.Popen
_HAS_WAITID = hasattr(os, "waitid")


class Popen(subprocess.Popen[bytes]):
    """A `subprocess.Popen` whose `poll()` leaves the child to be reaped by the child watcher."""

    def poll(self) -> int | None:
        """Like `subprocess.Popen.poll()`, without reaping the child."""
        if self.returncode is None:
            try:
                ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                # The child was reaped already.
                return super().poll()
            if ended is not None:
                exited = ended.si_code == os.CLD_EXITED
                self.returncode = ended.si_status if exited else -ended.si_status
        return self.returncode


class SubprocessTransport(unix_events._UnixSubprocessTransport):  # type: ignore[name-defined,misc]
    """asyncio's transport of a child process, with our `Popen`."""

    def _start(
        self,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        **kwargs: Any,
    ) -> None:
        if subprocess.Popen is not _StandardPopen or not _HAS_WAITID:
            # A program or a library, such as gevent, has its own Popen.
            super()._start(args, shell, stdin, stdout, stderr, bufsize, **kwargs)
            return
        self._proc = Popen(
            args,
            shell=shell,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=False,
            bufsize=bufsize,
            **kwargs,
        )


if sys.version_info >= (3, 14):

    def _get_child_watcher(loop: Any) -> Any:
        return loop._watcher

else:
    _get_watcher_of_policy = unix_events._UnixDefaultEventLoopPolicy.get_child_watcher

    def _get_child_watcher(loop: Any) -> Any:
        """`asyncio.get_child_watcher()` without the warning that it has since Python 3.12.

        asyncio suppresses that warning for each child: it changes the filters of the whole process,
        and takes as long as everything else that it does here.
        """
        policy = events.get_event_loop_policy()
        watcher = getattr(policy, "_watcher", None)
        getter = getattr(policy.get_child_watcher, "__func__", None)
        if watcher is not None and getter is _get_watcher_of_policy:
            return watcher
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return events.get_child_watcher()


class SubprocessMixin(SocketMixin):
    """The part of the loop that starts child processes."""

    if TYPE_CHECKING:

        def _child_watcher_callback(
            self, pid: int, returncode: int, transp: SubprocessTransport
        ) -> None: ...

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.BaseProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SubprocessTransport:
        watcher = _get_child_watcher(self)
        # A watcher of Python 3.13 or earlier has to be entered before a child is started.
        context: Any = watcher if sys.version_info < (3, 14) else nullcontext()
        with context as entered:
            if sys.version_info < (3, 12):
                # Up to Python 3.11 asyncio uses what entering it returns.
                watcher = entered
            if sys.version_info < (3, 14) and not watcher.is_active():
                raise RuntimeError(
                    "asyncio.get_child_watcher() is not activated, "
                    "subprocess support is not installed."
                )
            waiter: asyncio.Future[None] = self.create_future()
            transport = SubprocessTransport(
                self,
                protocol,
                args,
                shell,
                stdin,
                stdout,
                stderr,
                bufsize,
                waiter=waiter,
                extra=extra,
                **kwargs,
            )
            watcher.add_child_handler(transport.get_pid(), self._child_watcher_callback, transport)
            try:
                await waiter
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                transport.close()
                await asyncio.shield(transport._wait())
                raise
        return transport

    def _close_pidfds(self) -> None:
        """Close the descriptors of children that have not ended.

        asyncio's child watcher closes the descriptor of a child only when the child ends.
        """
        for handle in gc.get_referents(self):
            if not isinstance(handle, asyncio.Handle):
                continue
            watcher = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
            if type(watcher).__name__ in ("PidfdChildWatcher", "_PidfdChildWatcher"):
                _pid, pidfd, *_ = handle._args
                self._remove_reader(pidfd)
                os.close(pidfd)
