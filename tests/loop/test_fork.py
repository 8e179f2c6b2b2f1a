"""os.fork beside a live loop: parent and child go their own ways."""

import os
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

CHILD = """
        def in_child(work):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    work()
                    status = 0
                except BaseException:
                    import traceback
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    os._exit(status)
            return pid

        async def reaped(pid):
            while True:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    assert os.waitstatus_to_exitcode(status) == 0
                    return
                await asyncio.sleep(0.002)
"""


def test_parent_goes_on_serving_and_child_runs_a_new_loop(run_script):
    run_script(
        CHILD
        + """
        async def echo(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        async def ask(port, text):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text + b"\\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return answer.strip()

        async def main():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            assert await ask(port, b"before") == b"before"

            def work():
                loop = new_event_loop()
                assert loop.run_until_complete(ask(port, b"from child")) == b"from child"
                assert loop.run_until_complete(asyncio.sleep(0.001, 1)) == 1
                loop.close()

            children = [in_child(work) for _ in range(3)]
            for child in children:
                await reaped(child)
            for _ in range(20):
                assert await ask(port, b"after") == b"after"
            server.close()
            await server.wait_closed()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """
    )


def test_child_that_exits_at_once_does_not_disturb_the_parents_readers(run_script):
    """The child's copies of the fds must not unregister anything in the parent's poll."""
    run_script(
        CHILD
        + """
        import socket

        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        seen = []
        loop = new_event_loop()
        loop.add_reader(ours, lambda: seen.append(ours.recv(10)))

        async def main():
            await reaped(in_child(lambda: None))
            theirs.send(b"x")
            while not seen:
                await asyncio.sleep(0.001)

        loop.run_until_complete(main())
        assert seen == [b"x"]
        loop.remove_reader(ours)
        loop.close()
        """
    )


def test_child_has_no_running_loop(run_script):
    run_script(
        CHILD
        + """
        def work():
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return
            raise AssertionError("the child thinks a loop is running")

        async def main():
            await reaped(in_child(work))

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """
    )


def test_threadsafe_calls_in_the_parent_still_wake_it(run_script):
    run_script(
        CHILD
        + """
        loop = new_event_loop()

        async def main():
            await reaped(in_child(lambda: None))
            for number in range(100):
                future = loop.create_future()
                threading.Thread(
                    target=loop.call_soon_threadsafe, args=(future.set_result, number)
                ).start()
                assert await future == number

        loop.run_until_complete(main())
        loop.close()
        """
    )


@pytest.mark.skipif(
    sys.platform == "darwin", reason="macOS system libraries do not survive fork without exec"
)
def test_multiprocessing_fork_context(run_script):
    run_script(
        """
        import multiprocessing

        def child(queue):
            loop = new_event_loop()
            queue.put(loop.run_until_complete(asyncio.sleep(0.001, "child")))
            loop.close()

        async def main():
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            assert await asyncio.to_thread(queue.get) == "child"
            await asyncio.to_thread(process.join)
            assert process.exitcode == 0

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """
    )


@pytest.mark.improves_on_asyncio
def test_child_cannot_disturb_the_parents_loop(run_script):
    """asyncio's child changes the selector it shares with its parent, and sends it its signals."""
    run_script(
        CHILD
        + """
        import socket

        async def main():
            loop = asyncio.get_running_loop()
            signals, data = [], []
            loop.add_signal_handler(signal.SIGUSR1, signals.append, 1)
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            loop.add_reader(ours, lambda: data.append(ours.recv(10)))

            def work():
                os.kill(os.getpid(), signal.SIGUSR1)
                loop.remove_reader(ours)
                loop._thread_id = None  # the child has left the run that it was forked in
                try:
                    loop.run_until_complete(asyncio.sleep(0))
                except RuntimeError as error:
                    assert "before a fork" in str(error)
                else:
                    raise AssertionError("ran the parent's loop")
                loop.close()
                new_event_loop().run_until_complete(asyncio.sleep(0))

            await reaped(in_child(work))
            theirs.send(b"still here")
            while not data:
                await asyncio.sleep(0.001)
            assert data == [b"still here"] and not signals
            os.kill(os.getpid(), signal.SIGUSR1)
            while not signals:
                await asyncio.sleep(0.001)
            loop.remove_reader(ours)
            ours.close()
            theirs.close()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """
    )
