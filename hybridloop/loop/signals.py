"""Signals: waking the loop, and the wakeup descriptor."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

from .sockets import SocketMixin

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket


class SignalMixin(SocketMixin):
    """The part of the loop that handles signals.

    asyncio sets `signal.set_wakeup_fd()` only while `add_signal_handler()` is in use. Otherwise a
    signal that arrives just before the loop blocks, such as Ctrl-C, is handled only after something
    else wakes the loop. This loop sets the wakeup descriptor while it runs in the main thread,
    unless the program has set its own.
    """

    _signal_handlers: dict[int, asyncio.Handle]
    _ssock: socket.socket | None
    _signal_writer: socket.socket | None

    # The self-pipe is only for signals: other threads wake the core natively. It is made on first
    # use of its writing end, which is the first run in the main thread.

    def _make_self_pipe(self) -> None:
        self._ssock = self._signal_writer = None

    def _close_self_pipe(self) -> None:
        if self._ssock is not None:
            # Signal handlers are removed later. No signal may be written to a closed descriptor.
            if self._signal_writer is not None:
                self._swap_wakeup_fd(self._signal_writer.fileno(), -1)
            _self_pipes.difference_update((self._ssock, self._signal_writer))
            super()._close_self_pipe()

    @property
    def _csock(self) -> socket.socket | None:
        if self._signal_writer is None and not self._closed:
            super()._make_self_pipe()
        return self._signal_writer

    @_csock.setter
    def _csock(self, sock: socket.socket | None) -> None:
        self._signal_writer = sock
        if sock is not None:
            _self_pipes.update((self._ssock, sock))

    def run_forever(self) -> None:
        """Run until stop() is called."""
        before = self._lock_run("This event loop is already running")
        try:
            # Some releases of Python check this too late, and end the outer run.
            self._check_closed()
            self._check_running()
            in_main_thread = _in_main_thread()
            try:
                if in_main_thread:
                    self._install_wakeup_fd()
                asyncio.BaseEventLoop.run_forever(self)
            finally:
                if in_main_thread:
                    self._restore_wakeup_fd()
        finally:
            self._unlock_run(before)

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a handler of add_signal_handler(); return False if there was none."""
        removed = super().remove_signal_handler(sig)
        if removed and not self._signal_handlers and self.is_running():
            self._install_wakeup_fd()
        return removed

    def _install_wakeup_fd(self) -> None:
        try:
            writer = self._csock
        except OSError:
            # Out of descriptors. As in asyncio, a signal may then be handled late.
            return
        if writer is not None:
            self._swap_wakeup_fd(-1, writer.fileno())

    def _restore_wakeup_fd(self) -> None:
        if self._signal_writer is not None and not self._signal_handlers:
            self._swap_wakeup_fd(self._signal_writer.fileno(), -1)

    @staticmethod
    def _swap_wakeup_fd(old: int, new: int) -> None:
        """Set the wakeup descriptor to `new` if it is `old`."""
        try:
            found = signal.set_wakeup_fd(new, warn_on_full_buffer=False)
            if found not in (old, new):
                signal.set_wakeup_fd(found, warn_on_full_buffer=False)
        except (ValueError, OSError):
            # The main thread of another interpreter, or the previous descriptor is closed.
            pass


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


# The sockets of loops that are not closed. The collector would finalize those of a loop that was
# dropped before the loop itself, which closes them and reads their numbers.
_self_pipes: set[socket.socket | None] = set()


def _reset_wakeup_fd_after_fork() -> None:
    """Keep signals of a forked child from waking the loop of its parent."""
    try:
        fd = signal.set_wakeup_fd(-1)
    except ValueError:
        # Not the main thread: nothing was set.
        return
    if fd != -1 and all(fd != sock.fileno() for sock in _self_pipes if sock):
        signal.set_wakeup_fd(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_wakeup_fd_after_fork)
