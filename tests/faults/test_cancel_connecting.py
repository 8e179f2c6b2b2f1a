"""Cancelling what makes connections, servers and endpoints, at every await."""

import asyncio
import socket
import ssl

import pytest
import trustme

from tests.support.streams import Recorder, tcp_pair

from .cancel_walk import compare


@pytest.fixture(scope="session")
def contexts():
    """A client's and a server's TLS context."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return client, server


def listener(walk, family=socket.AF_INET):
    sock = socket.socket(family)
    walk.closing(sock)
    sock.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(walk.tmp_path / "listener"))
    sock.listen()
    sock.setblocking(False)
    return sock


def abort(outcome):
    if outcome.succeeded:
        outcome.value[0].abort()


async def create_connection(walk):
    sock = listener(walk)
    abort(await walk.attempt(walk.loop.create_connection(Recorder, *sock.getsockname())))


async def create_connection_by_name(walk):
    port = listener(walk).getsockname()[1]
    coroutine = walk.loop.create_connection(
        Recorder, "localhost", port, family=socket.AF_INET, local_addr=("127.0.0.1", 0)
    )
    abort(await walk.attempt(coroutine))


async def create_connection_with_happy_eyeballs(walk):
    port = listener(walk).getsockname()[1]
    coroutine = walk.loop.create_connection(
        Recorder, "localhost", port, happy_eyeballs_delay=0.001, interleave=1
    )
    abort(await walk.attempt(coroutine))


async def create_connection_refused(walk):
    # Nobody else gets the port, and it does not listen.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
        outcome = await walk.attempt(walk.loop.create_connection(Recorder, *address))
    assert not outcome.succeeded


async def create_connection_with_socket(walk):
    ours, theirs = tcp_pair()
    walk.closing(theirs)
    ours.setblocking(False)
    fd = ours.fileno()
    outcome = await walk.attempt(walk.loop.create_connection(Recorder, sock=ours))
    abort(outcome)
    # The transport owns the socket from the start, also if nobody ever sees the transport.
    await walk.until(lambda: ours.fileno() == -1)
    # The number may go to somebody else now, and stays theirs.
    others = [walk.closing(socket.socket()) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert fd not in [other.fileno() for other in others] or all(
        other.getsockname() == ("0.0.0.0", 0) for other in others
    )


async def create_unix_connection(walk):
    sock = listener(walk, socket.AF_UNIX)
    path = sock.getsockname()
    walk.stack.callback(lambda: (walk.tmp_path / "listener").unlink())
    abort(await walk.attempt(walk.loop.create_unix_connection(Recorder, path)))


async def create_tls_connection(walk):
    client, server = walk.contexts
    serving = await walk.loop.create_server(Recorder, "127.0.0.1", 0, ssl=server)
    address = serving.sockets[0].getsockname()
    outcome = await walk.attempt(
        walk.loop.create_connection(Recorder, *address, ssl=client, server_hostname="localhost")
    )
    abort(outcome)
    serving.close()


async def start_tls(walk):
    client, server = walk.contexts
    serving = await walk.loop.create_server(Recorder, "127.0.0.1", 0, ssl=server)
    address = serving.sockets[0].getsockname()
    plain, protocol = await walk.loop.create_connection(Recorder, *address)
    outcome = await walk.attempt(
        walk.loop.start_tls(plain, protocol, client, server_hostname="localhost")
    )
    if outcome.succeeded:
        outcome.value.abort()
    plain.abort()
    serving.close()


async def connect_accepted_socket(walk):
    ours, theirs = tcp_pair()
    walk.closing(theirs)
    abort(await walk.attempt(walk.loop.connect_accepted_socket(Recorder, ours)))
    await walk.until(lambda: ours.fileno() == -1)


async def create_server(walk):
    outcome = await walk.attempt(walk.loop.create_server(Recorder, "127.0.0.1", 0))
    if outcome.succeeded:
        outcome.value.close()


async def create_server_by_name(walk):
    outcome = await walk.attempt(
        walk.loop.create_server(Recorder, "localhost", 0, family=socket.AF_INET)
    )
    if outcome.succeeded:
        outcome.value.close()


async def create_unix_server(walk):
    path = walk.tmp_path / "server"
    outcome = await walk.attempt(walk.loop.create_unix_server(Recorder, str(path)))
    if outcome.succeeded:
        outcome.value.close()
    path.unlink(missing_ok=True)


async def serve_forever(walk):
    server = await walk.loop.create_server(Recorder, "127.0.0.1", 0, start_serving=False)
    walk.loop.call_later(0.002, server.close)
    await walk.attempt(server.serve_forever())
    assert not server.is_serving()


async def wait_closed(walk):
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = await walk.loop.create_server(factory, "127.0.0.1", 0)
    peer = walk.closing(socket.create_connection(server.sockets[0].getsockname()))
    await walk.until(lambda: protocols and protocols[0].transport)
    server.close()
    walk.loop.call_soon(protocols[0].transport.abort)
    await walk.attempt(server.wait_closed())
    await walk.until(lambda: protocols[0].lost)
    assert peer.fileno() != -1


async def create_datagram_endpoint(walk):
    abort(
        await walk.attempt(
            walk.loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            )
        )
    )


async def create_connected_datagram_endpoint(walk):
    peer = walk.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.bind(("127.0.0.1", 0))
    coroutine = walk.loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=peer.getsockname()
    )
    abort(await walk.attempt(coroutine))


OPERATIONS = [
    create_connection,
    create_connection_by_name,
    create_connection_with_happy_eyeballs,
    create_connection_refused,
    create_connection_with_socket,
    create_unix_connection,
    create_tls_connection,
    start_tls,
    connect_accepted_socket,
    create_server,
    create_server_by_name,
    create_unix_server,
    serve_forever,
    wait_closed,
    create_datagram_endpoint,
    create_connected_datagram_endpoint,
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_cancelled_at_every_await(loop_factory, tmp_path, contexts, operation):
    async def with_contexts(run):
        run.contexts = contexts
        await operation(run)

    with_contexts.__name__ = operation.__name__
    compare(loop_factory, with_contexts, tmp_path)
