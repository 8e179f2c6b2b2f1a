"""What kernels tell while they run: items and progress."""

import asyncio
import itertools

import pytest

from .support import LIMIT, LOOPS, open_gate, run

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("job_kernels")]


@pytest.mark.parametrize("loop", LOOPS)
def test_items_come_in_order_and_before_the_end(engine, loop):
    async def main():
        job = engine.run_native("jobs.emit", 3000)
        assert [item async for item in job] == list(range(3000))
        assert job.done()
        assert [item async for item in job] == []
        assert await job is None
        empty = engine.run_native("jobs.emit", 0)
        assert [item async for item in empty] == []

    run(main(), LOOPS[loop])


def test_items_before_an_error_and_after_cancelling(engine):
    async def main():
        got = []
        with pytest.raises(ValueError, match="invalid value"):
            async for item in engine.run_native("jobs.emit", 3, -1):
                got.append(item)
        assert got == [0, 1, 2]
        endless = engine.run_native("jobs.emit_waits", 1 << 60)
        async for item in endless:
            if item == 5000:
                endless.cancel()
                break
        with pytest.raises(asyncio.CancelledError):
            await endless

    run(main())


def test_several_tasks_share_the_items(engine):
    async def main():
        job = engine.run_native("jobs.emit", 2000)

        async def take():
            return [item async for item in job]

        parts = await asyncio.gather(take(), take(), take())
        assert sorted(itertools.chain(*parts)) == list(range(2000))
        assert all(part == sorted(part) for part in parts)

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_progress_is_the_latest_state_and_comes_before_the_end(engine, loop):
    async def main():
        calls = []
        job = engine.run_native("jobs.emit", 1000, on_progress=lambda *state: calls.append(state))
        job.add_done_callback(lambda _: calls.append("done"))
        await job
        await asyncio.sleep(0)
        assert calls[-1] == "done"
        assert calls[-2] == (1000, 1000)
        assert calls[:-1] == sorted(calls[:-1])
        job = engine.run_native("jobs.emit", 1000)
        states = [state async for state in job.progress()]
        assert states[-1] == (1000, 1000)
        assert states == sorted(set(states))

    run(main(), LOOPS[loop])


def test_an_on_progress_that_fails_is_reported_and_the_job_continues(engine):
    async def main():
        reported = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context["exception"])
        )

        def fail(done, total):
            raise ZeroDivisionError

        assert await engine.run_native("jobs.emit", 1, on_progress=fail) is None
        await asyncio.sleep(0)
        assert [type(error) for error in reported] == [ZeroDivisionError]

    run(main())


def test_no_loop_no_progress(engine):
    with pytest.raises(ValueError, match="on_progress"):
        engine.run_native("jobs.emit", 1, on_progress=print)
    assert engine.run_native("jobs.emit", 1).result(LIMIT) is None
    other = engine.run_native("jobs.stubborn", b"x")

    async def wait():
        with pytest.raises(RuntimeError, match="without a running event loop"):
            await anext(aiter(other))
        await open_gate()
        assert await other == ord("x")

    run(wait())
