"""Tasks, futures, factories, eager start, asynchronous generators."""

import asyncio
import contextvars
import gc
import sys
import warnings

import pytest

needs_eager_tasks = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12"
)


async def answer():
    return 42


def test_create_task(loop):
    task = loop.create_task(answer())
    assert isinstance(task, asyncio.Task)
    assert task.get_loop() is loop
    assert loop.run_until_complete(task) == 42


def test_create_task_with_a_name(loop):
    task = loop.create_task(answer(), name="mine")
    assert task.get_name() == "mine"
    loop.run_until_complete(task)


def test_create_task_with_a_context(loop):
    var = contextvars.ContextVar("var", default="unset")
    context = contextvars.copy_context()
    context.run(var.set, "mine")

    async def main():
        seen = var.get()
        var.set("changed inside")
        return seen

    assert loop.run_until_complete(loop.create_task(main(), context=context)) == "mine"
    assert context[var] == "changed inside"


def test_create_task_of_something_else(loop):
    with pytest.raises(TypeError, match="a coroutine was expected"):
        loop.create_task(42)


def test_create_task_refuses_what_asyncio_refuses(loop):
    """Keywords are those of the running Python's asyncio, whatever else its tasks take."""
    reference = asyncio.SelectorEventLoop()
    keywords = {"unknown_keyword": 1, "loop": reference, "coro": 1, "eager_start": False}
    for keyword, value in keywords.items():
        outcomes = []
        for a_loop in (loop, reference):
            coroutine = answer()
            try:
                task = a_loop.create_task(coroutine, **{keyword: value})
            except TypeError as error:
                outcomes.append(str(error))
                coroutine.close()
            else:
                outcomes.append("taken")
                assert a_loop.run_until_complete(task) == 42
        assert outcomes[0] == outcomes[1], keyword
    reference.close()


def test_task_factory(loop):
    made = []

    class MyTask(asyncio.Task):
        pass

    def factory(loop, coroutine, **options):
        made.append(options)
        return MyTask(coroutine, loop=loop, **options)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    task = loop.create_task(answer(), name="named")
    assert isinstance(task, MyTask)
    assert task.get_name() == "named"
    context = contextvars.copy_context()
    with_context = loop.create_task(answer(), context=context)
    assert made[1]["context"] is context
    assert loop.run_until_complete(asyncio.gather(task, with_context)) == [42, 42]
    loop.set_task_factory(None)
    assert type(loop.create_task(answer())) is asyncio.Task


def test_task_factory_is_used_by_all_doors(loop):
    kinds = set()

    def factory(loop, coroutine, **options):
        kinds.add(coroutine.__name__)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def main():
        await asyncio.create_task(answer())
        await asyncio.ensure_future(other())
        await asyncio.gather(third())

    async def other():
        pass

    async def third():
        pass

    loop.set_task_factory(factory)
    loop.run_until_complete(main())
    assert kinds == {"main", "answer", "other", "third"}


@pytest.mark.parametrize("factory", [1, "x"])
def test_task_factory_has_to_be_callable(loop, factory):
    with pytest.raises(TypeError, match="^task factory must be a callable or None$"):
        loop.set_task_factory(factory)


def test_create_future(loop):
    future = loop.create_future()
    assert isinstance(future, asyncio.Future)
    assert future.get_loop() is loop
    future.cancel()


def test_overridden_create_future_is_used(loop_factory):
    probe = loop_factory()
    kind = type(probe)
    probe.close()

    class MyFuture(asyncio.Future):
        pass

    class Mine(kind):
        def create_future(self):
            return MyFuture(loop=self)

    loop = Mine()

    async def main():
        return isinstance(loop.create_future(), MyFuture)

    assert loop.run_until_complete(main())
    loop.close()


def test_overridden_call_soon_sees_task_steps(loop_factory):
    """Profilers and test loops override call_soon: C tasks have to go through it."""
    probe = loop_factory()
    kind = type(probe)
    probe.close()

    class Counting(kind):
        calls = 0

        def call_soon(self, *args, **options):
            self.calls += 1
            return super().call_soon(*args, **options)

    async def main():
        for _ in range(10):
            await asyncio.sleep(0)

    loop = Counting()
    loop.run_until_complete(main())
    assert loop.calls >= 11
    loop.close()


@needs_eager_tasks
def test_eager_task_that_ends_at_once(loop):
    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        task = asyncio.create_task(answer())
        assert task.done()
        return await task

    assert loop.run_until_complete(main()) == 42


@needs_eager_tasks
def test_eager_task_that_blocks(loop):
    seen = []

    async def work():
        seen.append(("started", asyncio.current_task().get_name()))
        await asyncio.sleep(0)
        seen.append(("ended", asyncio.current_task().get_name()))

    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        task = loop.create_task(work(), name="eager")
        seen.append("after create_task")
        assert asyncio.current_task().get_name() != "eager"
        await task

    loop.run_until_complete(main())
    assert [entry if isinstance(entry, str) else entry[0] for entry in seen] == [
        "started",
        "after create_task",
        "ended",
    ]


@needs_eager_tasks
def test_eager_tasks_in_bulk(loop):
    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        return await asyncio.gather(*(asyncio.sleep(0.001, number) for number in range(200)))

    assert loop.run_until_complete(main()) == list(range(200))


