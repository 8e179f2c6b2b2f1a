"""Which worker gets a call, and who waits for one."""

import asyncio

import pytest

from hybridloop.cluster.placement import Placement


def placement(**threads):
    made = Placement()
    for address, count in threads.items():
        made.add(address, count, 2 * count)
    return made


def take(made, *holders):
    place = made.try_acquire(holders)
    return place and place.address


def test_the_least_busy_worker_is_first():
    made = placement(a=1, b=1)
    assert sorted([take(made), take(made)]) == ["a", "b"]
    # Each turn takes both, and then none has space.
    assert sorted([take(made), take(made)]) == ["a", "b"]
    assert take(made) is None
    made.release(made.places["b"])
    assert take(made) == "b"


def test_equal_workers_take_turns():
    made = placement(a=1, b=1, c=1)
    seen = []
    for _ in range(6):
        place = made.try_acquire(())
        seen.append(place.address)
        made.release(place)
    assert seen[:3] == seen[3:] and sorted(seen[:3]) == ["a", "b", "c"]


def test_a_worker_with_more_threads_gets_more():
    made = placement(a=1, b=3)
    assert sorted(take(made) for _ in range(4)) == ["a", "b", "b", "b"]


def test_a_holder_is_before_others_and_others_before_waiting():
    made = placement(a=1, b=1)
    assert [take(made, "b") for _ in range(5)] == ["b", "b", "a", "a", None]


async def test_callers_wait_in_order_by_priority(loop):
    made = placement(a=1)
    places = [made.try_acquire(()) for _ in range(2)]
    served = []

    async def wait(name, priority):
        await made.acquire(priority, ())
        served.append(name)

    tasks = []
    for name, priority in [("1", 0), ("2", 0), ("urgent", 5), ("3", 0), ("late", -1)]:
        tasks.append(asyncio.ensure_future(wait(name, priority)))
        await asyncio.sleep(0)
    assert len(made) == 5
    # Who comes now does not overtake them.
    assert made.try_acquire(()) is None
    for number in range(5):
        made.release(places[0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(served) == number + 1
    assert served == ["urgent", "1", "2", "3", "late"]
    await asyncio.gather(*tasks)


async def test_a_cancelled_caller_gives_its_place_to_the_next_one(loop):
    made = placement(a=1)
    places = [made.try_acquire(()) for _ in range(2)]
    first, second, third = [asyncio.ensure_future(made.acquire(0, ())) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    # The place is given to the second one, which is cancelled before it sees that.
    made.release(places[0])
    second.cancel()
    assert (await third).address == "a"
    assert first.cancelled() and second.cancelled()
    assert made.places["a"].busy == 2


async def test_a_new_worker_serves_who_waits(loop):
    made = Placement()
    waiting = asyncio.ensure_future(made.acquire(0, ()))
    await asyncio.sleep(0)
    made.add("a", 1, 2)
    assert (await waiting).address == "a"
    assert made.places["a"].busy == 1


async def test_a_worker_that_is_gone_is_not_used(loop):
    made = placement(a=1, b=1)
    place = made.places["a"]
    made.try_acquire(["a"])
    made.remove("a")
    made.remove("a")
    assert {take(made), take(made), take(made)} == {"b", None}
    waiting = asyncio.ensure_future(made.acquire(0, ()))
    await asyncio.sleep(0)
    made.release(place)  # its call has ended as lost
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(made) == 0
