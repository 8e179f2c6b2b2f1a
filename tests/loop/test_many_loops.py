"""Loops are cheap, independent and leave nothing behind."""

import asyncio
import gc
import socket
import threading
import weakref

from tests.support.descriptors import open_fds

FAR = 3600


def test_loops_in_several_threads(loop_factory):
    results, errors = {}, []

    async def echo(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    async def main(number):
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        count = 0
        for step in range(200):
            line = f"{number} {step}\n".encode()
            writer.write(line)
            assert await reader.readline() == line
            count += 1
            if step % 20 == 0:
                await asyncio.sleep(0.001)
        writer.close()
        await writer.wait_closed()
        while len(asyncio.all_tasks()) > 1:  # the handler
            await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()
        return count

    def run(number):
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                results[number] = runner.run(main(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert results == dict.fromkeys(range(8), 200)


def test_loops_that_call_each_other(loop_factory):
    """A ring of loops hands a token on through call_soon_threadsafe."""
    loops = [loop_factory() for _ in range(4)]
    hops = []
    limit = 2000

    def hop(index):
        hops.append(index)
        if len(hops) >= limit:
            for each in loops:
                each.call_soon_threadsafe(each.stop)
        else:
            after = (index + 1) % len(loops)
            loops[after].call_soon_threadsafe(hop, after)

    threads = [threading.Thread(target=each.run_forever) for each in loops]
    for thread in threads:
        thread.start()
    loops[0].call_soon_threadsafe(hop, 0)
    for thread in threads:
        thread.join()
    for each in loops:
        each.close()
    assert len(hops) == limit
    assert hops == [number % 4 for number in range(limit)]


def test_creating_and_closing_many_loops(loop_factory):
    before = open_fds()
    for _ in range(200):
        loop_factory().close()
    assert open_fds() <= before


def test_creating_running_and_closing_many_loops(loop_factory):
    for number in range(200):
        loop = loop_factory()
        ours, theirs = socket.socketpair()
        loop.add_reader(ours, int)
        loop.call_later(FAR, int)
        assert loop.run_until_complete(asyncio.sleep(0, number)) == number
        loop.close()
        ours.close()
        theirs.close()


def test_many_loops_alive_at_once(loop_factory):
    loops = [loop_factory() for _ in range(50)]
    for number, loop in enumerate(loops):
        assert loop.run_until_complete(asyncio.sleep(0.0001, number)) == number
    for loop in loops:
        loop.close()


def test_interleaved_runs(loop_factory):
    one, two = loop_factory(), loop_factory()
    seen = []
    for number in range(20):
        for name, loop in (("one", one), ("two", two)):
            loop.call_soon(seen.append, (name, number))
            loop.call_soon(loop.stop)
            loop.run_forever()
    one.close()
    two.close()
    assert seen == [(name, number) for number in range(20) for name in ("one", "two")]


def test_closed_loops_are_freed(loop_factory):
    references = []
    for _ in range(20):
        loop = loop_factory()
        loop.run_until_complete(asyncio.sleep(0))
        loop.call_soon(loop.stop)
        loop.call_later(FAR, loop.stop)
        loop.close()
        references.append(weakref.ref(loop))
    del loop
    gc.collect()
    assert [reference() for reference in references] == [None] * 20


def test_loop_freed_in_another_thread_than_its_own(loop_factory):
    holder = [loop_factory()]
    holder[0].run_until_complete(asyncio.sleep(0))
    holder[0].call_soon(int)
    holder[0].close()
    reference = weakref.ref(holder[0])
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert reference() is None


def test_interpreter_exit_with_an_open_loop(run_script):
    """No crash and no hang when nobody closes."""
    done = run_script(
        """
        import socket
        ours, theirs = socket.socketpair()
        loop = new_event_loop()
        loop.add_reader(ours, print)
        loop.call_later(3600, print)
        loop.call_soon(print)
        loop.run_until_complete(asyncio.sleep(0))
        """
    )
    assert "Fatal" not in done.stderr


def test_interpreter_exit_with_a_loop_running_in_a_daemon_thread(run_script):
    run_script(
        """
        loop = new_event_loop()
        started = threading.Event()
        loop.call_soon(started.set)
        threading.Thread(target=loop.run_forever, daemon=True).start()
        assert started.wait(60)
        """
    )