class OtherTask(asyncio.Task):
    pass


def refusing_factory(loop, coroutine):
    raise LookupError("no more tasks")


FACTORIES = {
    "none": lambda: None,
    "eager": lambda: asyncio.eager_task_factory,
    "eager, of another class": lambda: asyncio.create_eager_task_factory(OtherTask),
    "without keywords": lambda: lambda loop, coroutine: OtherTask(coroutine, loop=loop),
    "refuses": lambda: refusing_factory,
    "not a task": lambda: lambda loop, coroutine, **options: sorted(options),
}
CALLS = [
    ((), {}),
    ((), {"name": "mine"}),
    ((), {"name": None}),
    ((), {"context": contextvars.Context()}),
    ((), {"context": None, "name": 7}),
    ((), {"eager_start": True}),
    ((), {"eager_start": False}),
    ((), {"eager_start": None, "name": "mine", "context": None}),
    ((), {"eager_start": True, "name": "mine", "context": None, "more": 1}),
    ((), {"more": 1}),
    (("more",), {}),
]


@needs_eager_tasks
@pytest.mark.parametrize("debug", [False, True], ids=["usual", "debug"])
@pytest.mark.parametrize("make_factory", FACTORIES.values(), ids=FACTORIES)
def test_create_task_does_with_a_factory_what_asyncio_does(loop, make_factory, debug):
    async def outcome(more, options):
        running = asyncio.get_running_loop()
        coroutine = answer()
        try:
            task = running.create_task(coroutine, *more, **options)
        except (AttributeError, TypeError, LookupError) as error:
            # An attribute: before 3.14 asyncio names what the factory returns.
            coroutine.close()
            return type(error), str(error)
        if not isinstance(task, asyncio.Task):
            coroutine.close()
            return task
        found = type(task), task.done(), task.get_name().rstrip("0123456789")
        return found, await task

    async def main():
        running = asyncio.get_running_loop()
        running.set_task_factory(make_factory())
        outcomes = [await outcome(more, options) for more, options in CALLS]
        running.set_task_factory(None)
        return outcomes

    reference = asyncio.SelectorEventLoop()
    outcomes = []
    for a_loop in (loop, reference):
        a_loop.set_debug(debug)
        outcomes.append(a_loop.run_until_complete(main()))
    reference.close()
    assert outcomes[0] == outcomes[1]


def test_futures_resolve_in_order(loop):
    seen = []

    async def waiter(number, future):
        await future
        seen.append(number)

    async def main():
        futures = [loop.create_future() for _ in range(100)]
        tasks = [asyncio.create_task(waiter(i, f)) for i, f in enumerate(futures)]
        await asyncio.sleep(0)
        for future in futures:
            future.set_result(None)
        await asyncio.gather(*tasks)

    loop.run_until_complete(main())
    assert seen == list(range(100))


def test_task_group_and_queue(loop):
    async def produce(queue):
        for number in range(500):
            await queue.put(number)
        await queue.put(None)

    async def consume(queue, seen):
        while (item := await queue.get()) is not None:
            seen.append(item)

    async def main():
        queue, seen = asyncio.Queue(maxsize=3), []
        async with asyncio.TaskGroup() as group:
            group.create_task(produce(queue))
            group.create_task(consume(queue, seen))
        return seen

    assert loop.run_until_complete(main()) == list(range(500))


def test_all_tasks_and_current_task(loop):
    async def main():
        other = asyncio.create_task(asyncio.sleep(10))
        assert asyncio.all_tasks() == {other, asyncio.current_task()}
        other.cancel()
        await asyncio.wait([other])

    loop.run_until_complete(main())


def test_deep_chain_of_tasks(loop):
    async def chain(depth):
        if depth:
            return await asyncio.create_task(chain(depth - 1)) + 1
        return 0

    assert loop.run_until_complete(chain(2000)) == 2000


def test_shutdown_asyncgens_closes_open_generators(loop):
    closed = []

    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async def main():
        generator = numbers()
        assert await anext(generator) == 1
        return generator

    generator = loop.run_until_complete(main())
    assert closed == []
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert closed == [True]
    del generator


def test_generator_that_fails_to_close_is_reported(loop, unhandled):
    async def stubborn():
        try:
            yield 1
        finally:
            raise ValueError("cannot close")

    async def main():
        generator = stubborn()
        await anext(generator)
        return generator

    generator = loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    (context,) = unhandled
    assert context["message"].startswith(
        "an error occurred during closing of asynchronous generator"
    )
    assert context["asyncgen"] is generator
    assert isinstance(context["exception"], ValueError)


def test_generator_iterated_after_the_shutdown_warns(loop):
    async def numbers():
        yield 1

    async def main():
        await loop.shutdown_asyncgens()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            async for _ in numbers():
                pass
        return [warning for warning in caught if "numbers" in str(warning.message)]

    (warning,) = loop.run_until_complete(main())
    assert warning.category is ResourceWarning
    assert "was scheduled after loop.shutdown_asyncgens() call" in str(warning.message)


def test_abandoned_generator_is_closed_by_the_loop(loop):
    closed = []

    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(asyncio.get_running_loop() is loop)

    async def main():
        async for _ in numbers():
            break
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert closed == [True]
