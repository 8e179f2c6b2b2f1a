"""os.fork() and multiprocessing with loops that live, run and serve."""

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

HEAD = """
        import socket, traceback, warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        def forked(work):
            "Exit status of a child that runs `work`."
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    work()
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def descriptors():
            return {int(name) for name in os.listdir("/proc/self/fd")}

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)

        async def serve():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            return server, server.sockets[0].getsockname()

        async def ask(address, data):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(data)
            answer = await reader.readexactly(len(data))
            writer.close()
            await writer.wait_closed()
            return answer
"""


def test_fork_in_a_callback_with_open_connections(run_script):
    """The child runs a loop of its own; the connections of the parent do not notice."""
    run_script(
        HEAD
        + """
        async def child_main():
            server, address = await serve()
            assert await ask(address, b"in the child") == b"in the child"
            server.close()

        def child():
            asyncio._set_running_loop(None)
            loop = new_event_loop()
            loop.run_until_complete(child_main())
            loop.close()

        async def main():
            server, address = await serve()
            connections = [await asyncio.open_connection(*address) for _ in range(5)]
            for reader, writer in connections:
                writer.write(b"before")
                assert await reader.readexactly(6) == b"before"
            for _ in range(3):
                assert forked(child) == 0
                for reader, writer in connections:
                    writer.write(b"after")
                    assert await reader.readexactly(5) == b"after"
            assert await ask(address, b"new") == b"new"
            for _, writer in connections:
                writer.close()
                await writer.wait_closed()
            server.close()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """
    )


def test_fork_inside_data_received(run_script):
    """What was written and is not sent yet leaves once: from the parent."""
    run_script(
        HEAD
        + """
        class Forking(Echo):
            def data_received(self, data):
                self.transport.write(data)
                assert forked(lambda: None) == 0
                self.transport.write(b"!")

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Forking, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            assert await reader.readexactly(6) == b"hello!"
            writer.write(b"again")
            assert await reader.readexactly(6) == b"again!"
            writer.close()
            server.close()
            await asyncio.sleep(0.01)

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """
    )


def test_child_that_drops_the_parents_loop(run_script):
    """Garbage collection and exit in the child close its copies and nothing of the parent's."""
    run_script(
        HEAD
        + """
        import gc
        async def main():
            global loop
            server, address = await serve()
            reader, writer = await asyncio.open_connection(*address)
            asyncio.get_running_loop().call_later(3600, int)

            def child():
                global loop, state
                asyncio._set_running_loop(None)
                warnings.simplefilter("ignore")
                loop = state = None
                gc.collect()

            assert forked(child) == 0
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            writer.close()
            server.close()
            await asyncio.sleep(0.01)

        state = loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """
    )


def test_grandchildren(run_script):
    run_script(
        HEAD
        + """
        def generation(left):
            loop = new_event_loop()
            async def main():
                server, address = await serve()
                assert await ask(address, b"x") == b"x"
                server.close()
            loop.run_until_complete(main())
            if left:
                assert forked(lambda: generation(left - 1)) == 0
            loop.run_until_complete(main())
            loop.close()

        generation(3)
        """
    )


def test_fork_while_another_thread_runs_a_loop(run_script):
    """Calls from the child's copies go nowhere; the thread's loop goes on."""
    run_script(
        HEAD
        + """
        ticks = []
        loop = new_event_loop()
        def tick():
            ticks.append(time.monotonic())
            loop.call_later(0.001, tick)
        loop.call_soon(tick)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        def child():
            own = new_event_loop()
            assert own.run_until_complete(asyncio.sleep(0.001, "done")) == "done"
            own.close()

        for _ in range(5):
            assert forked(child) == 0
        seen = len(ticks)
        deadline = time.monotonic() + 60
        while len(ticks) < seen + 5:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        assert not thread.is_alive()
        loop.close()
        """
    )


def test_signals_of_the_child_stay_there(run_script):
    run_script(
        HEAD
        + """
        seen = []
        async def main():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "parent")

            def child():
                asyncio._set_running_loop(None)
                caught = []
                own = new_event_loop()
                own.add_signal_handler(signal.SIGUSR1, caught.append, "child")
                os.kill(os.getpid(), signal.SIGUSR1)
                own.run_until_complete(asyncio.sleep(0.01))
                assert caught == ["child"], caught
                own.close()

            assert forked(child) == 0
            await asyncio.sleep(0.01)
            assert seen == []
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
            assert seen == ["parent"]

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """
    )


PROGRAM = """
import asyncio
import importlib
import multiprocessing
import os
import sys

name = os.environ.get("HYBRIDLOOP_TEST_LOOP", "hybridloop")
new_event_loop = importlib.import_module(name).new_event_loop


async def echo(reader, writer):
    writer.write(await reader.readexactly(5))
    writer.close()


async def converse():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    answer = await reader.readexactly(5)
    writer.close()
    server.close()
    return answer


def work(number):
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return number, runner.run(converse())


async def main(method):
    from concurrent.futures import ProcessPoolExecutor

    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        calls = [loop.run_in_executor(pool, work, number) for number in range(6)]
        assert await converse() == b"hello"
        results = await asyncio.gather(*calls)
    assert results == [(number, b"hello") for number in range(6)], results


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pool(script_env, tmp_path, method):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(path), method],
        capture_output=True,
        text=True,
        timeout=300,
        env=script_env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
