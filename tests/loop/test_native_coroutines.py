"""Native coroutines behave like those of Python, for everything that drives or inspects them.

Their types are in the private module `_core`.
"""

import asyncio
import collections.abc
import gc
import inspect
import io
import random
import socket
import sys
import types
import warnings
import weakref

import pytest

import hybridloop
from hybridloop._core import NativeEngine

CALLS = {
    "Loop.sock_recv": lambda loop, sock: loop.sock_recv(sock, 10),
    "StreamReader.read": lambda loop, sock: hybridloop.StreamReader(loop=loop).read(10),
    "StreamReader.readline": lambda loop, sock: hybridloop.StreamReader(loop=loop).readline(),
}
every_call = pytest.mark.parametrize("name", CALLS)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture
def engine():
    engine = NativeEngine(native_threads=1)
    yield engine
    assert engine.close(10.0) == []


@pytest.fixture
def job(engine):
    """Makes native jobs that last until they are cancelled."""
    jobs = []

    def make():
        jobs.append(engine.run_native("hl.sleep", 60.0))
        return jobs[-1]

    yield make
    for job in jobs:
        job.cancel()


def shown(coroutine):
    """The state of a coroutine, from its attributes."""
    return (
        inspect.getcoroutinestate(coroutine),
        coroutine.cr_running,
        coroutine.cr_suspended,
        coroutine.cr_frame is None,
        coroutine.cr_await is None,
        coroutine.cr_code.co_qualname == coroutine.__qualname__,
        coroutine.cr_origin,
    )


CREATED = ("CORO_CREATED", False, False, False, True, True, None)
RUNNING = ("CORO_RUNNING", True, False, False, True, True, None)
SUSPENDED = ("CORO_SUSPENDED", False, True, False, False, True, None)
CLOSED = ("CORO_CLOSED", False, False, True, True, True, None)


@every_call
async def test_state(loop, pair, name):
    call = CALLS[name](loop, pair[0])
    assert call.__qualname__ == name
    assert shown(call) == CREATED
    future = call.send(None)
    assert shown(call) == SUSPENDED
    assert call.cr_await is future
    call.close()
    assert shown(call) == CLOSED


async def test_state_while_it_runs(loop):
    seen = []

    class Socket:
        def gettimeout(self):
            return 0

        def recv(self, size):
            seen.append(shown(call))
            for use in (
                lambda: call.send(None),
                lambda: call.throw(LookupError),
                lambda: call.close(),
                lambda: next(call.__await__()),
            ):
                with pytest.raises(ValueError, match="coroutine already executing"):
                    use()
            return b"data"

    call = loop.sock_recv(Socket(), 10)
    assert await call == b"data"
    assert seen == [RUNNING]


@every_call
async def test_frame_and_code(loop, pair, name):
    call = CALLS[name](loop, pair[0])
    frame = call.cr_frame
    assert frame.f_back is None
    assert frame.f_code == call.cr_code
    assert frame.f_lineno == call.cr_code.co_firstlineno
    assert call.cr_code.co_name == call.__name__
    assert inspect.getcoroutinelocals(call) == {}
    call.close()
    assert frame.f_lineno == call.cr_code.co_firstlineno


@every_call
async def test_a_task_is_shown(loop, pair, name):
    task = asyncio.create_task(CALLS[name](loop, pair[0]))
    await asyncio.sleep(0)
    assert f"coro=<{name}() running at " in repr(task)
    assert [frame.f_code.co_qualname for frame in task.get_stack()] == [name]
    printed = io.StringIO()
    task.print_stack(file=printed)
    assert f"in {name.split('.')[1]}" in printed.getvalue()
    task.cancel()
    await asyncio.wait([task])
    assert f"coro=<{name}() done, defined at " in repr(task)
    assert task.get_stack() == []


@pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came with Python 3.14")
@every_call
async def test_call_graph(loop, pair, name):
    async def outer():
        await CALLS[name](loop, pair[0])

    task = asyncio.create_task(outer())
    assert "outer" in asyncio.format_call_graph(task)
    await asyncio.sleep(0)
    graph = asyncio.format_call_graph(task)
    assert name in graph
    assert "outer" in graph
    task.cancel()
    await asyncio.wait([task])
    assert name not in asyncio.format_call_graph(task)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came with Python 3.14")
async def test_call_graph_of_a_task_that_waits_for_a_job(loop, job):
    async def outer():
        await job()

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    assert "outer" in asyncio.format_call_graph(task)
    task.cancel()
    await asyncio.wait([task])


@every_call
async def test_kinds(loop, pair, name):
    async def theirs():
        pass

    for call in (CALLS[name](loop, pair[0]), theirs()):
        iterator = call.__await__()
        kinds = ("Awaitable", "Coroutine", "Iterable", "Iterator")
        is_kind = [isinstance(call, getattr(collections.abc, kind)) for kind in kinds]
        assert is_kind == [True, True, False, False]
        is_kind = [isinstance(iterator, getattr(collections.abc, kind)) for kind in kinds]
        assert is_kind == [False, False, True, True]
        assert iter(iterator) is iterator
        assert not hasattr(call, "__next__")
        assert not hasattr(call, "__iter__")
        with pytest.raises(TypeError, match="object is not iterable"):
            iter(call)
        iterator.close()


async def test_kinds_of_the_iterator_of_a_job(loop, job):
    future = loop.create_future()
    for iterator in (future.__await__(), job().__await__()):
        assert iter(iterator) is iterator
        assert isinstance(iterator, collections.abc.Iterator)
        assert not isinstance(iterator, collections.abc.Awaitable)
        assert next(iterator)._asyncio_future_blocking
        iterator.close()
        with pytest.raises(StopIteration) as end:
            next(iterator)
        assert end.value.value is None
        with pytest.raises(LookupError):
            iterator.throw(LookupError)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job().__await__()
        gc.collect()


@types.coroutine
def from_iterator(call):
    return (yield from call.__await__())


@types.coroutine
def from_coroutine(call):
    return (yield from call)


