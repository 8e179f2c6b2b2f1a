"""The programs with which the idea was published."""

import pytest

HEAD = {
    "hybridloop": """
import asyncio, hybridloop
from hybridloop import ohwait
run = hybridloop.run
""",
    "asyncio": """
import asyncio
from hybridloop import ohwait, sync

def make_loop():
    loop = asyncio.SelectorEventLoop()
    sync.prepare(loop)
    return loop

def run(main):
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(main)
""",
}

LINES = """> async_func enter
> coroutine is running
result-from-normal-await-call
> coroutine is running
result-from-ohwait-directly
> sync_func enter
> coroutine is running
> sync_func exit
result-from-ohwait-in-sync-func
> async_func exit
"""


@pytest.mark.parametrize("kind", HEAD)
def test_it_prints_its_lines_twice(run_program, kind):
    """(T3.1)"""
    source = """
async def coro(a):
    print("> coroutine is running")
    await asyncio.sleep(0.01)
    return "result-" + a

def sync_func():
    print("> sync_func enter")
    result = ohwait(coro("from-ohwait-in-sync-func"))
    print("> sync_func exit")
    return result

async def async_func():
    print("> async_func enter")
    print(await coro("from-normal-await-call"))
    print(ohwait(coro("from-ohwait-directly")))
    print(sync_func())
    print("> async_func exit")

run(async_func())
run(async_func())
"""
    assert run_program(HEAD[kind] + source) == 2 * LINES


@pytest.mark.parametrize("kind", HEAD)
@pytest.mark.parametrize(
    ("body", "printed"),
    [
        ("for func in (ohwait_func1, non_ohwait_func): func()", "1\n"),
        ("for func in (ohwait_func1, ohwait_func2): func()", "1\n2\n"),
        (
            "non_ohwait_func(); ohwait_func1(); non_ohwait_func(); ohwait_func2()",
            "1\n2\n",
        ),
    ],
    ids=["BAD", "GOOD", "VERY_GOOD"],
)
def test_mixed_and_indirect_calls(run_program, kind, body, printed):
    """(T3.2)"""
    source = f"""
async def coro(): await asyncio.sleep(0)

def ohwait_func1():
    ohwait(coro())
    print(1)

def ohwait_func2():
    ohwait(coro())
    print(2)

def non_ohwait_func(): pass

async def main():
    {body}

run(main())
"""
    assert run_program(HEAD[kind] + source) == printed
