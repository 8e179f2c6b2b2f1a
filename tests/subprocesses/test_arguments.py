"""`subprocess_exec()` and `subprocess_shell()` take the arguments of `subprocess.Popen`.

Transports are found by a private attribute of processes.
"""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from .support import python


async def run(source, *arguments, **options):
    """Exit status and output of a Python program."""
    process = await asyncio.create_subprocess_exec(
        *python(source), *arguments, stdout=subprocess.PIPE, **options
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_output_and_status(loop):
    assert await run("print('hello'); raise SystemExit(3)") == (3, "hello\n")


async def test_another_executable(loop):
    """The first argument is the child's name only."""
    process = await asyncio.create_subprocess_exec(
        "some name", "-S", "-c", "print('hello')", executable=sys.executable, stdout=subprocess.PIPE
    )
    assert await process.communicate() == (b"hello\n", None)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio gives children sockets there")
async def test_standard_streams_by_path(loop):
    """Children can open /dev/stdin and /dev/stdout, which is impossible for sockets."""
    source = "open('/dev/stdout', 'w').write(open('/dev/stdin').read().upper())"
    process = await asyncio.create_subprocess_exec(
        *python(source), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert await process.communicate(b"text") == (b"TEXT", None)


async def test_pipes_tell_what_they_are(loop):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1, stderr=-1)
    popen = process._transport.get_extra_info("subprocess")
    assert isinstance(popen, subprocess.Popen)
    assert popen.pid == process.pid
    for fd, file in enumerate([popen.stdin, popen.stdout, popen.stderr]):
        transport = process._transport.get_pipe_transport(fd)
        assert transport.get_extra_info("pipe") is file
    process.stdin.close()
    assert await process.wait() == 0


async def test_killed_by_a_signal(loop):
    assert await run("import os; os.kill(os.getpid(), 9)") == (-signal.SIGKILL, "")


async def test_arguments_as_bytes_and_paths(loop, tmp_path):
    code, output = await run("import sys; print(sys.argv[1:])", b"bytes", tmp_path)
    assert (code, output) == (0, f"{['bytes', str(tmp_path)]}\n")


async def test_shell(loop):
    process = await asyncio.create_subprocess_shell(
        "read line; echo got $line; exit 5", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate(b"it\n")
    assert (process.returncode, output) == (5, b"got it\n")


async def test_shell_command_as_bytes(loop):
    process = await asyncio.create_subprocess_shell(b"exit 4")
    assert await process.wait() == 4


async def test_directory(loop, tmp_path):
    assert await run("import os; print(os.getcwd())", cwd=tmp_path) == (
        0,
        f"{tmp_path.resolve()}\n",
    )


async def test_environment(loop):
    source = "import os; print(os.environ.get('ONLY'), 'HOME' in os.environ)"
    assert await run(source, env={"ONLY": "this"}) == (0, "this False\n")


async def test_new_session(loop):
    source = "import os; print(os.getsid(0) == os.getpid())"
    assert await run(source, start_new_session=True) == (0, "True\n")
    assert await run(source) == (0, "False\n")


async def test_process_group(loop):
    assert await run("import os; print(os.getpgrp() == os.getpid())", process_group=0) == (
        0,
        "True\n",
    )


async def test_umask(loop):
    assert await run("import os; print(os.umask(0))", umask=0o27) == (0, f"{0o27}\n")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
async def test_user_and_group(loop):
    process = await asyncio.create_subprocess_shell(
        "id -u; id -g", stdout=-1, user=65534, group=65533, extra_groups=[], cwd="/"
    )
    assert (await process.communicate())[0].split() == [b"65534", b"65533"]


async def test_preexec_fn(loop):
    def in_child():
        os.nice(3)

    before = os.nice(0)
    expected = min(before + 3, 19)
    assert await run("import os; print(os.nice(0))", preexec_fn=in_child) == (0, f"{expected}\n")
    assert os.nice(0) == before


async def test_preexec_fn_that_raises(loop):
    def in_child():
        raise ValueError

    with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
        await run("pass", preexec_fn=in_child)


async def test_passed_descriptors(loop):
    reading, writing = os.pipe()
    try:
        source = f"import os; os.write({writing}, b'through')"
        assert (await run(source, pass_fds=[writing]))[0] == 0
        assert os.read(reading, 100) == b"through"
        assert (await run(source, stderr=subprocess.DEVNULL))[0] == 1
    finally:
        os.close(reading)
        os.close(writing)


async def test_child_inherits_nothing_of_the_loop(loop):
    """Neither sockets nor the selector."""
    source = "import os; print(len(os.listdir('/proc/self/fd')))"
    options = {"close_fds": False, "stdin": subprocess.DEVNULL}
    before = await run(source, **options)
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    await asyncio.sleep(0.001)
    assert await run(source, **options) == before
    transport.close()
    server.close()
    await asyncio.sleep(0.001)


async def test_files_and_descriptors_as_streams(loop, tmp_path):
    given, taken = tmp_path / "in", tmp_path / "out"
    given.write_bytes(b"from a file")
    with given.open("rb") as stdin, taken.open("wb") as stdout:
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=stdin, stdout=stdout.fileno(), stderr=subprocess.DEVNULL
        )
        assert process.stdin is process.stdout is process.stderr is None
        assert await process.wait() == 0
    assert taken.read_bytes() == b"from a file"


async def test_errors_into_output(loop):
    source = "import os; os.write(1, b'a'); os.write(2, b'b')"
    assert await run(source, stderr=subprocess.STDOUT) == (0, "ab")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"universal_newlines": True}, "universal_newlines must be False"),
        ({"text": True}, "text must be False"),
        ({"encoding": "utf-8"}, "encoding must be None"),
        ({"errors": "strict"}, "errors must be None"),
        ({"bufsize": 1}, "bufsize must be 0"),
        ({"shell": True}, "shell must be False"),
    ],
)
async def test_refused_options(loop, options, message):
    with pytest.raises(ValueError, match=message):
        await loop.subprocess_exec(asyncio.SubprocessProtocol, "true", **options)


async def test_shell_refuses_a_list(loop):
    with pytest.raises(ValueError, match="cmd must be a string"):
        await loop.subprocess_shell(asyncio.SubprocessProtocol, ["true"])


@pytest.mark.parametrize(
    ("program", "options", "error"),
    [
        ("/no/such/program", {}, FileNotFoundError),
        ("/", {}, PermissionError),
        ("true", {"cwd": "/no/such/directory"}, FileNotFoundError),
        ("nul\0byte", {}, ValueError),
    ],
)
async def test_what_cannot_be_started(loop, program, options, error):
    with pytest.raises(error):
        await asyncio.create_subprocess_exec(program, stdin=-1, stdout=-1, stderr=-1, **options)
