"""Ranges of files, results, and file positions after sending.

A private method of asyncio shows what its release does.
"""

import asyncio
import inspect
import io
import os
import socket
import ssl

import pytest
import trustme

from tests.support.streams import Peer, Recorder, tcp_pair

CONTENTS = bytes(range(256)) * 40
SIZE = len(CONTENTS)

RANGES = [
    (0, None),
    (0, 1),
    (0, SIZE),
    (0, SIZE + 10),
    (1, None),
    (100, 50),
    (SIZE - 1, None),
    (SIZE - 1, 10),
    (SIZE, None),
    (SIZE, 10),
    (SIZE + 10, None),
    (SIZE + 10, 10),
]

# The bytes sent, without which releases up to 3.13.0 and similar ones do not move the file.
STAYS_WHEN_NOTHING_IS_SENT = (
    "total_sent"
    in inspect.signature(asyncio.SelectorEventLoop._sock_sendfile_update_filepos).parameters
)


def part(offset, count):
    return CONTENTS[offset:] if count is None else CONTENTS[offset : offset + count]


@pytest.mark.parametrize(("offset", "count"), RANGES)
async def test_by_transport(loop, connect_tcp, make_file, offset, count):
    transport, peer = await connect_tcp()
    file = make_file(CONTENTS)
    expected = part(offset, count)
    transport.write(b"<")
    assert await loop.sendfile(transport, file, offset, count) == len(expected)
    transport.write(b">")
    assert await peer.read(len(expected) + 2) == b"<" + expected + b">"
    assert file.tell() == (offset + len(expected) if expected else file.tell())


@pytest.mark.parametrize(("offset", "count"), RANGES)
async def test_by_socket(loop, make_file, offset, count):
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    file = make_file(CONTENTS)
    expected = part(offset, count)
    with ours, theirs:
        assert await loop.sock_sendfile(ours, file, offset, count) == len(expected)
        assert await Peer(theirs).read(len(expected)) == expected
    assert file.tell() == (offset + len(expected) if expected else file.tell())


@pytest.mark.parametrize("by", ["transport", "socket"])
async def test_position_when_nothing_is_left(loop, connect_tcp, tmp_path, by):
    """A file that stands somewhere, and a range behind its end.

    It stays there, or is moved to the offset where asyncio does that too.
    """
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    transport, _ = await connect_tcp()
    with path.open("rb") as file:
        file.seek(7)
        if by == "transport":
            assert await loop.sendfile(transport, file, SIZE + 5) == 0
        else:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            with ours, theirs:
                assert await loop.sock_sendfile(ours, file, SIZE + 5, fallback=False) == 0
        assert file.tell() == (7 if STAYS_WHEN_NOTHING_IS_SENT else SIZE + 5)


async def test_empty_file(loop, connect, make_file):
    transport, peer = await connect()
    assert await loop.sendfile(transport, make_file(b"")) == 0
    transport.write(b"after")
    assert await peer.read(5) == b"after"


async def test_one_file_in_parts(loop, connect, make_file):
    transport, peer = await connect()
    file = make_file(CONTENTS)
    for start in range(0, SIZE, 1000):
        assert await loop.sendfile(transport, file, start, 1000) == len(part(start, 1000))
    assert await peer.read(SIZE) == CONTENTS


WRONG = [
    ((0, 0), ValueError, "count must be a positive integer"),
    ((0, -1), ValueError, "count must be a positive integer"),
    ((0, 1.5), TypeError, "count must be a positive integer"),
    ((-1, 1), ValueError, "offset must be a non-negative integer"),
    ((0.5, 1), TypeError, "offset must be a non-negative integer"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
async def test_wrong_ranges_of_sockets(loop, make_file, arguments, error, message):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs, pytest.raises(error, match=message):
        await loop.sock_sendfile(ours, make_file(CONTENTS), *arguments)


async def test_text_files_are_refused(loop, tmp_path):
    path = tmp_path / "text"
    path.write_text("text")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs, path.open() as file:
        with pytest.raises(ValueError, match="binary mode"):
            await loop.sock_sendfile(ours, file)


async def test_no_fallback(loop, connect):
    transport, peer = await connect()
    with pytest.raises(asyncio.SendfileNotAvailableError):
        await loop.sendfile(transport, io.BytesIO(CONTENTS), fallback=False)
    transport.write(b"usable")
    assert await peer.read(6) == b"usable"


async def test_file_that_is_closed(loop, connect, tmp_path):
    transport, peer = await connect()
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    file = path.open("rb")
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        await loop.sendfile(transport, file)
    transport.write(b"usable")
    assert await peer.read(6) == b"usable"


async def test_pipe_as_file(loop, connect):
    """A pipe has no size: nothing is sent, as in asyncio."""
    transport, _ = await connect()
    reading, writing = os.pipe()
    os.write(writing, b"data")
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert await loop.sendfile(transport, file) == 0


async def test_to_a_datagram_transport(loop, make_file):
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    with pytest.raises(RuntimeError, match="sendfile is not supported for transport"):
        await loop.sendfile(transport, make_file(CONTENTS))
    transport.abort()
    await asyncio.sleep(0)


async def test_over_tls(loop, make_file):
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client_context)
    received = Recorder()
    server = await loop.create_server(lambda: received, "127.0.0.1", 0, ssl=server_context)
    transport, protocol = await loop.create_connection(
        Recorder,
        *server.sockets[0].getsockname(),
        ssl=client_context,
        server_hostname="localhost",
    )
    transport.write(b"<")
    assert await loop.sendfile(transport, make_file(CONTENTS), 3, 4000) == 4000
    transport.write(b">")
    deadline = loop.time() + 60
    while len(received.data) < 4002:
        assert loop.time() < deadline
        await asyncio.sleep(0)
    assert bytes(received.data) == b"<" + part(3, 4000) + b">"
    transport.close()
    server.close()
    while not (protocol.lost and received.lost):
        assert loop.time() < deadline
        await asyncio.sleep(0)
