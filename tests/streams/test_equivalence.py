"""hybridloop's reader behaves like asyncio's for random chunks, limits and operations.

Their private state is compared as well.
"""

import asyncio
import random
import sys

import pytest

import hybridloop

SEEDS = range(150)
STEPS = 120
LIMITS = [1, 2, 7, 64, 1000, 2**16]
ALPHABET = b"ab\n\r;"
SEPARATORS = [b"\n", b"\r\n", b"a", b";ab", bytearray(b"b\n"), b"nowhere", b""]
TUPLES = [(b"\r\n", b"\n"), (b"ab", b"ba"), (b"aab", b"b"), (b";",), (), (b"a", b"")]


class Transport:
    """What a reader asks of a transport."""

    def __init__(self, can_pause):
        self.calls = []
        self.can_pause = can_pause

    def pause_reading(self):
        self.calls.append("pause")
        if not self.can_pause:
            raise NotImplementedError

    def resume_reading(self):
        self.calls.append("resume")


def outcome(task):
    if not task.done():
        return "pending"
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is None:
        return type(task.result()), task.result()
    context = error.__context__ if isinstance(error, ValueError) else None
    return (
        type(error),
        error.args,
        getattr(error, "partial", None),
        getattr(error, "expected", None),
        getattr(error, "consumed", None),
        (type(context), context.args) if context else None,
    )


class Both:
    """asyncio's reader and hybridloop's, with the same calls."""

    def __init__(self, loop, limit, can_pause):
        self.readers = [
            asyncio.StreamReader(limit=limit, loop=loop),
            hybridloop.StreamReader(limit=limit, loop=loop),
        ]
        self.transports = [Transport(can_pause) for _ in self.readers]
        for reader, transport in zip(self.readers, self.transports, strict=True):
            reader.set_transport(transport)
        self.tasks = [None, None]
        # asyncio's read(-1) forgets what it had when it does not end well.
        self.can_cancel = True

    @property
    def busy(self):
        return self.tasks[0] is not None

    def do(self, name, *args):
        for reader in self.readers:
            getattr(reader, name)(*args)

    def start(self, name, *args):
        self.can_cancel = not (name == "read" and (not args or args[0] < 0))
        self.tasks = [asyncio.ensure_future(getattr(r, name)(*args)) for r in self.readers]

    def cancel(self):
        for task in self.tasks:
            task.cancel()

    def state(self):
        return [
            (
                bytes(reader._buffer),
                reader.at_eof(),
                reader._paused,
                reader._waiter is not None,
                repr(reader.exception()),
                transport.calls,
                reader._transport is None,
                repr(reader).replace(repr(reader._waiter), "waiter").replace(repr(transport), "t"),
            )
            for reader, transport in zip(self.readers, self.transports, strict=True)
        ]

    async def compare(self):
        for _ in range(4):
            await asyncio.sleep(0)
        theirs, ours = self.state()
        if self.busy:
            expected, got = map(outcome, self.tasks)
            assert got == expected
            if expected != "pending":
                self.tasks = [None, None]
        assert ours == theirs


def random_operation(chance):
    operations = [
        lambda: ("read", chance.choice([0, 1, 3, 10, 100_000])),
        lambda: ("read", chance.choice([-1, -7])),
        lambda: ("readline",),
        lambda: ("readuntil",),
        lambda: ("readexactly", chance.choice([-1, 0, 1, 3, 10, 500])),
        lambda: ("readuntil", chance.choice(SEPARATORS)),
    ]
    if sys.version_info >= (3, 13):
        operations.append(lambda: ("readuntil", chance.choice(TUPLES)))
    return chance.choice(operations)()


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_operations(loop, seed):
    chance = random.Random(seed)
    both = Both(loop, chance.choice(LIMITS), can_pause=chance.random() < 0.8)
    ended = False
    for _ in range(STEPS):
        event = chance.random()
        if event < 0.45 and not ended:
            size = chance.choice([0, 1, 2, 5, 30, 400])
            both.do("feed_data", bytes(chance.choices(ALPHABET, k=size)))
        elif event < 0.85:
            if not both.busy:
                both.start(*random_operation(chance))
        elif event < 0.93:
            if both.busy and both.can_cancel:
                both.cancel()
        elif event < 0.94 and not ended:
            both.do("feed_eof")
            ended = True
        elif event < 0.945 and both.can_cancel:
            both.do("set_exception", ConnectionResetError(f"seed {seed}"))
        # Sometimes more happens before a task runs.
        if chance.random() < 0.7:
            await both.compare()
    if not ended:
        both.do("feed_eof")
    await both.compare()
    assert not both.busy


async def test_two_readers_at_a_time(loop):
    for make in (asyncio.StreamReader, hybridloop.StreamReader):
        reader = make(loop=loop)
        first = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        for name, args in [
            ("read", (1,)),
            ("read", ()),
            ("readexactly", (1,)),
            ("readuntil", ()),
            ("readline", ()),
        ]:
            function = "readuntil" if name == "readline" else name
            with pytest.raises(RuntimeError) as caught:
                await getattr(reader, name)(*args)
            assert str(caught.value) == (
                f"{function}() called while another coroutine is already waiting for incoming data"
            )
        reader.feed_data(b"line\n")
        assert await first == b"line\n"


async def test_feeding_after_the_end(loop):
    for make in (asyncio.StreamReader, hybridloop.StreamReader):
        reader = make(loop=loop)
        reader.feed_eof()
        with pytest.raises(AssertionError, match="feed_data after feed_eof"):
            reader.feed_data(b"data")


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_that_are_none(loop, limit):
    with pytest.raises(ValueError, match="Limit cannot be <= 0"):
        hybridloop.StreamReader(limit=limit, loop=loop)


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("read", ("1",), TypeError),
        ("read", (None,), TypeError),
        ("readexactly", (1.5,), TypeError),
        ("readuntil", ("\n",), TypeError),
        ("readuntil", (10,), TypeError),
    ],
)
async def test_bad_arguments_are_told_when_awaited(loop, name, args, error):
    reader = hybridloop.StreamReader(loop=loop)
    reader.feed_data(b"12345\n")
    waiting = getattr(reader, name)(*args)
    with pytest.raises(error):
        await waiting
    assert await reader.readline() == b"12345\n"


async def test_numbers_beyond_what_a_buffer_can_hold(loop):
    reader = hybridloop.StreamReader(limit=2**100, loop=loop)
    assert reader._limit == 2**100
    reader.feed_data(b"12345")
    reader.feed_eof()
    assert await reader.read(2**100) == b"12345"


async def test_read_to_the_end_puts_back_what_it_had_when_cancelled(loop):
    reader = hybridloop.StreamReader(limit=4, loop=loop)
    waiting = asyncio.ensure_future(reader.read())
    await asyncio.sleep(0)
    reader.feed_data(b"12345")
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    reader.feed_data(b"6")
    reader.feed_eof()
    assert await reader.read() == b"123456"
