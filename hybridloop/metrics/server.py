"""`serve()`: a thread that sends a snapshot to each client of a Unix socket."""

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

# Seconds that a client has to read the snapshot.
_TIMEOUT = 5.0


class Server:
    """A server of snapshots, returned by `serve()`. It is a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """The path of the socket."""
        self._closed = False
        with contextlib.ExitStack() as undo:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._wake_writer, self._wake_reader = socket.socketpair()
            undo.callback(self._close_sockets)
            self._listener.bind(str(path))
            self._status = path.stat()
            undo.callback(self._unlink)
            path.chmod(0o600)
            self._listener.listen(8)
            self._listener.setblocking(False)
            # A separate thread responds even if all loops are blocked. A daemon thread does not
            # delay the exit of the process.
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
        """Whether the server was closed."""
        return self._closed

    def close(self) -> None:
        """Stop serving, and remove the socket."""
        if self._closed:
            return
        self._closed = True
        _servers.discard(self)
        atexit.unregister(self.close)
        self._unlink()
        # OSError: the thread has seen `_closed`, and has ended.
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"\0")
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
        poll.register(self._wake_reader, select.POLLIN)
        while not self._closed:
            poll.poll()
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                # The client has disconnected, or the server was closed.
                continue
            except OSError:
                # Out of descriptors.
                time.sleep(0.1)
                continue
            with connection:
                self._send_snapshot(connection)
        self._close_sockets()

    def _send_snapshot(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(_TIMEOUT)
            connection.sendall(json.dumps(snapshot().as_dict()).encode())
        except OSError:
            # The client has disconnected, or is too slow.
            return
        except Exception:
            _logger.exception("cannot send the statistics of the process")

    def _close_sockets(self) -> None:
        self._closed = True
        for sock in (self._listener, self._wake_writer, self._wake_reader):
            sock.close()

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):
            status = self.path.stat()
            # Keep a file that has replaced the socket.
            if (status.st_dev, status.st_ino) == (self._status.st_dev, self._status.st_ino):
                self.path.unlink()


_servers: set[Server] = set()
# The server at the default path, where `top PID` looks.
_server: Server | None = None
_failed = False
_lock = threading.Lock()


def serve(path: str | os.PathLike[str] | None = None) -> Server:
    """Serve the statistics of this process to `python -m hybridloop top`.

    The socket is at the default path, for `top PID`, or at `path`, for `top PATH`. Only the same
    user can open it. If there is a server at the default path already, it is returned. A child of a
    fork has to call this function again.

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
    """`serve()` for `HYBRIDLOOP_OBSERVE=1`: a failure is a warning in the log."""
    global _failed
    if _failed or _server is not None:
        return
    try:
        serve()
    except (OSError, RuntimeError) as error:
        _failed = True
        _logger.warning("HYBRIDLOOP_OBSERVE is set, but the statistics cannot be served: %s", error)


def _reset_servers_after_fork() -> None:
    global _server, _failed, _lock
    _lock = threading.Lock()
    for server in list(_servers):
        atexit.unregister(server.close)
        server._close_sockets()
    _servers.clear()
    _server, _failed = None, False


os.register_at_fork(after_in_child=_reset_servers_after_fork)
