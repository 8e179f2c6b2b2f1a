"""Runs the stdlib modules in worker processes, so that a hang or a crash is one test's outcome."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from . import loops

OUTCOMES = ("pass", "fail", "error", "hang", "crash", "skip")
PASSING = ("pass", "skip")
DEFAULT_TIMEOUT = 180.0
DEFAULT_JOBS = 2
TAIL_LINES = 40
POLL_SECONDS = 0.25
EXIT_SECONDS = 60.0


@dataclass
class Result:
    """What one test came to."""

    id: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0
    loops: int = 0
    stock: int = 0

    @property
    def module(self) -> str:
        return self.id.partition(".")[0]


@dataclass
class ModuleRun:
    """The outcomes of one stdlib module's tests."""

    module: str
    results: dict[str, Result] = field(default_factory=dict)
    skipped: str = ""
    seconds: float = 0.0

    def add(self, result: Result) -> None:
        self.results[result.id] = result

    def as_json(self) -> dict[str, object]:
        return {
            "module": self.module,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 2),
            "results": [asdict(result) for result in self.results.values()],
        }


class Worker:
    """One worker process and the events it sends."""

    def __init__(self, config: dict[str, object], directory: Path) -> None:
        self.log = directory / "log"
        environment = {**os.environ, "TMPDIR": str(directory)}
        read_fd, write_fd = os.pipe()
        # It runs in another folder.
        path = [os.path.abspath(entry) for entry in sys.path]
        code = f"import sys; sys.path[:] = {path!r}; from {__package__}.worker import main; main()"
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", code],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[write_fd],
                    cwd=directory,
                    env=environment,
                    start_new_session=True,
                )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(
                json.dumps({**config, "fd": write_fd, "parent": os.getpid()}).encode() + b"\n"
            )
        self._events: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=[read_fd], daemon=True)
        self._reader.start()

    def _read(self, fd: int) -> None:
        with open(fd, "rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._events.put(json.loads(line))
        self._events.put(None)

    def next_event(self, timeout: float) -> dict | None:
        """The next event, or None once the process is gone; TimeoutError after ``timeout``."""
        deadline = time.monotonic() + timeout
        gone = False
        while True:
            try:
                return self._events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                # A child of the test may keep the pipe open after the worker itself has died.
                if gone:
                    return None
                gone = self._process.poll() is not None
                if not gone and time.monotonic() > deadline:
                    raise TimeoutError from None

    def abort(self) -> None:
        """End a hung worker; its fault handler writes every thread's stack to the log."""
        self._process.send_signal(signal.SIGABRT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def finish(self) -> int:
        """Wait for the process, end what it leaves behind, and return its exit status."""
        try:
            status = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(EXIT_SECONDS)
        return status

    def tail(self, offset: int) -> str:
        text = self.log.read_bytes()[offset:].decode(errors="replace")
        # From Python 3.14 on, the C stack follows the Python one, and is longer.
        text, _, _ = text.partition("Current thread's C stack trace")
        return "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])


def describe_exit(status: int) -> str:
    if status >= 0:
        return f"the process ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"the process was ended by {name}"


class ModuleRunner:
    """Runs one module, in as many workers one after another as its crashes and hangs need."""

    def __init__(self, loop: str, module: str, only: Iterable[str] | None, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._only = None if only is None else list(only)
        self._run = ModuleRun(module)
        self._stopped = False
        self._worker: Worker | None = None

    def stop(self) -> None:
        """End the run from another thread."""
        self._stopped = True
        if self._worker is not None:
            self._worker.kill()

    def run(self) -> ModuleRun:
        started = time.monotonic()
        only = self._only
        while not self._stopped and (only is None or only):
            before = len(self._run.results)
            with tempfile.TemporaryDirectory(prefix="asyncio-", ignore_cleanup_errors=True) as path:
                plan = self._run_worker(only, Path(path))
            if plan is None:
                break
            only = [test_id for test_id in plan if test_id not in self._run.results]
            if only and len(self._run.results) == before:
                self._module_error("error", f"no progress; not run: {', '.join(only)}")
                break
        self._run.seconds = time.monotonic() - started
        return self._run

    def _module_error(self, outcome: str, detail: str) -> None:
        self._run.add(Result(f"{self._run.module}.<module>", outcome, detail))

    def _run_worker(self, only: list[str] | None, directory: Path) -> list[str] | None:
        """Run one worker; return the ids it planned, or None when the module cannot go on."""
        config = {"loop": self._loop, "module": self._run.module, "only": only}
        self._worker = worker = Worker(config, directory)
        if self._stopped:
            worker.kill()
        plan: list[str] | None = None
        current = last = None
        offset = 0
        ended = hung = False
        try:
            while (event := worker.next_event(self._timeout)) is not None:
                match event:
                    case {"event": "plan", "ids": plan}:
                        pass
                    case {"event": "start", "id": current, "log": offset}:
                        pass
                    case {"event": "stop"}:
                        del event["event"]
                        last, current = event["id"], None
                        self._run.add(Result(**event))
                    case {"event": "module", "outcome": "skip", "detail": self._run.skipped}:
                        ended = True
                    case {"event": "module", "outcome": outcome, "detail": detail}:
                        self._module_error(outcome, detail)
                        ended = True
                    case {"event": "end", "log": offset}:
                        ended = True
        except TimeoutError:
            hung = True
            worker.abort()
        status = worker.finish()
        if hung:
            why = f"no progress for {self._timeout:g} s"
            self._blame(current, last, "hang", why + "\n" + worker.tail(offset))
        elif not ended or status != 0:
            detail = describe_exit(status) + "\n" + worker.tail(offset)
            self._blame(current, f"{self._run.module}.<exit>" if ended else last, "crash", detail)
        return plan

    def _blame(self, current: str | None, last: str | None, outcome: str, detail: str) -> None:
        test_id = current or last
        if test_id is None:
            self._module_error(outcome, detail)
            return
        if current is None:
            detail = "after the test, before the next one began: " + detail
        known = self._run.results.get(test_id)
        if known is None:
            self._run.add(Result(test_id, outcome, detail))
        else:
            known.outcome, known.detail = outcome, detail


class Modules:
    """Runs modules, several at a time; leaving the context ends whatever still runs."""

    def __init__(
        self,
        loop: str,
        *,
        only: Iterable[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        jobs: int = DEFAULT_JOBS,
    ) -> None:
        self._loop = loops.spec_of(loop)
        self._only = None if only is None else list(only)
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(jobs)
        self._runners: list[ModuleRunner] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for runner in self._runners:
            runner.stop()
        self._pool.shutdown()

    def submit(self, module: str) -> Future[ModuleRun]:
        runner = ModuleRunner(self._loop, module, self._only, self._timeout)
        self._runners.append(runner)
        return self._pool.submit(runner.run)


def run_module(
    loop: str,
    module: str,
    *,
    only: Iterable[str] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> ModuleRun:
    """Run one module's tests, or those of them that ``only`` names by id or pattern."""
    with Modules(loop, only=only, timeout=timeout, jobs=1) as modules:
        return modules.submit(module).result()
