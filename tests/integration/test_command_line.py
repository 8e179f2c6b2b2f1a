"""`python -m hybridloop` runs programs that know nothing of it."""

from __future__ import annotations

import os
import py_compile
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .support.http import RawConnection, get
from .support.loops import LOOP_NAME, loop_class_path, wait_until
from .support.processes import ServerProcess, run_script, subprocess_env
from .support.uvicorn import PATIENT

pytestmark = pytest.mark.skipif(LOOP_NAME != "hybridloop", reason="tests hybridloop's command line")


def test_script() -> None:
    result = run_script("-m", "hybridloop", "plain_script.py", "one", "--two")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [loop_class_path(), "line", "one", "--two"]
    assert result.stderr == ""


def test_module() -> None:
    result = run_script("-m", "hybridloop", "-m", "plain_script", "one", "--two")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [loop_class_path(), "line", "one", "--two"]
    assert result.stderr == ""


def test_exit_code() -> None:
    assert run_script("-m", "hybridloop", "plain_script.py", "--exit").returncode == 7


def test_uncaught_exception() -> None:
    result = run_script("-m", "hybridloop", "plain_script.py", "--fail")
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("LookupError: asked to fail")


def test_missing_script() -> None:
    result = run_script("-m", "hybridloop", "no_such_script.py")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "no_such_script.py" in result.stderr


def test_missing_module() -> None:
    result = run_script("-m", "hybridloop", "-m", "no_such_module")
    assert result.returncode == 2
    assert result.stderr.endswith("No module named no_such_module\n")


@pytest.mark.parametrize("arguments", [[], ["-m"], ["--no-such-option"], ["-c", "pass"]])
def test_usage(arguments: list[str]) -> None:
    result = run_script("-m", "hybridloop", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: python -m hybridloop ")


def test_imports_what_is_beside_the_script(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("answer = 42\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, beside\nprint(beside.answer, sys.path[0])\n")
    link = tmp_path / "elsewhere" / "link.py"
    link.parent.mkdir()
    link.symlink_to(script)
    for path in (script, link):
        result = run_script("-m", "hybridloop", str(path))
        assert (result.stdout, result.stderr) == (f"42 {tmp_path.resolve()}\n", "")


SHOW_MAIN = """\
import inspect, sys
print(inspect.currentframe().f_code.co_filename, __file__, sys.argv, sys.path[0])
print(sorted(set(globals()) - {"__annotations__"}), __spec__ and __spec__.name)
print(__name__, __package__, globals().get("__cached__"), type(__loader__).__name__)
print(__builtins__)
"""


@pytest.mark.parametrize("kind", ["script", "folder", "archive", "compiled", "module", "package"])
def test_sees_what_it_sees_without_hybridloop(tmp_path: Path, kind: str) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__main__.py").write_text(SHOW_MAIN)
    (tmp_path / "script.py").write_text(SHOW_MAIN)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", SHOW_MAIN)
    py_compile.compile(str(tmp_path / "script.py"), str(tmp_path / "compiled.pyc"))
    arguments = {
        "script": ["script.py"],
        "folder": ["package"],
        "archive": ["archive.zip"],
        "compiled": ["compiled.pyc"],
        "module": ["-m", "script"],
        "package": ["-m", "package"],
    }[kind]
    without = run_in(tmp_path, *arguments, "one", "--two")
    assert without.returncode == 0, without.stderr
    assert run_in(tmp_path, "-m", "hybridloop", *arguments, "one", "--two").stdout == without.stdout


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", *arguments],
        cwd=folder,
        env=subprocess_env(
            PYTHONPATH=os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
        ),
        capture_output=True,
        text=True,
        timeout=280,
    )


LIVES_ON = """\
import atexit, pickle, sys, threading

class Named:
    pass

def at_the_end():
    assert sys.modules["__main__"].Named is Named
    assert type(pickle.loads(pickle.dumps(Named()))) is Named
    print("found", end=" ")

def in_a_thread():
    main_thread.join()
    at_the_end()

main_thread = threading.current_thread()
atexit.register(at_the_end)
threading.Thread(target=in_a_thread).start()
"""


@pytest.mark.parametrize("arguments", [["script.py"], ["-m", "script"]])
def test_the_main_module_lives_on(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "script.py").write_text(LIVES_ON)
    done = run_in(tmp_path, "-m", "hybridloop", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "found found ", "")


CHILDREN = """\
import asyncio, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor

async def kind():
    return type(asyncio.get_running_loop()).__module__

def in_a_child(depth):
    if depth > 1:
        return in_a_pool(depth - 1)
    return asyncio.run(kind())

def in_a_pool(depth):
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(in_a_child, depth).result()

if __name__ == "__main__":
    print(in_a_pool(1), in_a_pool(2))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_run_on_the_loop(tmp_path: Path, method: str) -> None:
    (tmp_path / "script.py").write_text(CHILDREN)
    done = run_in(tmp_path, "-m", "hybridloop", "script.py", method)
    assert done.stdout.split() == ["hybridloop.loop"] * 2, done.stderr


SERVES = """\
import asyncio, hybridloop, sys, uvicorn

class Server(uvicorn.Server):
    async def serve(self, sockets=None):
        print(type(asyncio.get_running_loop()).__module__)

if __name__ == "__main__":
    Server(uvicorn.Config("asgi_app:app", loop=sys.argv[1])).run()
"""


@pytest.mark.parametrize(
    ("loop", "module"),
    [("auto", "hybridloop.loop"), ("none", "hybridloop.loop"), ("asyncio", "asyncio.unix_events")],
)
def test_script_with_uvicorn(tmp_path: Path, loop: str, module: str) -> None:
    """uvicorn runs on hybridloop unless the program names another loop."""
    (tmp_path / "script.py").write_text(SERVES)
    done = run_in(tmp_path, "-m", "hybridloop", "script.py", loop)
    assert done.stdout.split() == [module], done.stderr


@pytest.mark.parametrize("more", [[], ["--loop", "none"], ["--workers", "2"]])
def test_module_that_is_a_server(more: list[str]) -> None:
    arguments = ["-m", "hybridloop", "-m", "uvicorn", "asgi_app:app", *more, *PATIENT]
    with ServerProcess([*arguments, "--port", "0", "--no-use-colors"]) as server:
        port = server.wait_for_port(r"Uvicorn running on http://[\d.]+:(\d+)")
        server.wait_for_line("Application startup complete")
        # The port of several workers is known before the first of them listens.
        with wait_until(lambda: connected(port)) as connection:
            assert loop_class_path() in connection.request(get("/describe")).body.decode()
        assert server.stop() in (0, -signal.SIGTERM), server.log
        server.assert_clean_log()


def connected(port: int) -> RawConnection | None:
    try:
        return RawConnection(port)
    except ConnectionRefusedError:
        return None
