"""The socket of a transport is closed by somebody else, and its number belongs to another file."""

import errno
import socket
import sys

import pytest

from tests.support.streams import MIB, Collecting, Recorder, others_done

WRITES = {
    "write": lambda transport: transport.write(b"secret"),
    "writelines": lambda transport: transport.writelines([b"sec", b"ret"]),
    "write much": lambda transport: transport.write(b"s" * MIB),
}


@pytest.fixture
def handed(loop, opened, make_pair):
    """``transport, sock, peer = await handed(protocol)``, with the socket that was handed over."""

    async def handed(protocol):
        ours, theirs = make_pair()
        ours.setblocking(False)
        theirs.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, ours)
        return transport, ours, theirs

    return handed


def nothing_came(sock):
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    return True


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_writing(handed, next_owner, eventually, write):
    """It fails as it does for a closed socket, and nothing reaches another connection."""
    protocol = Recorder()
    transport, sock, peer = await handed(protocol)
    with peer:
        fd = sock.fileno()
        sock.close()
        _, other = next_owner(fd)
        write(transport)
        await eventually(lambda: protocol.lost)
        assert protocol.lost_exception.errno == errno.EBADF
        assert nothing_came(other)


async def test_writing_without_a_next_owner(handed, eventually):
    protocol = Recorder()
    transport, sock, peer = await handed(protocol)
    with peer, sock:
        pass
    transport.write(b"too late")
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception.errno == errno.EBADF


async def test_subclass_of_socket(loop, make_pair, next_owner, eventually):
    class Own(socket.socket):
        pass

    ours, theirs = make_pair()
    protocol = Recorder()
    with theirs, Own(ours.family, ours.type, ours.proto, fileno=ours.detach()) as sock:
        sock.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
        transport.write(b"open")
        await eventually(lambda: not transport.get_write_buffer_size())
        assert theirs.recv(10) == b"open"
        fd = sock.fileno()
        sock.close()
        _, other = next_owner(fd)
        transport.write(b"secret")
        await eventually(lambda: protocol.lost)
        assert protocol.lost_exception.errno == errno.EBADF
        assert nothing_came(other)


async def test_ending(handed, next_owner, eventually):
    """The next owner's connection goes on."""
    protocol = Recorder()
    transport, sock, peer = await handed(protocol)
    with peer:
        fd = sock.fileno()
        sock.close()
        owner, other = next_owner(fd)
        try:
            transport.write_eof()
        except OSError as error:
            assert error.errno == errno.EBADF
        assert nothing_came(other)
        transport.close()
        await eventually(lambda: protocol.lost)
        assert protocol.lost_exception is None
        assert nothing_came(other)
        owner.send(b"goes on")
        assert other.recv(10) == b"goes on"


@pytest.mark.skipif(sys.platform != "linux", reason="kqueue drops closed descriptors")
async def test_reading_what_a_duplicate_keeps_open(handed, next_owner, eventually):
    """The system goes on telling of the file, whatever has its number now."""
    protocol = Recorder()
    _, sock, peer = await handed(protocol)
    with peer, sock.dup():
        fd = sock.fileno()
        sock.close()
        owner, other = next_owner(fd)
        owner.setblocking(False)
        other.send(b"for the owner")
        peer.send(b"for the transport")
        await eventually(lambda: protocol.lost)
        assert protocol.lost_exception.errno == errno.EBADF
        assert protocol.data == b""
        assert owner.recv(100) == b"for the owner"


@pytest.mark.improves_on_asyncio  # its selector fails, and connection_lost() is not called
@pytest.mark.skipif(sys.platform != "linux", reason="kqueue drops closed descriptors")
async def test_writes_that_wait_while_a_duplicate_is_open(handed, next_owner, eventually):
    protocol = Recorder()
    transport, sock, peer = await handed(protocol)
    with peer, sock.dup():
        transport.write(b"s" * 8 * MIB)
        assert transport.get_write_buffer_size()
        fd = sock.fileno()
        sock.close()
        _, other = next_owner(fd)

        def lost():
            try:
                peer.recv(MIB)
            except BlockingIOError:
                pass
            return protocol.lost

        await eventually(lost)
        assert protocol.lost_exception.errno == errno.EBADF
        assert nothing_came(other)


@pytest.mark.improves_on_asyncio
async def test_transport_of_the_next_owner(loop, handed, next_owner, eventually):
    """asyncio refuses it: the number is that of a transport that has not ended."""
    first, second = Recorder(), Recorder()
    old, sock, peer = await handed(first)
    with peer:
        fd = sock.fileno()
        sock.close()
        owner, other = next_owner(fd)
        owner.setblocking(False)
        new, _ = await loop.connect_accepted_socket(lambda: second, owner)
        old.write(b"secret")
        await eventually(lambda: first.lost)
        assert first.lost_exception.errno == errno.EBADF
        other.send(b"question")
        await eventually(lambda: second.data == b"question")
        new.write(b"answer")
        await eventually(lambda: not new.get_write_buffer_size())
        assert other.recv(100) == b"answer"
        new.abort()
        await eventually(lambda: second.lost)


async def test_addresses(handed, eventually):
    protocol = Recorder()
    transport, sock, peer = await handed(protocol)
    with peer:
        names = sock.getsockname(), sock.getpeername()
        sock.close()
        assert transport.get_extra_info("sockname") == names[0]
        assert transport.get_extra_info("peername") == names[1]
        transport.abort()
        await eventually(lambda: protocol.lost)


@pytest.mark.improves_on_asyncio  # which accepts all that wait before it makes a protocol
async def test_listener(loop, next_owner, eventually):
    """Nothing more is accepted, and nothing from the next owner of the number."""
    errors = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    listener = socket.create_server(("127.0.0.1", 0))
    stranger = socket.create_server(("127.0.0.1", 0))
    address, foreign = listener.getsockname(), stranger.getsockname()
    stranger.setblocking(False)
    factory = Collecting()

    def close_and_make():
        fd = listener.fileno()
        if fd >= 0:
            listener.close()
            next_owner(fd, stranger)
        return factory()

    clients = [socket.create_connection(address) for _ in range(3)]
    clients.append(socket.create_connection(foreign))
    await loop.create_server(close_and_make, sock=listener)
    await eventually(lambda: errors)
    await others_done()
    assert errors[0]["exception"].errno == errno.EBADF
    assert len(factory.made) <= 3
    names = {made.transport.get_extra_info("sockname") for made in factory.made if made.transport}
    assert foreign not in names
    for sock in clients:
        sock.close()
    await eventually(lambda: all(made.lost for made in factory.made if made.transport))
