"""Threads that share what belongs to one loop, wrongly and all at the same time.

What they try may be refused, or happen in any order; but the process goes on, nothing that others
rely on breaks, and nothing is lost. With a global interpreter lock that is hardly a question,
without one it is.
"""

import textwrap

import pytest

pytestmark = [
    pytest.mark.improves_on_asyncio,
    pytest.mark.usefixtures("clean_end"),
]

HEAD = """
import contextlib, faulthandler, gc, logging, socket, warnings, weakref

faulthandler.dump_traceback_later(280)
logging.disable()
sys.setswitchinterval(1e-5)
REFUSALS = (
    RuntimeError, ValueError, OSError, EOFError, AssertionError,
    asyncio.InvalidStateError, asyncio.CancelledError,
)
refused = []

def wrongly(call, *args):
    try:
        return call(*args)
    except REFUSALS as error:
        refused.append(error)

class Threads:
    '''Each repeats one of the bodies until the block ends; what they raise is raised there.'''

    def __init__(self, *bodies):
        self.end, self.errors = threading.Event(), []
        self.threads = [threading.Thread(target=self.repeat, args=(body,)) for body in bodies]

    def repeat(self, body):
        try:
            while not self.end.is_set():
                body()
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self):
        for thread in self.threads:
            thread.start()

    def __exit__(self, *exception):
        self.end.set()
        for thread in self.threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

def descriptors():
    count = 0
    for fd in range(1024):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            count += 1
    return count

async def until(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        await asyncio.sleep(0.001)

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

@contextlib.asynccontextmanager
async def working():
    '''Somebody who uses the same loop rightly, and whom nothing may disturb.'''
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    ended = False

    async def work():
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        messages = 0
        while not ended or messages < 10:
            message = b"%d" % messages * 100
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
            messages += 1
        writer.close()
        await writer.wait_closed()

    task = loop.create_task(work())
    yield
    ended = True
    await asyncio.wait_for(task, 60)
    server.close()
    await server.wait_closed()
"""


@pytest.fixture
def run(run_script):
    def run(source):
        done = run_script(HEAD + textwrap.dedent(source), timeout=300)
        assert done.stderr == ""
        return done

    return run


@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_transports_that_die_in_other_threads(run, kind):
    """The last reference goes just when the loop has an event for the transport."""
    run(
        f"""
        import collections
        KIND = {kind!r}
        """
        """
        warnings.simplefilter("ignore", ResourceWarning)
        # Not a SimpleQueue: in Python 3.11 its get(timeout=) hangs if another thread was faster.
        graves = collections.deque()
        known = weakref.WeakSet()

        def bury():
            try:
                graves.popleft()
            except IndexError:
                time.sleep(0.001)

        class Paused(asyncio.DatagramProtocol, asyncio.Protocol):
            def connection_made(self, transport):
                transport.pause_reading()

        async def connect(sock):
            loop = asyncio.get_running_loop()
            if KIND == "stream":
                return (await loop.create_connection(Paused, sock=sock))[0]
            return (await loop.create_datagram_endpoint(Paused, sock=sock))[0]

        async def main():
            async with working():
                for _ in range(60):
                    kind = socket.SOCK_STREAM if KIND == "stream" else socket.SOCK_DGRAM
                    pairs = [socket.socketpair(type=kind) for _ in range(10)]
                    transports = [await connect(ours) for ours, _ in pairs]
                    known.update(transports)
                    peers = [theirs for _, theirs in pairs]
                    del pairs
                    for peer in peers:
                        graves.append(transports.pop(0))
                        with contextlib.suppress(OSError):
                            peer.send(b"x")
                        peer.close()
                        await asyncio.sleep(0)
                gc.collect()
                await until(lambda: not known)

        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        before = descriptors()
        with Threads(bury, bury):
            loop.run_until_complete(main())
        gc.collect()
        # On Python 3.11 a server does not wait for its connections.
        loop.run_until_complete(until(lambda: descriptors() == before))
        loop.close()
        """
    )


