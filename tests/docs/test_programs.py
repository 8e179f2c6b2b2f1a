"""What README and docs show as a whole program runs as it is printed; the rest compiles."""

import ast
import doctest
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import turned_off

from .pages import PAGES, PROGRAMS, PYTHON, ROOT, blocks, is_session, parse

# A program that serves gets a visitor, who ends it.
VISITOR = """
import os, signal, socket, threading

def talk(address, said, expected):
    with socket.create_connection(address, 60) as sock:
        sock.settimeout(60)
        sock.sendall(said)
        answer = b""
        while len(answer) < len(expected) and (more := sock.recv(1000)):
            answer += more
    if answer != expected:
        print(answer, flush=True)
        os._exit(98)

def begin(visit, *args):
    threading.Thread(target=visit, args=args, daemon=True).start()
"""
VISITORS = {
    "parallel.run()": """
from hybridloop import parallel

def visit(server):
    talk(("127.0.0.1", server.port), b"hi", b"Hello, World!\\r\\nYou said: hi\\r\\n")
    server.shutdown()

def register_and_visit(transport, protocol, register=parallel.register):
    register(transport, protocol)
    begin(visit, transport)

parallel.register = register_and_visit
""",
    "server.wait()": """
import hybridloop

def visit(server):
    talk(server.addresses[0], b"echo", b"echo")
    os.kill(os.getpid(), signal.SIGINT)

def wait_and_visit(server, wait=hybridloop.EngineServer.wait):
    hybridloop.EngineServer.wait = wait
    begin(visit, server)
    wait(server)

hybridloop.EngineServer.wait = wait_and_visit
""",
}
RUN = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="program")
"""


def missing_modules(block):
    for node in ast.walk(parse(block)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            if importlib.util.find_spec(name.partition(".")[0]) is None:
                yield name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where programs run: with the library that docs/kernels.md has built before."""
    folder = tmp_path_factory.mktemp("docs")
    page = ROOT / "docs/kernels.md"
    source = next(blocks(page, "c"))
    (folder / "demo.c").write_text(source.source)
    (command,) = re.findall(r"^    (cc .*)$", page.read_text(), re.MULTILINE)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    python_path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path}
    subprocess.run(command, shell=True, cwd=folder, env=environment, check=True, timeout=300)
    return folder


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_runs(block, folder, script_env):
    if missing := sorted(missing_modules(block)):
        pytest.skip(f"needs {', '.join(missing)}")
    if str(block).startswith("docs/sync.md:") and turned_off("task_fields"):
        pytest.skip("HYBRIDLOOP_SAFE leaves out what functions need to wait in a task")
    # Any free port.
    source = re.sub(r"\b(8000|8080|9000)\b", "0", block.source)
    program = folder / "program.py"
    program.write_text(source)
    visitor = "".join(VISITOR + code for sign, code in VISITORS.items() if sign in source)
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", visitor + RUN, program],
        cwd=folder,
        env={**script_env, "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, ""), done


@pytest.mark.parametrize("block", [it for it in PYTHON if it not in PROGRAMS], ids=str)
def test_fragments_compile(block):
    assert is_session(block) or parse(block) is not None


# A library that the fragments in C call.
SENSOR = """
#include <stdlib.h>
#include "hybridloop.h"
struct request;
struct request *sensor_read(void (*done)(void *data, double celsius), void *data);
void sensor_cancel(struct request *request);
struct reading { const hl_host *host; uint64_t token; struct request *request; };
"""


def test_fragments_in_c_compile(folder):
    fragments = list(blocks(ROOT / "docs/kernels.md", "c"))[1:]
    assert len(fragments) == 1
    # The entry is in a comment.
    (entry,) = re.findall(r"/\* … (.*) … \*/", fragments[0].source)
    source = SENSOR + fragments[0].source + f"const hl_kernel entry = {entry};"
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    include = f"-I{ROOT / 'include'}"
    subprocess.run(
        [*command, include, "-fsyntax-only", "-x", "c", "-"],
        input=source,
        text=True,
        cwd=folder,
        check=True,
    )


# Runs what the libraries in Rust export.
RUN_RUST = """
import sys
import hybridloop

for library in sys.argv[1:]:
    hybridloop.load_kernels(library)
scaled = hybridloop.run_native("demo.scale", memoryview(bytes(8)).cast("d"), by=3).result(60)
print(list(scaled), hybridloop.run_native("demo.add", 1, 2.5).result(60))
"""


@pytest.mark.skipif(shutil.which("cargo") is None, reason="there is no Rust compiler")
@pytest.mark.timeout(1800)
def test_programs_in_rust(tmp_path, script_env):
    page = ROOT / "docs/kernels.md"
    crate = json.dumps(str(ROOT / "crates" / "hybridloop-kernel"))
    manifest = next(block.source for block in blocks(page, "toml") if "[package]" in block.source)
    manifest = re.sub(r"\[lib\].*?\n\n", "", manifest, flags=re.DOTALL)
    manifest = re.sub(r"(hybridloop-kernel =) .*", rf"\1 {{ path = {crate} }}", manifest)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "lib.rs").touch()
    (tmp_path / "examples").mkdir()
    names = []
    for number, block in enumerate(blocks(page, "rust")):
        names.append(f"program{number}")
        (tmp_path / "examples" / f"{names[-1]}.rs").write_text(block.source)
        manifest += f'\n[[example]]\nname = "{names[-1]}"\ncrate-type = ["cdylib"]\n'
    assert len(names) == 2
    manifest += '\n[lints.rust]\nwarnings = "deny"\n\n[workspace]\n'
    (tmp_path / "Cargo.toml").write_text(manifest)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "kernels"
    command = ["cargo", "build", "--release", "--examples", "--quiet", "--target-dir", target]
    subprocess.run(command, cwd=tmp_path, check=True)
    ending = "dylib" if sys.platform == "darwin" else "so"
    libraries = [target / "release" / "examples" / f"lib{name}.{ending}" for name in names]
    done = subprocess.run(
        [sys.executable, "-c", RUN_RUST, *libraries],
        env=script_env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.stdout, done.stderr) == ("[0.0] 3.5\n", "")


@pytest.mark.parametrize("page", [it for it in PAGES if ">>> " in it.read_text()], ids=str)
def test_sessions(page):
    assert doctest.testfile(str(page), module_relative=False).failed == 0
