"""`python -m hybridloop top`: of real processes, and in a terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from hybridloop.metrics import ProcessStats, view

from .conftest import Start, Top
from .test_prometheus import example

# The terminal's other screen.
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


def test_once(start: Start, top: Top) -> None:
    process = start()
    done = top(str(process.pid), "--once")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{process.pid} ")
    assert lines[1].split()[:4] == ["LOOP", "THREAD", "TASKS", "READY"]
    main, first, second = (line.split() for line in lines[2:5])
    # The main task and the echo's.
    assert main[:3] == ["1", "MainThread", "2"]
    assert (first[1], second[1]) == ("hybridloop-gil-0", "hybridloop-gil-1")
    assert (first[2], second[2]) == ("3", "3")
    assert main[5] == "2", "connections"
    assert "running 6 of 6  waiting 2 of 100,000  spawned 8" in done.stdout
    assert re.search(r"hybridloop-gil-1 +3 of 3 +0 +100%", done.stdout)
    assert re.search(r"^native  workers 0 of \d+ busy +0%  queue 0  done 1  ", done.stdout, re.M)
    assert re.search(r"^bus  0 of 256M +0%  keys 0 ", done.stdout, re.M)


def test_json(start: Start, top: Top) -> None:
    process = start()
    done = top(str(process.pid), "--once", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    stats = ProcessStats.from_dict(json.loads(line))
    assert stats.pid == process.pid
    assert stats.loops[0].stats.bytes_in > 0
    assert stats.engines[0].stats.pending == 2


def test_json_goes_on_until_the_process_ends(start: Start, runtime: Path) -> None:
    process = start()
    command = [sys.executable, "-m", "hybridloop", "top", "--json", "--interval", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout is not None
        iterations: list[int] = []
        while len(set(iterations)) < 3:
            (loop, *_) = json.loads(top.stdout.readline())["loops"]
            iterations.append(loop["stats"]["iterations"])
        assert iterations == sorted(iterations)
        process.kill()
        process.wait()
        assert top.wait(60) == 0


def test_a_reader_that_has_seen_enough(start: Start) -> None:
    start()
    command = [sys.executable, "-m", "hybridloop", "top", "--json", "--interval", "0.05"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as top:
        assert top.stdout is not None and top.stderr is not None
        top.stdout.readline()
        top.stdout.close()
        assert top.wait(60) == 0
        assert top.stderr.read() == ""


def test_without_a_target(start: Start, top: Top) -> None:
    done = top("--once")
    assert done.returncode == 1
    assert "no process of this user serves its statistics" in done.stderr
    first = start()
    assert f"{first.pid} " in top("--once").stdout
    second = start()
    done = top("--once")
    assert done.returncode == 1
    for process in (first, second):
        assert re.search(rf"^  {process.pid}  \S", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("999999999", "there is no process 999999999"),
        ("99999999999999999999", "there is no process"),
        pytest.param(str(os.getpid()), "does not serve its statistics", id="this process"),
        ("app.py", "neither a process ID, nor a URL, nor the path of a socket"),
        ("./nothing.sock", "no process serves statistics"),
        ("ftp://127.0.0.1/", "not an http or https URL"),
    ],
)
def test_what_there_is_not(top: Top, target: str, message: str) -> None:
    done = top(target)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--what"], ["--interval", "0"], ["--interval", "x"]])
def test_wrong_arguments(top: Top, arguments: list[str]) -> None:
    done = top(*arguments)
    assert done.returncode == 2
    assert "usage: python -m hybridloop top" in done.stderr


def test_without_rich(start: Start, top: Top, tmp_path: Path, script_env: dict[str, str]) -> None:
    process = start()
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('hidden')")
    path = f"{tmp_path}{os.pathsep}{script_env['PYTHONPATH']}"
    done = top(str(process.pid), PYTHONPATH=path)
    assert done.returncode == 2
    assert done.stderr == "hybridloop top needs rich: pip install 'hybridloop[top]'\n"
    assert top(str(process.pid), "--once", "--json", PYTHONPATH=path).returncode == 0


def test_scripts_called_top_are_run(tmp_path: Path, script_env: dict[str, str]) -> None:
    for name in ("top", "top.py"):
        (tmp_path / name).write_text("import sys; print(sys.argv)")
    for argument in ("./top", "top.py"):
        done = subprocess.run(
            [sys.executable, "-m", "hybridloop", argument, "--once"],
            cwd=tmp_path,
            env=script_env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.stdout == f"{[argument, '--once']}\n", done.stderr


class Terminal:
    """A program in a terminal."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.output = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(
                command[0], command, {**env, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
            )

    def read_until(self, condition: Callable[[bytes], object], seconds: float = 100) -> None:
        deadline = time.monotonic() + seconds
        while not condition(self.output):
            assert time.monotonic() < deadline, self.output
            self._read(0.05)

    def wait(self, seconds: float = 100) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + seconds
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < deadline, self.output
            self._read(0.05)
        while self._read(0):
            pass
        return os.waitstatus_to_exitcode(ended[1])

    def _read(self, seconds: float) -> bytes:
        """What comes within this time; nothing at the end."""
        if not select.select([self.master], [], [], seconds)[0]:
            return b""
        try:
            part = os.read(self.master, 65536)
        except OSError:
            # The other side is closed.
            time.sleep(0.01)
            return b""
        self.output += part
        return part


