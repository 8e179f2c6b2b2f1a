"""create_unix_server(): socket files, arguments, errors."""

import asyncio
import errno
import os
import socket
import stat
import sys
from contextlib import contextmanager

import pytest

from tests.support.streams import Echo, Recorder

new_in_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="new in Python 3.13")


async def test_a_stale_socket_is_replaced(serve, connect, folder):
    path = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(path)
    await serve(path)
    await connect(path)


async def test_a_living_socket_is_taken_over(serve, connect, folder, eventually):
    """As in asyncio, the file is removed even if another server listens on it."""
    path = f"{folder}/socket"
    _, old = await serve(path)
    _, new = await serve(path)
    await connect(path)
    await eventually(lambda: new)
    assert not old


async def test_other_files_are_left_alone(loop, folder):
    path = f"{folder}/file"
    with open(path, "w") as file:
        file.write("contents")
    with pytest.raises(OSError, match="is already in use") as caught:
        await loop.create_unix_server(Echo, path)
    assert caught.value.errno == errno.EADDRINUSE
    with open(path) as file:
        assert file.read() == "contents"


async def test_a_folder_that_is_not_there(loop, folder):
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_server(Echo, f"{folder}/missing/socket")


async def test_a_path_that_is_too_long(loop, folder):
    with pytest.raises(OSError, match="too long"):
        await loop.create_unix_server(Echo, f"{folder}/{'x' * 200}")


@contextmanager
def without_root():
    """Lay down the rights of root, if the tests run with them."""
    if os.getuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def mode(path, bits):
    before = os.stat(path).st_mode
    os.chmod(path, bits)
    try:
        with without_root():
            yield
    finally:
        os.chmod(path, before)


async def test_a_folder_that_may_not_be_written(loop, folder):
    with mode(folder, 0o555), pytest.raises(PermissionError):
        await loop.create_unix_server(Echo, f"{folder}/socket")


async def test_a_stale_socket_that_may_not_be_removed(loop, folder, asyncio_log):
    """asyncio logs that, and binding fails."""
    path = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with mode(folder, 0o555), pytest.raises(OSError, match="in use"):
        await loop.create_unix_server(Echo, path)
    assert "Unable to check or remove stale UNIX socket" in asyncio_log.messages[0]


async def test_a_socket_that_may_not_be_connected_to(loop, serve, folder):
    path = f"{folder}/socket"
    await serve(path)
    os.chmod(path, 0o000)
    with mode(folder, 0o755), pytest.raises(PermissionError):
        await loop.create_unix_connection(Recorder, path)


@new_in_13
@pytest.mark.parametrize("options", [{}, {"cleanup_socket": True}])
async def test_the_file_goes_with_the_server(serve, folder, options):
    path = f"{folder}/socket"
    server, _ = await serve(path, **options)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    server.close()
    assert not os.path.exists(path)


@new_in_13
async def test_the_file_is_kept_on_demand(serve, folder):
    path = f"{folder}/socket"
    server, _ = await serve(path, cleanup_socket=False)
    server.close()
    await server.wait_closed()
    assert os.path.exists(path)


@new_in_13
async def test_the_file_of_somebody_else_stays(serve, folder, connect):
    """Closing a server whose file was replaced leaves the new one."""
    path = f"{folder}/socket"
    first, _ = await serve(path)
    await serve(path)
    first.close()
    assert os.path.exists(path)
    await connect(path)


@new_in_13
async def test_a_file_that_is_gone_already(serve, folder):
    path = f"{folder}/socket"
    server, _ = await serve(path)
    os.unlink(path)
    server.close()
    await server.wait_closed()
    assert not os.path.exists(path)


@new_in_13
async def test_the_file_goes_with_a_socket_of_ones_own(serve, folder):
    path = f"{folder}/socket"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server, _ = await serve(None, sock=sock)
    server.close()
    assert not os.path.exists(path)


async def test_own_socket(serve, connect, folder, eventually):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{folder}/socket")
    _, accepted = await serve(None, sock=sock)
    assert sock.gettimeout() == 0
    transport, protocol = await connect(f"{folder}/socket")
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    assert len(accepted) == 1


async def bad_calls(call, folder):
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
            for path, options in [
                (None, {}),
                (f"{folder}/socket", {"sock": unix}),
                (None, {"sock": tcp}),
                (None, {"sock": datagram}),
                (f"{folder}/socket", {"ssl_handshake_timeout": 1}),
            ]:
                with pytest.raises(ValueError):
                    await call(Recorder, path, **options)
    with pytest.raises(TypeError):
        await call(Recorder, 5)


async def test_bad_arguments_of_servers(loop, folder):
    await bad_calls(loop.create_unix_server, folder)
    with pytest.raises(TypeError):
        await loop.create_unix_server(Recorder, f"{folder}/socket", ssl=True)


async def test_bad_arguments_of_connections(loop, folder):
    await bad_calls(loop.create_unix_connection, folder)
    with pytest.raises(ValueError):
        await loop.create_unix_connection(Recorder, f"{folder}/socket", server_hostname="x")
    with pytest.raises(ValueError):
        await loop.create_unix_connection(Recorder, f"{folder}/socket", ssl=True)


async def test_nobody_listens(loop, folder):
    path = f"{folder}/socket"
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_connection(Recorder, path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)


async def test_serving_begins_on_demand(loop, serve, connect, folder, eventually):
    path = f"{folder}/socket"
    server, _ = await serve(path, start_serving=False)
    assert not server.is_serving()
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)
    await server.start_serving()
    assert server.is_serving()
    transport, protocol = await connect(path)
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")


async def test_connections_outlive_the_server(serve, connect, folder, eventually):
    server, accepted = await serve(f"{folder}/socket")
    transport, protocol = await connect(f"{folder}/socket")
    await eventually(lambda: accepted)
    server.close()
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")


async def test_serve_forever(loop, serve, connect, folder, eventually):
    server, _ = await serve(f"{folder}/socket")
    task = loop.create_task(server.serve_forever())
    transport, protocol = await connect(f"{folder}/socket")
    transport.close()
    await eventually(lambda: protocol.lost)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()


async def test_many_connections_at_once(serve, connect, folder, eventually):
    _, accepted = await serve(f"{folder}/socket", backlog=100)
    ends = await asyncio.gather(*(connect(f"{folder}/socket") for _ in range(100)))
    for number, (transport, _) in enumerate(ends):
        transport.write(b"%d" % number)
    for number, (_, protocol) in enumerate(ends):
        await eventually(lambda: protocol.data == b"%d" % number)  # noqa: B023
    assert len(accepted) == 100
