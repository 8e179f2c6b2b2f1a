"""Generators as tasks: `hybridloop.generators`."""

from __future__ import annotations

import asyncio
import doctest
import gc
import socket
import time
import types
from collections import deque
from collections.abc import Generator
from typing import Any

import pytest

import hybridloop
import hybridloop.generators
from hybridloop.generators import GeneratorRunner, readable, writable


class DequeRunner:
    """The simplest runner there is: each generator to its end, in order."""

    def __init__(self) -> None:
        self.tasks: deque[Generator[Any, Any, Any]] = deque()

    def create_task(self, generator: Generator[Any, Any, Any]) -> None:
        self.tasks.append(generator)

    def run(self) -> None:
        while self.tasks:
            for _ in self.tasks.popleft():
                pass


def tutorial(runner: Any, lines: list[str]) -> list[str]:
    """The program of the tutorial: four tasks, the last by delegation."""

    def part(number: int, steps: int) -> Generator[None, None, None]:
        for step in range(1, steps + 1):
            lines.append(f"task1_part{number}.{step}")
            yield

    def delegates() -> Generator[None, None, None]:
        yield from part(1, 2)

    for generator in (part(1, 2), part(2, 3), part(3, 5), delegates()):
        runner.create_task(generator)
    runner.run()
    return lines


def test_drain_keeps_the_order_of_a_plain_queue() -> None:
    assert tutorial(GeneratorRunner(policy="drain"), []) == tutorial(DequeRunner(), [])


def test_default_interleaves() -> None:
    lines = tutorial(GeneratorRunner(), [])
    assert lines[:4] == ["task1_part1.1", "task1_part2.1", "task1_part3.1", "task1_part1.1"]
    assert lines[4:8] == ["task1_part1.2", "task1_part2.2", "task1_part3.2", "task1_part1.2"]
    assert sorted(lines) == sorted(tutorial(DequeRunner(), []))


def test_a_hundred_timers_at_once() -> None:
    def sleeper() -> Generator[float, None, float]:
        begin = time.monotonic()
        yield 0.5
        return time.monotonic() - begin

    runner = GeneratorRunner()
    tasks = [runner.create_task(sleeper()) for _ in range(100)]
    begin = time.monotonic()
    runner.run()
    # One after the other they would take 50 s.
    assert time.monotonic() - begin < 40
    assert all(task.result() >= 0.5 for task in tasks)


def test_the_same_generators_as_asyncio_tasks() -> None:
    lines: list[str] = []

    @types.coroutine
    def part(name: str) -> Generator[None, None, str]:
        for step in range(2):
            lines.append(f"{name}{step}")
            yield
        return name

    async def run_part(name: str) -> str:
        return await part(name)

    async def main() -> list[str]:
        return await asyncio.gather(run_part("a"), run_part("b"))

    assert hybridloop.run(main()) == ["a", "b"]
    assert lines == ["a0", "b0", "a1", "b1"]


def test_timers_fire_in_the_order_of_their_deadlines() -> None:
    order: list[int] = []

    def sleeper(n: int) -> Generator[float, None, None]:
        yield n / 10
        order.append(n)

    runner = GeneratorRunner()
    for n in (5, 1, 4, 2, 3):
        runner.create_task(sleeper(n))
    runner.run()
    assert order == [1, 2, 3, 4, 5]


def test_socket_echo() -> None:
    server, client = socket.socketpair()
    server.setblocking(False)
    client.setblocking(False)

    def echo() -> Generator[Any, None, int]:
        total = 0
        while True:
            yield server
            data = server.recv(1000)
            if not data:
                return total
            while data:
                yield writable(server)
                data = data[server.send(data) :]
                total += 1

    def ask() -> Generator[Any, None, list[bytes]]:
        answers = []
        for word in (b"one", b"two", b"three"):
            yield writable(client.fileno())
            client.send(word)
            yield readable(client.fileno())
            answers.append(client.recv(100))
        client.shutdown(socket.SHUT_WR)
        return answers

    runner = GeneratorRunner()
    count, answers = runner.create_task(echo()), runner.create_task(ask())
    with server, client:
        runner.run()
    assert count.result() == 3
    assert answers.result() == [b"one", b"two", b"three"]


