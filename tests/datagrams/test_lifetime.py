"""Who keeps a datagram transport alive, and what is left of it."""

import asyncio
import errno
import gc
import os
import resource
import socket
import warnings
import weakref

import pytest

from tests.support.datagrams import Recorder, fill, plain_socket
from tests.support.waiting import iterations_of_a_rest


def test_the_loop_keeps_a_reading_transport(loop, opened, run_until):
    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
    )
    address = transport.get_extra_info("sockname")
    watch = weakref.ref(transport)
    protocol.transport = None
    protocol.calls.clear()
    del transport
    gc.collect()
    assert watch() is not None
    with plain_socket() as peer:
        peer.sendto(b"x", address)
        run_until(lambda: protocol.received)
    opened.append(watch())


async def test_closed_transports_are_freed(loop, eventually):
    transport, protocol = await loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
    watches = [weakref.ref(transport), weakref.ref(protocol)]
    transport.close()
    await eventually(lambda: protocol.lost)
    transport = protocol = None
    gc.collect()
    assert [watch() for watch in watches] == [None, None]


def test_unclosed_transport_warns(loop_factory):
    loop = loop_factory()
    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
    )
    watch = weakref.ref(transport)
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport, protocol
        loop = None
        gc.collect()
    # Some may be of the socket itself: the collector ends cycles in any order.
    assert any("unclosed transport" in str(warning.message) for warning in caught)
    # A recorded warning holds its source.
    caught.clear()
    gc.collect()
    assert watch() is None


@pytest.mark.improves_on_asyncio
def test_closing_after_the_loop(loop_factory):
    """The descriptor does not stay open for a callback that cannot run any more."""
    loop = loop_factory()
    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
    )
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    assert transport.get_extra_info("socket").fileno() == -1


async def test_a_cycle_with_its_queue(connected, eventually):
    transport, protocol, theirs = await connected()
    fill(transport)
    protocol.itself = protocol
    transport.abort()
    await eventually(lambda: protocol.lost)
    assert theirs.fileno() != -1


async def test_a_copy_of_the_descriptor_does_not_matter(loop, open_endpoint, eventually):
    """A child process may have the socket open when the transport is long closed."""
    transport, protocol = await open_endpoint()
    with transport.get_extra_info("socket").dup() as copy:
        transport.close()
        await eventually(lambda: protocol.lost)
        with plain_socket() as peer:
            peer.sendto(b"x", copy.getsockname())
        # A level that is still registered would keep the loop busy all the time.
        assert await iterations_of_a_rest(loop) < 20
        assert copy.recv(10) == b"x"
    assert protocol.received == []


async def test_descriptor_numbers_are_used_again(loop, eventually):
    numbers = set()
    for _ in range(50):
        transport, protocol = await loop.create_datagram_endpoint(
            Recorder, local_addr=("127.0.0.1", 0)
        )
        numbers.add(transport.get_extra_info("socket").fileno())
        with plain_socket() as peer:
            peer.sendto(b"x", transport.get_extra_info("sockname"))
            await eventually(lambda: protocol.received)  # noqa: B023
        transport.close()
        await eventually(lambda: protocol.lost)  # noqa: B023
    assert len(numbers) < 5


async def test_out_of_descriptors(loop):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wasted = []
    gc.collect()  # no garbage gives descriptors back meanwhile
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        with pytest.raises(OSError) as caught:
            while True:
                wasted.append(os.dup(0))
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(OSError) as caught:
            await loop.create_datagram_endpoint(
                Recorder, family=socket.AF_INET, local_addr=("127.0.0.1", 0)
            )
        assert caught.value.errno == errno.EMFILE
    finally:
        for fd in wasted:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    transport, protocol = await loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
    transport.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert protocol.lost


async def test_connection_lost_that_raises(loop, unhandled, eventually):
    class Broken(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    transport, protocol = await loop.create_datagram_endpoint(Broken, local_addr=("127.0.0.1", 0))
    sock = transport.get_extra_info("socket")
    transport.close()
    await eventually(lambda: protocol.lost and sock.fileno() == -1)
    assert [type(context["exception"]) for context in unhandled] == [ZeroDivisionError]


async def test_addresses_are_known_after_the_end(open_endpoint, eventually):
    transport, protocol = await open_endpoint()
    address = transport.get_extra_info("sockname")
    transport.close()
    await eventually(lambda: protocol.lost)
    assert transport.get_extra_info("sockname") == address
    assert transport.get_extra_info("socket").fileno() == -1
    assert transport.is_closing()
    transport.close()
    transport.abort()
    transport.pause_reading()
    transport.resume_reading()
    assert transport.get_write_buffer_size() == 0


def test_many_endpoints(loop, run_until):
    """No memory is left behind by endpoints that have come and gone."""
    import tracemalloc

    async def come_and_go(count):
        for _ in range(count):
            transport, protocol = await loop.create_datagram_endpoint(
                Recorder, remote_addr=("127.0.0.1", 9)
            )
            transport.sendto(b"x" * 100)
            transport.close()
            while not protocol.lost:
                await asyncio.sleep(0)

    loop.run_until_complete(come_and_go(50))
    gc.collect()
    tracemalloc.start()
    try:
        loop.run_until_complete(come_and_go(20))
        gc.collect()
        growths = []
        # What is left behind grows each time, what a table or a cache takes does not.
        while not growths or growths[-1] > 3_000:
            assert len(growths) < 30, growths
            before = tracemalloc.get_traced_memory()[0]
            loop.run_until_complete(come_and_go(100))
            gc.collect()
            growths.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()


@pytest.mark.improves_on_asyncio
def test_a_forked_child_does_not_disturb_its_parent(run_script):
    run_script(
        """
        import socket
        async def main():
            loop = asyncio.get_running_loop()
            got = []
            class Protocol(asyncio.DatagramProtocol):
                def datagram_received(self, data, addr):
                    got.append(data)
            transport, _ = await loop.create_datagram_endpoint(
                Protocol, local_addr=("127.0.0.1", 0))
            pid = os.fork()
            if pid == 0:
                try:
                    transport.abort()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.sendto(b"x", transport.get_extra_info("sockname"))
            deadline = loop.time() + 60
            while not got:
                assert loop.time() < deadline, "the parent receives nothing"
                await asyncio.sleep(0.001)
            transport.close()
        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """
    )
