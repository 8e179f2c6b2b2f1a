"""Libraries that wait in greenlets of their own, in the same thread and at the same time."""

import asyncio
import contextvars

import greenlet
import pytest

from hybridloop import await_, sync

awaitlet = pytest.importorskip("awaitlet")
greenback = pytest.importorskip("greenback")
sqlalchemy = pytest.importorskip("sqlalchemy")
pytest.importorskip("aiosqlite")

from sqlalchemy import orm, util  # noqa: E402
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio  # noqa: E402
from sqlalchemy.util import greenlet_spawn  # noqa: E402

await_only = util.await_only
variable = contextvars.ContextVar("variable", default=0)


async def slow(value=None, delay=0.001):
    await asyncio.sleep(delay)
    return value


def wait(value=None, delay=0.001):
    return await_(slow(value, delay))


async def fails():
    await asyncio.sleep(0.001)
    raise ZeroDivisionError


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


@pytest.fixture
def engine(loop, tmp_path):
    # Each session has a connection of its own, as with a real database.
    engine = sqlalchemy_asyncio.create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/file.db", connect_args={"timeout": 60}
    )
    yield engine
    loop.run_until_complete(engine.dispose())


async def test_sessions_and_waits_at_the_same_time(loop, engine):
    """(T3.6)"""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = sqlalchemy_asyncio.async_sessionmaker(engine)

    async def one(number):
        wait()
        async with sessions() as session:
            session.add(User(name=f"user {number}"))
            wait()
            await session.commit()
        async with sessions() as session:
            wait(delay=0.002 * (number % 3))
            found = await session.execute(
                sqlalchemy.select(User.name).where(User.name == f"user {number}")
            )
            return found.scalar_one()

    names = await asyncio.gather(*(one(number) for number in range(12)))
    assert names == [f"user {number}" for number in range(12)]


async def test_a_property_waits_for_a_session(loop, engine):
    """A whole session within an ordinary function. (T3.6)"""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = sqlalchemy_asyncio.async_sessionmaker(engine)

    async def count():
        async with sessions() as session:
            session.add(User(name="one"))
            await session.commit()
            return len((await session.execute(sqlalchemy.select(User))).all())

    class Report:
        @property
        def users(self):
            return await_(count())

    async def report():
        return Report().users

    assert sorted(await asyncio.gather(*(report() for _ in range(4))))[-1] == 4


def spawned(value, delay):
    """Runs in a greenlet of SQLAlchemy."""
    first = await_only(slow(value, delay))
    second = wait(value, delay)
    return first + second


def spawned_by_awaitlet(value, delay):
    first = awaitlet.awaitlet(slow(value, delay))
    second = wait(value, delay)
    return first + second


async def test_waits_within_a_spawn_and_spawns_within_waits(loop):
    """(T3.6)"""

    async def spawns(number):
        wait()
        return await greenlet_spawn(spawned, number, 0.001 * (number % 4))

    async def waits(number):
        return await_(greenlet_spawn(spawned, number, 0.001 * (number % 3)))

    async def async_defs(number):
        wait()
        return await awaitlet.async_def(spawned_by_awaitlet, number, 0.001 * (number % 4))

    async def nested(number):
        async def within():
            wait()
            return await greenlet_spawn(spawned, number, 0.001)

        return await_(within())

    for kind in (spawns, waits, async_defs, nested):
        results = await asyncio.gather(*(kind(number) for number in range(20)))
        assert results == [2 * number for number in range(20)]
    kinds = [spawns, waits, async_defs, nested] * 10
    results = await asyncio.gather(*(kind(number) for number, kind in enumerate(kinds)))
    assert results == [2 * number for number in range(40)]


async def test_exceptions_and_cancellation_of_spawns(loop):
    """(T3.6)"""

    def raises_within():
        with pytest.raises(ZeroDivisionError):
            await_only(fails())
        with pytest.raises(ZeroDivisionError):
            await_(fails())
        await_only(fails())

    def cancelled_within():
        try:
            await_only(slow(delay=10))
        except asyncio.CancelledError:
            return "cancelled"

    async def raising():
        wait()
        with pytest.raises(ZeroDivisionError):
            await greenlet_spawn(raises_within)
        return True

    async def cancelled():
        wait()
        return await greenlet_spawn(cancelled_within)

    tasks = [loop.create_task(cancelled()) for _ in range(5)]
    assert all(await asyncio.gather(*(raising() for _ in range(10))))
    wait(delay=0.01)
    for task in tasks:
        task.cancel()
    assert await asyncio.gather(*tasks) == ["cancelled"] * 5


@pytest.mark.parametrize("own", [False, True])
async def test_portals_of_greenback(loop, own):
    """Variables are those of the right task. (T3.6)"""

    async def one(number):
        variable.set(number)
        wait()
        await greenback.ensure_portal()
        for _ in range(3):
            await asyncio.sleep(0.001 * (number % 3))
            assert variable.get() == number
            assert (wait if own else greenback_wait)(number) == number
            assert variable.get() == number
        return number

    def greenback_wait(value):
        return greenback.await_(slow(value))

    async def other(number):
        variable.set(-number)
        for _ in range(10):
            wait(delay=0.001)
            assert variable.get() == -number
        return -number

    results = await asyncio.gather(*(one(n) for n in range(1, 9)), *(other(n) for n in range(1, 9)))
    assert results == [*range(1, 9), *range(-1, -9, -1)]


async def test_all_of_them_in_one_task(loop):
    """(T3.6)"""

    async def one(number):
        variable.set(number)
        await greenback.ensure_portal()
        value = await greenlet_spawn(spawned, number, 0.001)
        wait()
        value += greenback.await_(greenlet_spawn(spawned, number, 0.001))
        value += await_(awaitlet.async_def(spawned_by_awaitlet, number, 0.001))
        assert variable.get() == number
        return value

    async def waits():
        for _ in range(20):
            wait()

    results = await asyncio.gather(*(one(number) for number in range(10)), waits(), waits())
    assert results[:10] == [6 * number for number in range(10)]


async def test_an_unknown_greenlet_is_refused(loop):
    """(T3.25)"""
    caught = []

    def within():
        assert not sync.can_await()
        try:
            wait()
        except sync.SyncAwaitError as error:
            caught.append(str(error))

    greenlet.greenlet(within).switch()
    assert "greenlet of an unknown library" in caught[0]
    assert wait(5) == 5


def test_a_loop_runs_in_the_greenlet_of_somebody(loop):
    """(T3.28)"""

    async def main():
        return await asyncio.gather(*(one(number) for number in range(10)))

    async def one(number):
        return wait(number, 0.001 * (number % 3))

    runner = greenlet.greenlet(lambda: loop.run_until_complete(main()))
    assert runner.switch() == list(range(10))