@pytest.mark.parametrize("form", [from_iterator, from_coroutine])
async def test_yield_from(loop, pair, form):
    """(T2.8)"""
    ours, theirs = pair
    theirs.send(b"there")
    assert await form(loop.sock_recv(ours, 10)) == b"there"
    loop.call_soon(theirs.send, b"comes")
    assert await form(loop.sock_recv(ours, 10)) == b"comes"
    task = asyncio.ensure_future(form(loop.sock_recv(ours, 10)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reader = hybridloop.StreamReader(loop=loop)
    loop.call_soon(reader.feed_data, b"line\n")
    assert await form(reader.readline()) == b"line\n"
    # What ends without waiting, and with None.
    assert await form(loop.sock_sendall(ours, b"x")) is None


async def test_yield_from_a_job(loop, engine):
    assert await from_iterator(engine.run_native("hl.sleep", 0.0)) is None


def test_a_plain_generator_cannot_yield_from_it(loop, pair):
    def generator():
        yield from call

    call = loop.sock_recv(pair[0], 10)
    with pytest.raises(TypeError):
        next(generator())
    call.close()


async def test_results_are_let_go(loop, pair):
    """A finished coroutine, and the exception that brought the result, hold nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with socket.create_connection(server.getsockname()) as client:
            call = loop.sock_accept(server)
            accepted, _ = await call
            gone = weakref.ref(accepted)
            with pytest.warns(ResourceWarning):
                del accepted
            assert gone() is None
            client.settimeout(60)
            assert client.recv(1) == b""
    assert shown(call) == CLOSED


@pytest.mark.parametrize("value", [b"data", None, (), (1, 2), LookupError("one"), StopIteration(1)])
@pytest.mark.parametrize("drive", ["send", "next"])
def test_the_exception_with_the_result(loop, value, drive):
    class Socket:
        def recv(self, size):
            return value

        def gettimeout(self):
            return 0

    async def python():
        return value

    ends = []
    for call in (loop.sock_recv(Socket(), 10), python()):
        with pytest.raises(StopIteration) as end:
            call.send(None) if drive == "send" else next(call.__await__())
        ends.append(end.value)
    ours, theirs = ends
    assert type(ours) is type(theirs)
    assert ours.args == theirs.args
    assert ours.value is theirs.value is value


async def test_the_collector_warns_of_one_that_never_ran(loop, pair):
    class Buffer(bytearray):
        pass

    buffer = Buffer(10)
    buffer.call = loop.sock_recv_into(pair[0], buffer)
    with pytest.warns(RuntimeWarning, match=r"sock_recv_into' was never awaited"):
        # The collector may come by itself from here on.
        del buffer
        gc.collect()


class Fussy(LookupError):
    def __init__(self):
        super().__init__("fussy")


class Impostor(LookupError):
    def __new__(cls, *args):
        return 1


def a_traceback():
    try:
        raise LookupError
    except LookupError as error:
        return error.__traceback__


THROWN = [
    (),
    (LookupError,),
    (LookupError("one"),),
    (LookupError, "text"),
    (LookupError, None),
    (LookupError, (1, 2)),
    (LookupError, KeyError("below")),
    (KeyError, LookupError("above")),
    (LookupError("one"), "separate"),
    (LookupError("one"), None, None),
    (LookupError, None, a_traceback()),
    (LookupError("one"), None, a_traceback()),
    (LookupError, None, "no traceback"),
    (LookupError, None, 1),
    (Fussy, "more"),
    (Fussy,),
    (Impostor,),
    (GeneratorExit,),
    (asyncio.CancelledError("enough"),),
    (1,),
    ("text",),
    (int,),
    (None,),
    (LookupError, 1, None, None),
]


class Driven:
    """A call of `readline()`, and what has come of it."""

    def __init__(self, reader):
        self.reader = reader
        self.call = reader.readline()
        self.future = None

    def may_go_on(self):
        return self.future is None or self.future.done()

    def do(self, name, *args):
        """Do one thing, and return what an observer sees."""
        was_suspended = self.call.cr_suspended
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value = getattr(self, name)(*args)
                result = "returned", asyncio.isfuture(value), None
                if asyncio.isfuture(value):
                    self.future = value
            except BaseException as error:
                depth = 0
                traceback = error.__traceback__
                while traceback is not None:
                    depth += traceback.tb_frame.f_code.co_name == "a_traceback"
                    traceback = traceback.tb_next
                # What refuses arguments below a suspended coroutine has words of its own.
                text = None if was_suspended and type(error) is TypeError else str(error)
                result = type(error), text, depth
        return *result, bool(caught), inspect.getcoroutinestate(self.call)

    def send(self, value):
        return self.call.send(value)

    def next(self):
        return next(self.call.__await__())

    def throw(self, *args):
        return self.call.throw(*args)

    def close(self):
        return self.call.close()

    def feed(self, data):
        self.reader.feed_data(data)


def steps(choose, driven):
    """One thing after another that can be done to a coroutine."""
    for _ in range(choose.randrange(1, 7)):
        step = choose.choice(["send", "send", "value", "next", "throw", "close", "feed", "feed"])
        # To go on before the future is done is a mistake that the native ones survive.
        if step in ("send", "next", "value") and not driven.may_go_on():
            continue
        match step:
            case "send":
                yield "send", None
            case "value":
                yield "send", 1
            case "throw":
                yield "throw", *choose.choice(THROWN)
            case "feed":
                yield "feed", choose.choice([b"part", b"line\n"])
            case _:
                yield (step,)


@pytest.mark.parametrize("seed", range(40))
async def test_driven_at_random_beside_python(loop, seed):
    choose = random.Random(seed)
    for _ in range(25):
        ours = Driven(hybridloop.StreamReader(loop=loop))
        theirs = Driven(asyncio.StreamReader(loop=loop))
        done = []
        for step in steps(choose, theirs):
            done.append(step)
            assert ours.do(*step) == theirs.do(*step), done
        ours.call.close()
        theirs.call.close()


STATES = ["created", "suspended", "closed"]


def bring_to(state, call):
    if state == "suspended":
        call.send(None)
    elif state == "closed":
        call.close()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("args", THROWN, ids=repr)
async def test_throw_beside_python(loop, state, args):
    seen = []
    for reader in (hybridloop.StreamReader(loop=loop), asyncio.StreamReader(loop=loop)):
        driven = Driven(reader)
        bring_to(state, driven.call)
        seen.append(
            [driven.do("throw", *args), driven.do("throw", LookupError), driven.do("close")]
        )
    assert seen[0] == seen[1]


@pytest.mark.parametrize("args", THROWN, ids=repr)
async def test_throw_beside_python_while_it_runs(loop, args):
    def throw(call):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                call.throw(*args)
            except BaseException as error:
                return type(error), str(error)

    class Socket:
        def gettimeout(self):
            return 0

        def recv(self, size):
            return throw(ours)

    async def python():
        return throw(theirs)

    ours = loop.sock_recv(Socket(), 10)
    theirs = python()
    assert await ours == await theirs


@pytest.mark.parametrize("state", STATES)
async def test_the_state_while_the_thrown_exception_is_made(loop, state):
    def seen_by_the_exception(call):
        seen = []

        class Thrown(LookupError):
            def __init__(self):
                seen.append(inspect.getcoroutinestate(call))
                for use in (call.close, lambda: call.send(None), lambda: call.throw(KeyError)):
                    try:
                        use()
                    except Exception as error:
                        seen.append(repr(error))

        bring_to(state, call)
        with pytest.raises((Thrown, RuntimeError)) as end:
            call.throw(Thrown)
        return [*seen, end.type.__name__, inspect.getcoroutinestate(call)]

    ours = seen_by_the_exception(hybridloop.StreamReader(loop=loop).readline())
    # CPython 3.11 crashes: a coroutine that has passed on an exception is not running there.
    if state == "suspended" and sys.version_info < (3, 12):
        executing = repr(ValueError("coroutine already executing"))
        assert ours == ["CORO_RUNNING", *[executing] * 3, "Thrown", "CORO_CLOSED"]
    else:
        assert ours == seen_by_the_exception(asyncio.StreamReader(loop=loop).readline())


async def test_a_stop_iteration_is_no_result(loop):
    class Socket:
        def recv(self, size):
            raise StopIteration(3)

        def gettimeout(self):
            return 0

    async def python():
        raise StopIteration(3)

    calls = [
        lambda: loop.sock_recv(Socket(), 10).send(None),
        lambda: python().send(None),
        # CPython lets this one out since 3.12.
        lambda: hybridloop.StreamReader(loop=loop).readline().throw(StopIteration(3)),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="^coroutine raised StopIteration$") as caught:
            call()
        assert caught.value.__cause__.value == 3
        assert caught.value.__context__ is caught.value.__cause__


async def test_what_is_thrown_is_raised_as_it_is(loop):
    for reader in (hybridloop.StreamReader(loop=loop), asyncio.StreamReader(loop=loop)):
        call = reader.readline()
        thrown = ValueError("thrown")
        try:
            raise LookupError("handled")
        except LookupError:
            with pytest.raises(ValueError, match="thrown") as caught:
                call.throw(thrown)
        assert caught.value is thrown
        assert thrown.__context__ is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="deprecated in Python 3.12")
async def test_the_warning_as_an_error_leaves_the_coroutine_alone(loop):
    for reader in (hybridloop.StreamReader(loop=loop), asyncio.StreamReader(loop=loop)):
        call = reader.readline()
        call.send(None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DeprecationWarning, match="signature of throw"):
                call.throw(LookupError, "text")
        assert call.cr_suspended
        call.close()
