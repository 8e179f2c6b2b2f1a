"""What programs do with coroutines written in C, again and again.

``python -m tests.awaitables.scenarios NAME FOLDER`` counts what references stay on a debug build.
"""

import asyncio
import contextlib
import gc
import itertools
import sys
import warnings
from pathlib import Path

from .support import LIMITED, build, load, run

SCENARIOS = {}
# As in tests/references.
WARM, ROUNDS, RUNS = 400, 5, 20
# A cache is full at some time; a leak goes on.
ATTEMPTS = 5


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


async def gives(value):
    await asyncio.sleep(0)
    return value


async def fails():
    await asyncio.sleep(0)
    raise LookupError


class Manager:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return True


async def count(n):
    for i in range(n):
        yield i


@scenario
async def callbacks(modules):
    c = modules("callbacks")
    aw = c.new()
    c.add_await(aw, gives(1), lambda aw, value: c.set_result(aw, [value]))
    c.add_await(aw, fails(), None, lambda aw, exc: 0)
    c.add_await(aw, gives(2), lambda aw, v: (-1, KeyError()), lambda aw, exc: (-2, ValueError()))
    with contextlib.suppress(ValueError):
        await aw


@scenario
async def blocks(modules):
    c = modules("callbacks")
    aw = c.new()
    c.add_with(aw, Manager(), lambda aw, v: c.add_await(aw, fails()))
    c.add_for(aw, count(3), lambda aw, v: c.add_await(aw, gives(v)), lambda aw: 0)
    c.add_for(aw, count(3), lambda aw, v: (-1, LookupError()), None, lambda aw, exc: 0)
    await aw


@scenario
async def cancelled(modules):
    c, s = modules("callbacks"), modules("steps")
    for make in (lambda: c.new(), lambda: s.new("retry", lambda: asyncio.sleep(100), 1)):
        aw = make()
        if type(aw).__name__ == "CallbackCoroutine":
            c.add_await(aw, asyncio.sleep(100))
            c.add_await(aw, gives(1))
            c.save(aw, 1, aw)
        task = asyncio.ensure_future(aw)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])


@scenario
async def never_awaited(modules):
    c, s = modules("callbacks"), modules("steps")
    aw = c.new()
    c.add_await(aw, gives(1))
    c.set_state(aw, [aw])
    s.new("retry", aw, [])
    functions = modules("functions")
    functions.pair(aw)
    functions.echo(aw)


@scenario
async def steps(modules):
    s = modules("steps")
    await s.new("retry", lambda: gives(6), 7)
    with contextlib.suppress(LookupError):
        await s.new("retry", fails, 7)
    with contextlib.suppress(SystemError):
        s.new("faulty", None, 2).send(None)
    coroutine = s.new("retry", lambda: asyncio.sleep(0), 1)
    coroutine.send(None)
    del coroutine


@scenario
async def generators(modules):
    functions = modules("functions")
    async for _ in functions.echo(lambda: asyncio.sleep(0)):
        pass
    generator = functions.echo(lambda: gives(1), 1)
    await anext(generator)
    await generator.athrow(LookupError)
    with contextlib.suppress(TypeError):
        generator.athrow(1)
    await generator.aclose()
    generator = functions.echo(lambda: gives(1))
    await anext(generator)


@scenario
async def functions(modules):
    functions = modules("functions")
    await functions.pair(gives(1), b=2)
    await functions.Thing().get(gives(1))
    with contextlib.suppress(TypeError):
        functions.pair()
    functions.pair.__signature__, functions.pair.__code__, functions.pair.__doc__  # noqa: B018


def once(name, modules):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(SCENARIOS[name](modules))
        gc.collect()


def growth(name, modules):
    for _ in range(WARM):
        once(name, modules)
    for _ in range(ATTEMPTS):
        differences = measure(name, modules)
        if min(differences) < RUNS:
            break
    return differences


def measure(name, modules):
    counts = [0] * (ROUNDS + 1)
    for number in range(ROUNDS + 1):
        if number:
            for _ in range(RUNS):
                once(name, modules)
        counts[number] = sys.gettotalrefcount()
    return [after - before for before, after in itertools.pairwise(counts)]


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    loaded = {
        name: load(build(name, folder, LIMITED), name)
        for name in ("callbacks", "steps", "functions")
    }
    differences = growth(sys.argv[1], loaded.__getitem__)
    print(differences)
    sys.exit(min(differences) >= RUNS)
