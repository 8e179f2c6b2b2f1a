"""`serve()`: a thread that answers each connection to a Unix socket with a snapshot."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import socket_path
from .snapshot import snapshot

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Server", "serve", "serve_or_warn"]

_logger = logging.getLogger(__name__)

# Seconds that a reader has to take an answer.
_TIMEOUT = 5.0


class Server:
    """What `serve()` returns. `close()`, or leaving it as a context manager, ends it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """The socket."""
        self._closed = False
        with contextlib.ExitStack() as undo:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._wake, self._woken = socket.socketpair()
            undo.callback(self._close_sockets)
            self._listener.bind(str(path))
            self._status = path.stat()
            undo.callback(self._unlink)
            path.chmod(0o600)
            self._listener.listen(8)
            self._listener.setblocking(False)
            # A thread of its own answers also when every loop is stuck; it never holds up the end
            # of the process.
            self._thread = threading.Thread(
                target=self._main, name="hybridloop-observe", daemon=True
            )
            self._thread.start()
            undo.pop_all()
        _servers.add(self)
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"<Server {str(self.path)!r}{' closed' if self._closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether it serves no more."""
        return self._closed

    def close(self) -> None:
        """Serve no more, and remove the socket."""
        if self._closed:
            return
        self._closed = True
        _servers.discard(self)
        atexit.unregister(self.close)
        self._unlink()
        self._wake.send(b"\0")
        self._thread.join(_TIMEOUT)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _main(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while not self._closed:
            poll.poll()
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                # Whoever came has left again, or it is the end.
                continue
            except OSError:
                # Out of descriptors.
                time.sleep(0.1)
                continue
            with connection:
                self._answer(connection)
        self._close_sockets()

    def _answer(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(_TIMEOUT)
            connection.sendall(json.dumps(snapshot().as_dict()).encode())
        except OSError:
            # It does not want it any more.
            return
        except Exception:
            _logger.exception("the statistics of the process could not be told")

    def _close_sockets(self) -> None:
        self._closed = True
        for sock in (self._listener, self._wake, self._woken):
            sock.close()

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):
            status = self.path.stat()
            # Somebody may have put another one there.
            if (status.st_dev, status.st_ino) == (self._status.st_dev, self._status.st_ino):
                self.path.unlink()


_servers: set[Server] = set()
# The one at the place where `top PID` looks.
_server: Server | None = None
_failed = False
_lock = threading.Lock()


def serve(path: str | os.PathLike[str] | None = None) -> Server:
    """Tell `python -m hybridloop top` the statistics of this process, from now on.

    The socket is where `top PID` looks for it, or at `path`, for `top PATH`. Only the same user
    can open it. If the process serves there already, this gives the server there is. A child
    of a fork has to call this again.

    Raises `OSError` if the socket cannot be made.
    """
    global _server
    if path is not None:
        return Server(Path(path))
    with _lock:
        if _server is None or _server.closed:
            folder = socket_path.own_directory()
            socket_path.remove_stale(folder)
            _server = Server(folder / f"{os.getpid()}.sock")
        return _server


def serve_or_warn() -> None:
    """`serve()` for a process that did not ask for it itself: it goes on if that fails."""
    global _failed
    if _failed or _server is not None:
        return
    try:
        serve()
    except (OSError, RuntimeError) as error:
        _failed = True
        _logger.warning("HYBRIDLOOP_OBSERVE is set, but nothing is served: %s", error)


def _reset_servers_after_fork() -> None:
    global _server, _failed, _lock
    _lock = threading.Lock()
    for server in list(_servers):
        atexit.unregister(server.close)
        server._close_sockets()
    _servers.clear()
    _server, _failed = None, False


os.register_at_fork(after_in_child=_reset_servers_after_fork)
