"""The socket below TLS is closed by somebody else."""

import asyncio
import errno

import pytest

from tests.support.streams import Recorder, tcp_pair


async def test_records_do_not_reach_the_next_owner(
    loop, server_context, client_context, next_owner, eventually
):
    ours, theirs = tcp_pair()
    server, client = Recorder(), Recorder()
    ours.setblocking(False)
    theirs.setblocking(False)
    (transport, _), (other_end, _) = await asyncio.gather(
        loop.connect_accepted_socket(lambda: server, ours, ssl=server_context),
        loop.create_connection(
            lambda: client, sock=theirs, ssl=client_context, server_hostname="localhost"
        ),
    )
    fd = ours.fileno()
    ours.close()
    _, other = next_owner(fd)
    transport.write(b"secret")
    await eventually(lambda: server.lost)
    assert server.lost_exception.errno == errno.EBADF
    with pytest.raises(BlockingIOError):
        other.recv(1)
    other_end.abort()
    await eventually(lambda: client.lost)
