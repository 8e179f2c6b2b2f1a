"""A Redis and a PostgreSQL of the tests' own, in a directory that is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import ClassVar, Self

import pytest

from ..integration.conftest import Certificate

REQUIRED = "HYBRIDLOOP_REQUIRE_SERVERS"
START_SECONDS = 30.0
ATTEMPTS = 5


def find_program(name: str, package: str, directory: str = "") -> str:
    """The path of a server; without it the test is skipped, or fails where servers are required."""
    # Debian keeps PostgreSQL's programs out of the PATH, in a directory for each version.
    candidates = sorted(Path("/").glob(directory.lstrip("/"))) if directory else []
    path = shutil.which(name) or next(
        (str(found / name) for found in reversed(candidates) if (found / name).exists()), None
    )
    if path is not None:
        return path
    reason = f"{name} is not installed: apt install {package}"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason} ({REQUIRED}=1 asks for it)", pytrace=False)
    pytest.skip(reason)


def redis_program() -> str:
    return find_program("redis-server", "redis-server")


def postgresql_program() -> str:
    return find_program("postgres", "postgresql", "/usr/lib/postgresql/*/bin")


def free_port() -> int:
    """A port that was free just now; callers try another one if it is in use."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def unprivileged_user() -> str | None:
    """Whom a server runs as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("this system has no user but root")


# Ends the server when standard input does, so that it never outlives the tests, however they end.
GUARD = """
exec 3<&0 </dev/null
signal=$1; shift
(read -r _ <&3; kill -s "$signal" $$) >/dev/null 2>&1 &
exec "$@" 3<&-
"""


class Server:
    """A server process, ready when it has logged a certain line."""

    ready: ClassVar[str]
    stop_signal: ClassVar[str] = "TERM"

    def __init__(self, program: str, certificate: Certificate) -> None:
        self.program = program
        self.user = unprivileged_user()
        # A short path: those of Unix sockets may have no more than about 100 characters.
        self.directory = Path(tempfile.mkdtemp(prefix="hl-", dir="/tmp"))
        self.cert_file = self._own(certificate.cert_file)
        self.key_file = self._own(certificate.key_file)
        self.authority_file = self._own(certificate.authority_file)
        if self.user is not None:
            shutil.chown(self.directory, self.user)
        self.port = self.tls_port = 0
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []
        self._ready = threading.Event()
        self._reader: threading.Thread | None = None

    def _own(self, path: str) -> str:
        copy = self.directory / Path(path).name
        shutil.copyfile(path, copy)
        copy.chmod(0o600)
        if self.user is not None:
            shutil.chown(copy, self.user)
        return str(copy)

    def prepare(self) -> None:
        """What comes before the first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=self.directory, user=self.user, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def __enter__(self) -> Self:
        try:
            self.prepare()
            for _ in range(ATTEMPTS):
                if self._start():
                    return self
                self._end()
            raise AssertionError(f"{self.program} does not start:\n{''.join(self._lines)}")
        except BaseException:
            self.__exit__()
            raise

    def _start(self) -> bool:
        self.port, self.tls_port = free_port(), free_port()
        self._lines.clear()
        self._ready.clear()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", self.stop_signal, *self.command()],
            cwd=self.directory,
            user=self.user,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=[self._process], daemon=True)
        self._reader.start()
        self._ready.wait(START_SECONDS)
        return any(self.ready in line for line in self._lines)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.append(line)
            if self.ready in line:
                self._ready.set()
        # The process has ended, perhaps before it was ready.
        self._ready.set()

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        assert self._reader is not None
        assert process.stdin is not None and process.stdout is not None
        # Now the guard ends the server. Not being waited for yet, it still has its number.
        process.stdin.close()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._reader.join(10.0)
        process.stdout.close()
        self._process = None

    def __exit__(self, *_exc_info: object) -> None:
        self._end()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def log(self) -> str:
        return "".join(self._lines)


class Redis(Server):
    """Listens on TCP, on TCP with TLS, and on a Unix socket."""

    ready = "Ready to accept connections"

    @property
    def socket_path(self) -> str:
        return str(self.directory / "redis.sock")

    def command(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": self.socket_path,
            "unixsocketperm": "777",
            "tls-port": str(self.tls_port),
            "tls-cert-file": self.cert_file,
            "tls-key-file": self.key_file,
            "tls-ca-cert-file": self.authority_file,
            "tls-auth-clients": "no",
            "save": "",
            "appendonly": "no",
            "dir": str(self.directory),
        }
        return [self.program, *(part for name in options for part in (f"--{name}", options[name]))]


class PostgreSQL(Server):
    """Listens on TCP, where clients may ask for TLS, and on a Unix socket."""

    ready = "database system is ready to accept connections"
    stop_signal = "INT"  # Ends sessions; TERM would wait for them.

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def prepare(self) -> None:
        initdb = str(Path(self.program).with_name("initdb"))
        self.run(
            initdb, "-D", str(self.data), "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync"
        )

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "ssl": "on",
            "ssl_cert_file": self.cert_file,
            "ssl_key_file": self.key_file,
            "fsync": "off",
            "max_connections": "50",
            "shared_buffers": "16MB",
            "lc_messages": "C",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self.program, "-D", str(self.data), *options]