@pytest.fixture
def terminal(script_env: dict[str, str], runtime: Path) -> Iterator[Callable[..., Terminal]]:
    terminals = []

    def start(*arguments: str) -> Terminal:
        command = [sys.executable, "-m", "hybridloop", "top", *arguments]
        terminals.append(Terminal(command, {**script_env, "XDG_RUNTIME_DIR": str(runtime)}))
        return terminals[-1]

    yield start
    for terminal in terminals:
        os.close(terminal.master)
        try:
            os.kill(terminal.pid, signal.SIGKILL)
            os.waitpid(terminal.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def test_live_until_ctrl_c(start: Start, terminal: Callable[..., Terminal]) -> None:
    process = start()
    top = terminal(str(process.pid), "--interval", "0.1")
    top.read_until(lambda output: output.count(b"MainThread") >= 3)
    assert top.output.count(ENTER) == 1
    # From the second frame on there are rates of what was spawned.
    top.read_until(lambda output: b"(0/s)" in output)
    os.write(top.master, b"\x03")
    assert top.wait() == 0
    assert top.output.count(LEAVE) == 1
    assert b"Traceback" not in top.output
    assert process.poll() is None


def test_live_gives_the_screen_back_when_it_is_ended(
    start: Start, terminal: Callable[..., Terminal]
) -> None:
    process = start()
    top = terminal(str(process.pid), "--interval", "0.1")
    top.read_until(lambda output: b"MainThread" in output)
    os.kill(top.pid, signal.SIGTERM)
    assert top.wait() == 128 + signal.SIGTERM
    assert top.output.count(LEAVE) == 1


def test_live_until_the_process_ends(start: Start, terminal: Callable[..., Terminal]) -> None:
    process = start()
    top = terminal(str(process.pid), "--interval", "0.1")
    top.read_until(lambda output: b"MainThread" in output)
    process.kill()
    process.wait()
    assert top.wait() == 0
    screen, _, after = top.output.partition(LEAVE)
    assert f"process {process.pid} has ended".encode() in after


def shown(now: ProcessStats, *before: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(view.render(now, *before))  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_native_workers_and_the_bus_are_shown() -> None:
    text = shown(example())
    assert "native  workers 3 of 4 busy  75%  queue 20  pending 6  done 100  failed 2  " in text
    assert "cancelled 1  memory 4.0K" in text
    assert "bus  1.0K of 4.0K  25%  keys 5  writes 50  reads 60  evicted 7  refused 8" in text
    assert text.count("native") == 2, "the engine's and the process's"
    now = example()
    assert now.native is not None
    quiet = dataclasses.replace(now, engines=(), native=dataclasses.replace(now.native, pending=0))
    assert "queue 1  done 1  failed 1" in shown(quiet)


def test_rates() -> None:
    before = example()
    (engine,) = before.engines
    loop = before.loops[1]
    later = dataclasses.replace(
        loop.stats,
        callbacks=loop.stats.callbacks + 3000,
        bytes_in=loop.stats.bytes_in + 4096,
        busy_seconds=loop.stats.busy_seconds + 1.0,
    )
    assert engine.stats.native is not None and engine.stats.bus is not None
    stats = dataclasses.replace(
        engine.stats,
        spawned=engine.stats.spawned + 50,
        native=dataclasses.replace(engine.stats.native, done=150),
        bus=dataclasses.replace(engine.stats.bus, reads=80),
    )
    now = dataclasses.replace(
        before,
        loops=(before.loops[0], dataclasses.replace(loop, stats=later)),
        engines=(dataclasses.replace(engine, stats=stats),),
    )
    text = shown(now, before, 2.0)
    (row,) = (line.split() for line in text.splitlines() if line.startswith("   2 "))
    assert row[6:10] == ["1.5k", "2.0K", "0", "50%"]
    assert "spawned 120 (25/s)" in text
    assert "done 150 (25/s)" in text
    assert "reads 80 (10/s)" in text


def test_functions_that_wait_are_shown_where_there_are_some() -> None:
    now = example()
    (row,) = (line.split() for line in shown(now).splitlines() if line.startswith("   2 "))
    assert "WAITING" in shown(now) and row[-1] == "10"
    idle = dataclasses.replace(now, loops=now.loops[:1])
    assert "WAITING" not in shown(idle)


def test_no_loops_and_a_narrow_terminal() -> None:
    empty = dataclasses.replace(example(), loops=(), engines=(), native=None, bus=None)
    assert "no loop is open" in shown(empty)
    for width in (10, 40, 80):
        assert shown(example(), width=width)
    assert all(len(line) <= 80 for line in shown(example(), width=80).splitlines())


def test_what_a_program_is_called_does_not_reach_the_terminal() -> None:
    now = dataclasses.replace(example(), program="\x1b[2Jboo [bold]\n\x07")
    text = shown(now)
    assert "\x1b" not in text and "\x07" not in text
    assert "?[2Jboo [bold]??" in text


EVIL = "\x1b]0;evil\x07\x9b31m\u202e\ud800"


def serve_bytes(answer: bytes) -> tuple[str, threading.Thread]:
    """The URL of a server that sends these bytes to its first client."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(65536)
            client.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/", thread


@pytest.mark.parametrize(
    "answer",
    [
        b"\x1b]0;evil\x07\n\n",
        b"HTTP/1.1 \x1b[31m\x07 x\r\n\r\n",
        b"HTTP/1.1 500 \x1b[31m\x07evil\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n\x1b[31m",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n\x1b[31m\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\na\x1b[31m{x",
        b"",
    ],
)
def test_errors_of_a_server_are_one_line_of_printable_text(top: Top, answer: bytes) -> None:
    url, thread = serve_bytes(answer)
    done = top(url, "--once")
    thread.join()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("hybridloop top: ")
    assert line.isprintable()
    assert done.stdout == ""


def test_names_of_a_server_are_printable() -> None:
    now = example()
    engine = now.engines[0]
    threads = tuple(dataclasses.replace(it, name=EVIL) for it in engine.stats.threads)
    stats = dataclasses.replace(engine.stats, threads=threads)
    evil = dataclasses.replace(
        now,
        program=EVIL,
        python=EVIL,
        hybridloop=EVIL,
        loops=tuple(dataclasses.replace(it, thread=EVIL) for it in now.loops),
        engines=(dataclasses.replace(engine, stats=stats),),
    )
    assert all(line.isprintable() for line in shown(evil).splitlines())


def test_texts_instead_of_numbers_are_refused() -> None:
    good = json.loads(json.dumps(example().as_dict()))
    assert ProcessStats.from_dict(good) == example()
    places = [good, good["loops"][0], good["engines"][0], good["loops"][0]["stats"]]
    places += [good["engines"][0]["stats"], good["native"], good["bus"]]
    places += [good["engines"][0]["stats"]["threads"][0]]
    for place in places:
        for name, value in list(place.items()):
            if isinstance(value, (int, float)) and name != "format":
                place[name] = EVIL
                with pytest.raises(ValueError, match="incomplete"):
                    ProcessStats.from_dict(good)
                place[name] = value
    assert ProcessStats.from_dict(good) == example()
