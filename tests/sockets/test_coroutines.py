"""What the sock_* methods return behaves as a coroutine, however it is awaited."""

import asyncio
import collections.abc
import gc
import inspect
import socket
import warnings
import weakref

import pytest

CALLS = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 10),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(10)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 10),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(10)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"x"),
    "sock_sendto": lambda loop, sock: loop.sock_sendto(sock, b"x", ("127.0.0.1", 9)),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, ("127.0.0.1", 9)),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
}
every_method = pytest.mark.parametrize("method", CALLS)


@every_method
async def test_is_a_coroutine(loop, unix_pair, method):
    coroutine = CALLS[method](loop, unix_pair[0])
    try:
        assert asyncio.iscoroutine(coroutine)
        assert inspect.isawaitable(coroutine)
        assert isinstance(coroutine, collections.abc.Coroutine)
        assert coroutine.__name__ == method
        assert coroutine.__qualname__.endswith(f".{method}")
    finally:
        coroutine.close()


@every_method
async def test_signature_is_that_of_asyncio(loop, method):
    ours = inspect.signature(getattr(loop, method))
    theirs = inspect.signature(getattr(asyncio.SelectorEventLoop, method).__get__(loop))
    shown = [(it.name, it.kind, it.default) for it in ours.parameters.values()]
    assert shown == [(it.name, it.kind, it.default) for it in theirs.parameters.values()]


@every_method
async def test_warns_when_it_is_never_awaited(loop, unix_pair, method):
    with pytest.warns(RuntimeWarning, match=f"{method}' was never awaited"):
        CALLS[method](loop, unix_pair[0])
        gc.collect()


async def test_does_not_warn_when_closed(loop, unix_pair):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        loop.sock_recv(unix_pair[0], 10).close()
        gc.collect()
    assert seen == []


async def test_runs_only_when_awaited(loop, unix_pair):
    ours, theirs = unix_pair
    sending = loop.sock_sendall(ours, b"now")
    with pytest.raises(BlockingIOError):
        theirs.recv(10)
    await sending
    assert theirs.recv(10) == b"now"


@pytest.mark.parametrize("wait_first", [False, True], ids=["there", "comes"])
async def test_every_way_to_await(loop, pair, wait_first):
    ours, theirs = pair

    async def receive(awaited):
        if wait_first:
            loop.call_soon(theirs.send, b"data")
        else:
            theirs.send(b"data")
        return await awaited(loop.sock_recv(ours, 10))

    async def plainly(coroutine):
        return await coroutine

    async def gathered(coroutine):
        return (await asyncio.gather(coroutine))[0]

    async def grouped(coroutine):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(coroutine)
        return task.result()

    for awaited in (
        plainly,
        gathered,
        grouped,
        loop.create_task,
        asyncio.ensure_future,
        asyncio.shield,
        lambda coroutine: asyncio.wait_for(coroutine, 60),
    ):
        assert await receive(awaited) == b"data"


async def test_cannot_be_awaited_twice(loop, unix_pair):
    ours, theirs = unix_pair
    theirs.send(b"data")
    coroutine = loop.sock_recv(ours, 10)
    assert await coroutine == b"data"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await coroutine


async def test_cannot_be_awaited_by_two(loop, unix_pair):
    ours, theirs = unix_pair
    coroutine = loop.sock_recv(ours, 10)
    first = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="being awaited already"):
        await coroutine
    theirs.send(b"data")
    assert await first == b"data"


@pytest.mark.parametrize(
    "call",
    [
        lambda loop, sock: loop.sock_recv(),
        lambda loop, sock: loop.sock_recv(sock),
        lambda loop, sock: loop.sock_recv(sock, 1, 2),
        lambda loop, sock: loop.sock_recv(sock, 1, other=2),
        lambda loop, sock: loop.sock_recv(sock, sock=sock),
        lambda loop, sock: loop.sock_accept(),
        lambda loop, sock: loop.sock_sendto(sock, b""),
    ],
)
async def test_a_wrong_number_of_arguments_raises_at_the_call(loop, unix_pair, call):
    with pytest.raises(TypeError):
        call(loop, unix_pair[0])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda loop, sock: loop.sock_recv(sock, "ten"), TypeError),
        (lambda loop, sock: loop.sock_recv(sock, -1), ValueError),
        (lambda loop, sock: loop.sock_recv(sock, 1 << 80), OverflowError),
        (lambda loop, sock: loop.sock_recv_into(sock, b"constant"), TypeError),
        (lambda loop, sock: loop.sock_recv_into(sock, 5), TypeError),
        (lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(2), 5), ValueError),
        (lambda loop, sock: loop.sock_sendall(sock, "text"), TypeError),
        (lambda loop, sock: loop.sock_sendall(sock, None), TypeError),
        (lambda loop, sock: loop.sock_sendto(sock, "text", "address"), TypeError),
        (lambda loop, sock: loop.sock_recv("no socket", 10), AttributeError),
        (lambda loop, sock: loop.sock_accept(sock), OSError),
    ],
)
async def test_wrong_arguments_raise_when_awaited(loop, unix_pair, call, error):
    coroutine = call(loop, unix_pair[0])
    with pytest.raises(error):
        await coroutine


async def test_arguments_by_name(loop, datagrams):
    ours, theirs = datagrams
    buffer = bytearray(10)
    assert await loop.sock_sendto(sock=theirs, data=b"one", address=ours.getsockname()) == 3
    assert await loop.sock_recvfrom(sock=ours, bufsize=10) == (b"one", theirs.getsockname())
    await loop.sock_connect(sock=theirs, address=ours.getsockname())
    await loop.sock_sendall(sock=theirs, data=b"two")
    assert await loop.sock_recv_into(sock=ours, buf=buffer) == 3
    await loop.sock_sendall(theirs, data=b"three")
    assert await loop.sock_recvfrom_into(sock=ours, buf=buffer, nbytes=0) == (
        5,
        theirs.getsockname(),
    )
    assert buffer[:5] == b"three"


@pytest.fixture
def datagrams(sockets):
    for _ in range(2):
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sockets.append(sock)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    return sockets[-2:]


async def test_a_dropped_wait_leaves_nothing(loop, unix_pair):
    """The coroutine of a task that nobody holds is collected, and its socket with it."""

    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)
    coroutine = loop.sock_recv(unix_pair[0], 10)

    async def wait(held):
        await coroutine

    waiting = wait(held)
    waiting.send(None)
    assert coroutine.cr_await is not None
    waiting = coroutine = held = wait = None
    gc.collect()
    assert gone() is None


async def test_cycles_are_collected(loop, unix_pair):
    class Buffer(bytearray):
        pass

    buffer = Buffer(10)
    buffer.coroutine = loop.sock_recv_into(unix_pair[0], buffer)
    buffer.coroutine.send(None)
    gone = weakref.ref(buffer)
    del buffer
    gc.collect()
    assert gone() is None


async def test_cancelled_waits_do_not_pile_up(loop, unix_pair):
    """Reading with a timeout for hours must not leave a future per timeout behind."""
    futures = []
    for _ in range(50):
        coroutine = loop.sock_recv(unix_pair[0], 10)
        future = coroutine.send(None)
        futures.append(weakref.ref(future))
        del future
        coroutine.close()
    assert [future() for future in futures] == [None] * 50