def test_results_and_errors_per_task() -> None:
    def good() -> Generator[None, None, str]:
        yield
        return "done"

    def bad() -> Generator[None, None, None]:
        yield
        raise LookupError("lost")

    runner = GeneratorRunner()
    first, second, third = (runner.create_task(g()) for g in (good, bad, good))
    assert runner.run() == [first, second, third]
    assert first.result() == third.result() == "done"
    assert isinstance(second.exception(), LookupError)
    with pytest.raises(LookupError, match="lost"):
        second.result()


def test_error_that_nobody_asks_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def bad() -> Generator[None, None, None]:
        yield
        raise LookupError("lost")

    runner = GeneratorRunner()
    runner.create_task(bad(), name="forgotten")
    runner.run()
    del runner
    gc.collect()
    assert any("never retrieved" in record.getMessage() for record in caplog.records)
    assert "forgotten" in caplog.text


@pytest.mark.parametrize("policy", ["round_robin", "drain"])
def test_awaitables_give_values_and_exceptions(policy: Any) -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def fail() -> None:
        raise OSError("no")

    def asks() -> Generator[Any, Any, tuple[int, str]]:
        value = yield answer()
        try:
            yield fail()
        except OSError as error:
            return value, str(error)
        return value, "nothing raised"

    runner = GeneratorRunner(policy)
    task = runner.create_task(asks())
    runner.run()
    assert task.result() == (42, "no")


def test_what_cannot_be_waited_for_is_a_type_error_in_the_generator() -> None:
    def odd() -> Generator[Any, None, str]:
        try:
            yield "a string"
        except TypeError as error:
            return str(error)
        return "nothing raised"

    runner = GeneratorRunner()
    task = runner.create_task(odd())
    runner.run()
    assert "not 'a string'" in task.result()


def test_drain_waits_within_a_task() -> None:
    order: list[str] = []

    def waits(name: str, seconds: float) -> Generator[Any, None, None]:
        order.append(f"{name} begins")
        yield seconds
        order.append(f"{name} ends")

    runner = GeneratorRunner("drain")
    runner.create_task(waits("a", 0.05))
    runner.create_task(waits("b", 0))
    runner.run()
    assert order == ["a begins", "a ends", "b begins", "b ends"]


@pytest.mark.parametrize("policy", ["round_robin", "drain"])
def test_tasks_make_tasks(policy: Any) -> None:
    runner = GeneratorRunner(policy)

    def child(n: int) -> Generator[None, None, int]:
        yield
        return n

    def parent() -> Generator[None, None, None]:
        for n in range(3):
            runner.create_task(child(n))
            yield

    runner.create_task(parent())
    tasks = runner.run()
    assert [task.result() for task in tasks] == [None, 0, 1, 2]


def test_cancel_before_and_during() -> None:
    closed: list[str] = []

    def waits(name: str) -> Generator[Any, None, None]:
        try:
            yield 60
        finally:
            closed.append(name)

    runner = GeneratorRunner()
    never = runner.create_task(waits("never begun"))
    assert never.cancel()
    assert not never.cancel()
    during = runner.create_task(waits("during"))

    def cancels() -> Generator[None, None, None]:
        yield
        assert during.cancel()

    runner.create_task(cancels())
    runner.run()
    assert never.cancelled() and during.cancelled()
    assert closed == ["during"]
    with pytest.raises(asyncio.CancelledError):
        during.result()


def test_a_runner_may_run_again() -> None:
    def value(n: int) -> Generator[None, None, int]:
        yield
        return n

    runner = GeneratorRunner()
    for n in range(3):
        runner.create_task(value(n))
        assert [task.result() for task in runner.run()] == [n]
    assert runner.run() == []


def test_result_too_early_and_bad_arguments() -> None:
    def value() -> Generator[None, None, None]:
        yield

    runner = GeneratorRunner()
    task = runner.create_task(value())
    with pytest.raises(asyncio.InvalidStateError, match="value has not started"):
        task.result()
    runner.run()
    with pytest.raises(TypeError, match="a generator is expected"):
        runner.create_task(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="policy must be"):
        GeneratorRunner("other")  # type: ignore[arg-type]


def test_many_tasks_take_linear_time() -> None:
    def steps() -> Generator[None, None, int]:
        for _ in range(3):
            yield
        return 1

    runner = GeneratorRunner()
    for _ in range(20_000):
        runner.create_task(steps())
    begin = time.monotonic()
    assert sum(task.result() for task in runner.run()) == 20_000
    assert time.monotonic() - begin < 20


def test_the_documented_examples() -> None:
    assert doctest.testfile("../../docs/generators.md").failed == 0
    assert doctest.testmod(hybridloop.generators).failed == 0
