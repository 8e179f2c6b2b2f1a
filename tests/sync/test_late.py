"""The name is imported after the loop has begun to run. (T3.24)"""

import pytest

HEAD = {
    "hybridloop": "from hybridloop import Loop as make_loop\ndef prepare(loop): pass\n",
    "asyncio": """
from asyncio import SelectorEventLoop as make_loop
def prepare(loop):
    from hybridloop import sync
    sync.prepare(loop)
""",
}
COMMON = """
import asyncio, contextvars
variable = contextvars.ContextVar("variable", default=0)

async def slow(value=None, delay=0.001):
    await asyncio.sleep(delay)
    return value

def wait(value=None, delay=0.001):
    from hybridloop import await_
    return await_(slow(value, delay))
"""


@pytest.fixture(params=HEAD)
def run(request, run_program):
    def run(body, after=""):
        source = HEAD[request.param] + COMMON + body
        source += "\nloop = make_loop()\nprepared = loop.call_soon(prepare, loop)\n"
        return run_program(source + (after or "loop.run_until_complete(main())\nloop.close()"))

    return run


def test_tasks_and_callbacks_wait(run):
    run("""
def await_(awaitable):
    from hybridloop import await_
    return await_(awaitable)

async def one(number):
    variable.set(number)
    assert wait(number, 0.001 * (number % 3)) == number == variable.get()
    return number

async def ordered(event):
    await_(event.wait())
    ended.append(event)

async def main():
    await asyncio.sleep(0)
    assert wait(5) == 5
    got = loop.create_future()
    loop.call_soon(lambda: got.set_result(wait("callback")))
    assert await got == "callback"
    assert await asyncio.gather(*map(one, range(50))) == list(range(50))
    events = [asyncio.Event() for _ in range(3)]
    tasks = [loop.create_task(ordered(event)) for event in events]
    await asyncio.sleep(0.001)
    order = [events[number] for number in (1, 2, 0)]
    for count, event in enumerate(order, 1):
        event.set()
        async with asyncio.timeout(60):
            while len(ended) < count:
                await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert ended == order
    task = loop.create_task(one_that_is_cancelled())
    await asyncio.sleep(0.001)
    task.cancel()
    await task

async def one_that_is_cancelled():
    try:
        wait(delay=10)
    except asyncio.CancelledError:
        pass

ended = []
""")


def test_a_function_on_the_first_stack_is_cancelled_if_the_loop_stops(run):
    printed = run(
        """
async def one(name):
    try:
        wait(name, 0.05)
        print(name, "ends")
    except asyncio.CancelledError as error:
        print(name, error)
        raise
""",
        """
first = loop.create_task(one("first"))
second = loop.create_task(one("second"))
loop.call_later(0.01, loop.stop)
loop.run_forever()
loop.run_until_complete(second)
assert first.cancelled()
loop.close()
""",
    )
    # asyncio's own loop has a hub from its next iteration on.
    assert printed in ("first the loop was stopped\nsecond ends\n", "first ends\nsecond ends\n")


def test_an_interrupt_leaves_the_loop_through_the_first_stack(run):
    printed = run(
        """
async def first():
    try:
        wait(delay=10)
    except KeyboardInterrupt:
        print("interrupted")
        raise

def interrupt():
    raise KeyboardInterrupt
""",
        """
task = loop.create_task(first())
loop.call_later(0.01, interrupt)
try:
    loop.run_forever()
except KeyboardInterrupt:
    print("left")
loop.run_until_complete(asyncio.sleep(0.01))
if not task.done():
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
else:
    try:
        task.exception()
    except BaseException:
        pass
loop.close()
""",
    )
    assert "left" in printed
