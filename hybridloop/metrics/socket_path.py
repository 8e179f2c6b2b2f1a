"""The path of the Unix socket at which a process serves its statistics.

It is `hybridloop/PID.sock` in `$XDG_RUNTIME_DIR`, or `/tmp/hybridloop-UID/PID.sock` without such a
directory. A directory is used only if it belongs to the user and gives others no permissions.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["candidate_directories", "connect", "list_served", "own_directory", "remove_stale"]

_TIMEOUT = 5.0


def own_directory() -> Path:
    """The directory for this process, made if needed; `PermissionError` if it is not safe."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_private(Path(runtime), os.geteuid()):
        folder = Path(runtime, "hybridloop")
    else:
        folder = Path(f"/tmp/hybridloop-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(folder, os.geteuid()):
        raise PermissionError(f"{folder} is not a directory that only this user can open")
    return folder


def candidate_directories(user: int) -> list[Path]:
    """The directories in which processes of a user may serve."""
    paths = [Path(f"/run/user/{user}/hybridloop"), Path(f"/tmp/hybridloop-{user}")]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        paths.insert(0, Path(runtime, "hybridloop"))
    return [path for path in dict.fromkeys(paths) if _is_private(path, user)]


def list_served(user: int) -> list[tuple[int, Path]]:
    """The process IDs and sockets of the user's processes that serve statistics."""
    found = {}
    for folder in candidate_directories(user):
        for number, path in _list_sockets(folder):
            if number not in found and not is_stale(path):
                found[number] = path
    return sorted(found.items())


def remove_stale(folder: Path) -> None:
    """Remove the sockets of processes that were killed."""
    for _, path in _list_sockets(folder):
        if is_stale(path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def connect(path: Path) -> socket.socket:
    """Connect to a socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_TIMEOUT)
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


def _list_sockets(folder: Path) -> Iterator[tuple[int, Path]]:
    with contextlib.suppress(OSError):
        for path in folder.glob("*.sock"):
            if path.stem.isdecimal() and path.is_socket():
                yield int(path.stem), path


def is_stale(path: Path) -> bool:
    """Whether nothing listens. The process may be in another PID namespace, so it is not asked."""
    try:
        connect(path).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:
        return False
    return False


def _is_private(path: Path, user: int) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o077
