"""The coroutine objects of readers and writers.

A private attribute of readers shows when they wait.
"""

import asyncio
import gc
import sys
import weakref

import pytest

import hybridloop


@pytest.fixture
def reader(loop):
    return hybridloop.StreamReader(loop=loop)


async def test_results_of_every_kind_reach_await(reader):
    # Empty ones too: not to be taken for no result.
    reader.feed_data(b"abc\n")
    assert await reader.read(0) == b""
    assert await reader.read(1) == b"a"
    assert await reader.readline() == b"bc\n"
    reader.feed_eof()
    assert await reader.read() == b""


async def test_a_result_is_kept_by_nobody_else(reader):
    for size in (100, 1000, 100_000):
        reader.feed_data(b"x" * size)
        data = await reader.readexactly(size)
        fresh = bytes(bytearray(size))
        assert sys.getrefcount(data) == sys.getrefcount(fresh)


@pytest.mark.parametrize("keep", [0, 1, 5, 50])
async def test_a_result_that_is_kept_does_not_change(reader, keep):
    kept = {}
    for number in range(200):
        size = (1000, 1000, 1000, 700)[number % 4]
        reader.feed_data(number.to_bytes(2, "big") * (size // 2))
        data = await reader.readexactly(size)
        assert hash(data) == hash(bytes(bytearray(data)))
        kept[number] = data, memoryview(data)
        kept.pop(number - keep, None)
        del data
        for older, (whole, view) in kept.items():
            assert whole == older.to_bytes(2, "big") * (len(whole) // 2)
            assert view == whole


def test_driven_by_hand(reader):
    reader.feed_data(b"one\ntwo\n")
    call = reader.readline()
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        call.send(1)
    with pytest.raises(StopIteration) as first:
        call.send(None)
    assert first.value.value == b"one\n"
    assert first.value.args == (b"one\n",)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        call.send(None)
    with pytest.raises(StopIteration) as second:
        next(reader.readline().__await__())
    assert second.value.value == b"two\n"
    assert first.value.value == b"one\n"


def test_kept_exceptions_keep_their_value(reader):
    kept = []
    for number in range(5):
        reader.feed_data(b"%d" % number)
        try:
            next(reader.read(1).__await__())
        except StopIteration as stop:
            kept.append(stop)
    assert [stop.value for stop in kept] == [b"0", b"1", b"2", b"3", b"4"]


def test_close_before_and_while_it_waits(reader):
    call = reader.readline()
    call.close()
    call.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        call.send(None)
    call = reader.readline()
    future = call.send(None)
    assert call.cr_await is future
    assert not call.cr_running
    assert reader._waiter is future
    call.close()
    assert reader._waiter is None


@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature of throw")
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((LookupError,), ""),
        ((LookupError, "text"), "text"),
        ((LookupError, LookupError("text")), "text"),
        ((LookupError("text"),), "text"),
        ((LookupError, None, None), ""),
    ],
)
def test_throw(reader, started, args, text):
    call = reader.readline()
    if started:
        call.send(None)
    with pytest.raises(LookupError) as caught:
        call.throw(*args)
    assert str(caught.value) == text
    assert reader._waiter is None
    with pytest.raises(RuntimeError, match="cannot reuse"):
        call.send(None)


@pytest.mark.parametrize("wrong", [1, "text", int, None])
def test_what_cannot_be_thrown(reader, wrong):
    call = reader.readline()
    with pytest.raises(TypeError):
        call.throw(wrong)
    call.close()


async def test_awaited_by_two_tasks(reader):
    call = reader.readline()
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
        await call
    reader.feed_data(b"line\n")
    assert await task == b"line\n"


async def test_resumed_before_its_time(reader):
    call = reader.readline()
    call.send(None)
    call.send(None)
    reader.feed_data(b"line\n")
    with pytest.raises(StopIteration):
        call.send(None)


async def test_dropped_while_it_waits(reader):
    call = reader.readline()
    call.send(None)
    gone = weakref.ref(call)
    del call
    assert gone() is None
    assert reader._waiter is None
    reader.feed_data(b"line\n")
    assert await reader.readline() == b"line\n"


def test_never_awaited(reader):
    with pytest.warns(
        RuntimeWarning, match=r"^coroutine 'StreamReader\.readline' was never awaited$"
    ):
        reader.readline()


async def test_many_at_a_time(loop):
    readers = [hybridloop.StreamReader(loop=loop) for _ in range(500)]
    tasks = [asyncio.ensure_future(reader.readline()) for reader in readers]
    await asyncio.sleep(0)
    for number, reader in enumerate(readers):
        reader.feed_data(b"%d\n" % number)
    assert await asyncio.gather(*tasks) == [b"%d\n" % number for number in range(500)]
    gc.collect()


async def test_tracing_sees_no_more_than_before(reader):
    events = []
    reader.feed_data(b"data")
    sys.settrace(lambda *event: events.append(event))
    try:
        assert await reader.read(2) == b"da"
    finally:
        sys.settrace(None)
    assert await reader.read(2) == b"ta"


async def test_the_python_task(reader):
    task = asyncio.tasks._PyTask(reader.readline(), loop=asyncio.get_running_loop())
    await asyncio.sleep(0)
    reader.feed_data(b"line\n")
    assert await task == b"line\n"
    task = asyncio.tasks._PyTask(reader.readline(), loop=asyncio.get_running_loop())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reader._waiter is None