def test_methods_of_transports(run):
    run(
        """
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            current = []

            def use():
                for transport in current:
                    wrongly(transport.write, b"x" * 100)
                    wrongly(transport.writelines, [b"y"] * 3)
                    wrongly(transport.pause_reading)
                    wrongly(transport.resume_reading)
                    wrongly(transport.set_write_buffer_limits, 10)
                    wrongly(transport.set_protocol, asyncio.Protocol())
                    transport.get_protocol()
                    transport.get_write_buffer_size()
                    transport.get_write_buffer_limits()
                    transport.get_extra_info("socket"), transport.get_extra_info("peername")
                    transport.is_closing(), transport.is_reading()
                    repr(transport)

            def end():
                for transport in current:
                    wrongly(transport.write_eof)
                    wrongly(transport.close)
                    wrongly(transport.abort)

            async with working():
                with Threads(use, use, end):
                    for _ in range(60):
                        transport, _ = await loop.create_connection(
                            Echo, *server.sockets[0].getsockname())
                        current[:] = [transport]
                        # Another thread may have called write_eof() by now.
                        wrongly(transport.write, b"z" * 200_000)
                        for _ in range(5):
                            await asyncio.sleep(0)
                        transport.abort()
                current.clear()
            server.close()

        loop = new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        loop.run_until_complete(main())
        loop.close()
        """
    )


def test_methods_of_the_loop(run):
    run(
        """
        async def main():
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            handles = []

            def schedule():
                handles.append(loop.call_soon(int))
                for call in (loop.call_later, loop.call_at):
                    if handle := wrongly(call, 0.001, int):
                        handles.append(handle)

            def cancel():
                with contextlib.suppress(IndexError):
                    handle = handles.pop()
                    handle.cancel()
                    handle.cancelled(), repr(handle)
                    handle._callback, handle._args, handle._context

            def watch():
                wrongly(loop.add_reader, ours, int)
                wrongly(loop.add_writer, ours, int)
                wrongly(loop.remove_reader, ours)
                wrongly(loop.remove_writer, ours)

            def wait():
                # With another loop, for a future of this one.
                async def receive():
                    return await asyncio.wait_for(loop.sock_recv(ours, 10), 0.01)
                try:
                    wrongly(asyncio.run, receive())
                except TimeoutError:
                    pass

            def look():
                loop.stats(), loop.is_running(), loop.is_closed(), loop.get_debug(), repr(loop)
                wrongly(loop.run_until_complete, loop.create_future())
                wrongly(loop.close)
                loop.poll_skip_iterations = loop.poll_skip_iterations
                loop.poll_skip_interval = loop.poll_skip_interval

            async with working():
                with Threads(schedule, cancel, watch, wait, look):
                    deadline = time.monotonic() + 1
                    while time.monotonic() < deadline or not refused:
                        handles.append(loop.call_soon(int))
                        handles.append(loop.call_later(0.001, int))
                        theirs.send(b"x")
                        await asyncio.sleep(0.001)
            ours.close()
            theirs.close()

        loop = new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        loop.run_until_complete(main())
        loop.close()
        assert refused
        """
    )


def test_a_loop_that_does_not_run(run):
    """Any thread may prepare it, one runs it, one closes it."""
    run(
        """
        # Of coroutines that are refused.
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(20):
            loop = new_event_loop()
            ran, handles = [], []
            ours, theirs = socket.socketpair()
            start = threading.Barrier(5)

            def use():
                start.wait()
                for i in range(50):
                    handles.append(loop.call_soon(ran.append, i))
                    handle = wrongly(loop.call_later, 0, ran.append, i)
                    if handle:
                        handles.append(handle)
                    wrongly(loop.add_reader, ours, int)
                    wrongly(loop.remove_reader, ours)
                    wrongly(handles[i].cancel)

            def iterate():
                start.wait()
                for _ in range(20):
                    wrongly(loop.run_until_complete, asyncio.sleep(0))

            threads = [threading.Thread(target=body) for body in (use, use, use, iterate, iterate)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                # The end of what one thread waits for may have stopped the run of the other.
                loop.call_soon_threadsafe(loop.stop)
                threads[-1].join(0.01)
            left = [handle for handle in handles if not handle.cancelled()]
            for _ in range(3):
                loop.call_soon(loop.stop)
                loop.run_forever()
            assert len(ran) >= len(left), (len(ran), len(left))
            closers = [threading.Thread(target=wrongly, args=(loop.close,)) for _ in range(4)]
            for thread in closers:
                thread.start()
            for thread in closers:
                thread.join()
            assert loop.is_closed()
            ours.close()
            theirs.close()
        """
    )


