"""`metrics.serve()`: the Unix socket, who may open it, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import hybridloop
from hybridloop import metrics
from hybridloop.metrics import ProcessStats, socket_path
from hybridloop.metrics.client import ProcessEnded, ProcessSource, SourceError, open_source
from tests.support.waiting import until

from .conftest import Start


def ask(path: Path) -> ProcessStats:
    with socket_path.connect(path) as sock, sock.makefile() as file:
        return ProcessStats.from_dict(json.load(file))


@pytest.mark.usefixtures("clean_end")
def test_serves_until_it_is_closed(runtime: Path) -> None:
    with metrics.serve() as server:
        assert server.path == runtime / "hybridloop" / f"{os.getpid()}.sock"
        assert metrics.serve() is server
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
        loop = hybridloop.new_event_loop()
        try:
            assert loop.stats() in [it.stats for it in ask(server.path).loops]
        finally:
            loop.close()
        assert open_source(str(os.getpid())).read().pid == os.getpid()
    assert server.closed
    assert not server.path.exists()
    server.close()
    with metrics.serve() as again:
        assert ask(again.path).pid == os.getpid()


@pytest.mark.usefixtures("clean_end")
def test_a_path_of_ones_own(tmp_path: Path, runtime: Path) -> None:
    path = tmp_path / "own.sock"
    with metrics.serve(path):
        assert open_source(str(path)).read().pid == os.getpid()
        with pytest.raises(OSError):
            metrics.serve(path)
        assert ask(path).pid == os.getpid(), "the first one is still there"
        with pytest.raises(SourceError, match="does not serve its statistics"):
            open_source(str(os.getpid()))


@pytest.mark.usefixtures("clean_end")
def test_a_reader_that_takes_nothing_and_one_that_is_gone(runtime: Path) -> None:
    with metrics.serve() as server:
        socket_path.connect(server.path).close()
        with socket_path.connect(server.path) as idle:
            # It has its answer in its buffer, whether it reads or not.
            assert ask(server.path).pid == os.getpid()
            assert idle.recv(10)


@pytest.mark.usefixtures("clean_end")
def test_a_folder_of_somebody_else_is_not_used(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runtime / "hybridloop"
    folder.mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="only this user"):
        metrics.serve()
    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(PermissionError):
        metrics.serve()
    assert list(elsewhere.iterdir()) == []


def test_without_a_runtime_folder(runtime: Path) -> None:
    runtime.chmod(0o755)
    with metrics.serve() as server:
        assert server.path.parent == Path(f"/tmp/hybridloop-{os.geteuid()}")
        assert open_source(str(os.getpid())).read().pid == os.getpid()


def test_nothing_unless_asked(start: Start, runtime: Path) -> None:
    code = """
    import asyncio, threading, hybridloop
    loop = hybridloop.new_event_loop()
    print("ready", flush=True)
    print(threading.active_count(), flush=True)
    input()
    """
    process = start(code, HYBRIDLOOP_OBSERVE="0")
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    assert not (runtime / "hybridloop").exists()
    process = start(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "2\n"
    assert socket_path.list_served(os.geteuid()) == [
        (process.pid, runtime / "hybridloop" / f"{process.pid}.sock")
    ]


def test_the_socket_goes_with_the_process(start: Start, runtime: Path) -> None:
    folder = runtime / "hybridloop"
    process = start('import hybridloop; hybridloop.new_event_loop(); print("ready"); input()')
    assert [it.name for it in folder.iterdir()] == [f"{process.pid}.sock"]
    process.communicate("\n")
    assert list(folder.iterdir()) == []


def test_what_was_killed_is_cleared_away(start: Start, runtime: Path) -> None:
    process = start()
    path = runtime / "hybridloop" / f"{process.pid}.sock"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    assert socket_path.list_served(os.geteuid()) == []
    with pytest.raises(SourceError, match=f"no process {process.pid}"):
        open_source(str(process.pid))
    with pytest.raises(SourceError, match="no process serves"):
        open_source(str(path)).read()
    with metrics.serve():
        assert not path.exists()


def test_a_number_that_was_used_again(runtime: Path, start: Start) -> None:
    """Another process serves where one that ended did."""
    process = start('import hybridloop, time; print("ready", flush=True); input()')
    with metrics.serve() as server:
        wrong = server.path.with_name(f"{process.pid}.sock")
        wrong.hardlink_to(server.path)
        with pytest.raises(SourceError, match="does not belong to"):
            open_source(str(process.pid)).read()
        wrong.unlink()


def test_closing_while_a_client_is_answered(tmp_path: Path) -> None:
    """The thread may end by itself before it is woken."""
    for number in range(200):
        with (
            metrics.serve(tmp_path / f"{number}.sock") as server,
            contextlib.ExitStack() as clients,
        ):
            for _ in range(4):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(server.path))
        assert server.closed and not server.path.exists()


def test_a_program_goes_on_when_it_cannot_serve(script_env: dict[str, str], runtime: Path) -> None:
    (runtime / "hybridloop").mkdir(mode=0o777)
    (runtime / "hybridloop").chmod(0o777)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import asyncio, hybridloop\n"
            "for _ in range(2): print(hybridloop.run(asyncio.sleep(0, 5)))",
        ],
        env={**script_env, "XDG_RUNTIME_DIR": str(runtime), "HYBRIDLOOP_OBSERVE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    assert done.stdout == "5\n5\n"
    assert done.stderr.count("HYBRIDLOOP_OBSERVE is set, but the statistics cannot be served") == 1


def test_a_forked_child_serves_for_itself(start: Start, runtime: Path) -> None:
    process = start(
        """
        import os, sys, hybridloop
        loop = hybridloop.new_event_loop()
        child = os.fork()
        if child == 0:
            try:
                loop = hybridloop.new_event_loop()
                os.write(1, f"ready\\n{os.getpid()}\\n".encode())
                sys.stdin.readline()
            finally:
                sys.exit()
        os.waitpid(child, 0)
        print("ended", flush=True)
        input()
        """
    )
    assert process.stdout is not None and process.stdin is not None
    child = int(process.stdout.readline())
    assert child != process.pid
    for pid in (process.pid, child):
        assert open_source(str(pid)).read().pid == pid
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ended\n"
    # The child, which has run its exit handlers, has taken only its own socket away.
    assert [pid for pid, _ in socket_path.list_served(os.geteuid())] == [process.pid]
    assert open_source(str(process.pid)).read().pid == process.pid
    process.communicate("\n")


def test_answers_while_the_loop_is_stuck(start: Start) -> None:
    process = start(
        """
        import asyncio, time, hybridloop

        async def main():
            print("ready", flush=True)
            time.sleep(1000)

        hybridloop.run(main())
        """
    )
    observed = open_source(str(process.pid))
    assert isinstance(observed, ProcessSource)
    (loop,) = observed.read().loops
    assert loop.running
    until(lambda: observed.read().loops[0].stats.longest_iteration > 0.05)


def test_many_readers_at_a_time(runtime: Path) -> None:
    with metrics.serve() as server:
        socks = [socket_path.connect(server.path) for _ in range(8)]
        for sock in socks:
            with sock, sock.makefile() as file:
                assert json.load(file)["pid"] == os.getpid()


def test_who_does_not_answer(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_path, "_TIMEOUT", 0.05)
    path = runtime / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(SourceError, match="does not answer"):
            ProcessSource(path).read()


@pytest.mark.parametrize("answer", [None, b"", b"{", b"x" * 1000])
def test_who_ends_while_it_is_asked(runtime: Path, answer: bytes | None) -> None:
    """Before it accepts the connection, or within its answer."""
    path = runtime / "ends.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(json.dumps(metrics.snapshot().as_dict()).encode())
            select.select([listener], [], [])
            if answer is not None:
                connection, _ = listener.accept()
            listener.close()
            with connection:
                if answer is not None:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        source = ProcessSource(path)
        assert source.read().pid == os.getpid()
        with pytest.raises(ProcessEnded, match="has ended"):
            source.read()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed the connection"),
        (b"hello", "Expecting value"),
        (b"{}", "no statistics"),
        (b"\xff", "can't decode"),
    ],
)
def test_answers_that_are_none(runtime: Path, answer: bytes, message: str) -> None:
    path = runtime / "wrong.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(SourceError, match=message):
            ProcessSource(path).read()
        thread.join()
