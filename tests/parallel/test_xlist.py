"""`xlist`: what goes in, in which order it leaves, and from where."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from hybridloop import parallel


def test_the_clock_goes_on_in_a_parallel_thread() -> None:
    before = parallel.rdtsc()
    xl = parallel.xlist()
    parallel.submit_work(lambda: xl.push(parallel.rdtsc()))
    parallel.run()
    after = parallel.rdtsc()
    during = xl.pop()
    assert before < during < after
    assert isinstance(during, int)


def test_order_and_length() -> None:
    for order, expected in (("lifo", [3, 2, 1]), ("fifo", [1, 2, 3])):
        xl = parallel.xlist(order)  # type: ignore[arg-type]
        assert xl and len(xl) == 0 and xl.order == order
        for n in (1, 2, 3):
            xl.push(n)
        assert len(xl) == 3 and repr(xl) == f"<xlist {order} of 3 values>"
        assert [xl.pop() for _ in range(3)] == expected
        for n in (1, 2, 3):
            xl.push(n)
        assert xl.drain() == expected and xl.drain() == []
    assert parallel.xlist().order == "lifo"
    with pytest.raises(ValueError, match="must be 'fifo' or 'lifo', not 'random'"):
        parallel.xlist("random")  # type: ignore[arg-type]


def test_an_empty_list_gives_the_default() -> None:
    xl = parallel.xlist()
    assert xl.pop() is None and xl.pop("nothing") == "nothing"
    for falsy in (0, b"", None):
        xl.push(falsy)
    assert len(xl) == 3
    assert [xl.pop("nothing") for _ in range(4)] == [None, b"", 0, "nothing"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**63),
        2**64 - 1,
        2**200,
        -(3**100),
        1.5,
        float("inf"),
        1 + 2j,
        "",
        "text \N{SNOWMAN}",
        "half \ud800",
        b"",
        b"bytes \0",
        bytearray(b"array"),
        (),
        (1, "two", (b"three", None, bytearray(b"x"))),
        pytest.param(frozenset((1, (2, "x"))), id="frozenset"),
    ],
    ids=repr,
)
def test_what_is_cloned(value: Any) -> None:
    xl = parallel.xlist()
    xl.push(value)
    popped = xl.pop("nothing")
    assert popped == value and type(popped) is type(value)
    if isinstance(value, bytearray):
        value += b"later"
        assert popped == b"array"


def test_buffers() -> None:
    xl = parallel.xlist()
    xl.push(memoryview(b"abc"))
    assert xl.pop() == b"abc"
    shown = parallel.xlist(views=True)
    shown.push(b"abc")
    view = shown.pop()
    assert type(view).__name__ == "NativeBuffer" and view == b"abc"
    xl.push(view)
    assert xl.pop() == b"abc"


class Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        set(),
        pytest.param(object(), id="object()"),
        Text("x"),
        (1, [2]),
        frozenset(((Text("x"), 1),)),
        len,
        int,
    ],
    ids=repr,
)
def test_what_cannot_be_cloned(value: Any) -> None:
    xl = parallel.xlist()
    inner = {(1, [2]).__repr__(): "list"}.get(repr(value), type(value).__name__)
    inner = "Text" if isinstance(value, frozenset) else inner
    with pytest.raises(ValueError, match=f"a {inner} cannot be cloned"):
        xl.push(value)
    assert len(xl) == 0


def test_what_may_change_is_refused() -> None:
    xl = parallel.xlist()
    with pytest.raises(ValueError, match="a memoryview cannot be cloned"):
        xl.push(memoryview(bytearray(b"x")))
    with socket.socket() as sock, pytest.raises(ValueError, match="a socket cannot be cloned"):
        xl.push(sock)


def test_flush() -> None:
    xl = parallel.xlist()
    for n in range(100):
        xl.push((n,))
    assert xl.flush() == 100 and len(xl) == 0 and xl.flush() == 0


def test_many_python_threads() -> None:
    xl = parallel.xlist()
    count, threads = 2000, 8
    taken: list[Any] = []
    done = threading.Event()

    def push(number: int) -> None:
        for n in range(count):
            xl.push((number, n))

    def take() -> None:
        while not done.is_set() or len(xl):
            if (item := xl.pop()) is not None:
                taken.append(item)

    taker = threading.Thread(target=take)
    taker.start()
    for number in range(threads):
        parallel.submit_work(push, number)
    parallel.run()
    done.set()
    taker.join()
    assert sorted(taken) == [(number, n) for number in range(threads) for n in range(count)]


def test_waiting_on_a_loop() -> None:
    xl = parallel.xlist("fifo")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await xl.get(0.01)
        parallel.submit_timer(0.01, xl.push, ((1, "later"),))
        assert await xl.get(60) == (1, "later")
        for n in range(3):
            xl.push(n)
        got = []
        async for item in xl:
            got.append(item)
            if len(got) == 3:
                break
        assert got == [0, 1, 2]

    asyncio.run(main())
    parallel.run()