def test_one_coroutine_in_many_threads(run):
    """One of them drives it to its end; the others get an exception."""
    run(
        """
        import hybridloop

        async def main():
            loop = asyncio.get_running_loop()
            reader = hybridloop.StreamReader(loop=loop)
            returned = []
            start = threading.Barrier(4)
            coroutine = None

            def drive():
                for _ in range(300):
                    start.wait(60)
                    mine = coroutine
                    try:
                        wrongly(mine.send, None)
                    except StopIteration as stop:
                        returned.append(stop.value)
                    start.wait(60)

            threads = [threading.Thread(target=drive) for _ in range(3)]
            for thread in threads:
                thread.start()
            for i in range(300):
                reader.feed_data(b"%03d" % i)
                coroutine = reader.readexactly(3)
                start.wait(60)
                start.wait(60)
            for thread in threads:
                thread.join()
            assert returned == [b"%03d" % i for i in range(300)]

        async def waiting():
            '''None of them has what it waits for.'''
            loop = asyncio.get_running_loop()
            for _ in range(100):
                reader = hybridloop.StreamReader(loop=loop)
                coroutine = reader.read(3)
                start = threading.Barrier(4)

                def poke(how):
                    start.wait(60)
                    for _ in range(3):
                        with contextlib.suppress(StopIteration):
                            wrongly(how)
                            coroutine.cr_await, repr(coroutine), coroutine.cr_running

                bodies = [
                    lambda: coroutine.send(None),
                    lambda: coroutine.throw(ValueError),
                    coroutine.close,
                    lambda: reader.feed_data(b"x"),
                ]
                threads = [threading.Thread(target=poke, args=(body,)) for body in bodies]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                coroutine.close()

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(waiting())
        loop.close()
        """
    )


def test_readers_and_writers(run):
    run(
        """
        import hybridloop

        async def main(open_connection):
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            current = []

            def step(coroutine):
                with contextlib.suppress(StopIteration):
                    wrongly(coroutine.send, None)
                wrongly(coroutine.close)

            def use():
                for reader, writer in current:
                    wrongly(writer.write, b"x" * 100)
                    step(writer.drain())
                    wrongly(writer.is_closing)
                    for read in (reader.read, reader.readexactly, reader.readuntil):
                        step(read(3) if read != reader.readuntil else read(b"x"))
                    wrongly(reader.feed_data, b"data")
                    reader.at_eof(), reader.exception(), bytes(reader._buffer)

            def end():
                for reader, writer in current:
                    wrongly(reader.feed_eof)
                    wrongly(writer.close)

            async with working():
                with Threads(use, use, end):
                    for _ in range(40):
                        current[:] = [await open_connection(*server.sockets[0].getsockname())]
                        writer = current[0][1]
                        for _ in range(5):
                            with contextlib.suppress(Exception):
                                writer.write(b"z" * 1000)
                                await asyncio.wait_for(current[0][0].read(10), 0.001)
                        writer.transport.abort()
                current.clear()
            server.close()

        loop = new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        loop.run_until_complete(main(hybridloop.open_connection))
        loop.close()
        """
    )


def test_jobs(run):
    """One job, which several loops await and several threads cancel, ask and wait for."""
    run(
        """
        import hybridloop

        async def watch(job):
            with contextlib.suppress(asyncio.CancelledError):
                assert await asyncio.shield(asyncio.ensure_future(wait_for(job))) in (None, b"")

        async def wait_for(job):
            return await job

        with hybridloop.Engine(native_threads=2) as engine:
            for i in range(40):
                job = engine.run_native("hl.sleep", 0.002)
                called = []

                def use():
                    wrongly(job.add_done_callback, called.append)
                    job.done(), repr(job), job.cancelled()
                    wrongly(job.remove_done_callback, print)
                    wrongly(job.result, 60)
                    with contextlib.suppress(asyncio.CancelledError):
                        job.exception(60)

                def wait():
                    loop = new_event_loop()
                    try:
                        loop.run_until_complete(watch(job))
                    finally:
                        loop.close()

                def cancel():
                    if i % 3 == 0:
                        job.cancel()

                threads = [threading.Thread(target=body) for body in (use, use, wait, wait, cancel)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
                    assert not thread.is_alive()
                assert job.done()
        """
    )
