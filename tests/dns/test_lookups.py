"""Lookups on the resolver's threads: slow ones, many, cancelled, and when loop or process end."""

import asyncio
import gc
import shutil
import socket
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

# Names that begin with "slow" wait until a file is removed; "counted" names count in that file's
# neighbour how many are under way at most.
RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int under_way, most;

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **list) {
    static int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!next)
        next = (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))
            dlsym(RTLD_NEXT, "getaddrinfo");
    if (host && !strncmp(host, "slow", 4)) {
        int now = ++under_way;
        if (now > most) most = now;
        while (access(getenv("GATE"), F_OK) == 0) usleep(1000);
        under_way--;
        host = "127.0.0.1";
    }
    if (host && !strcmp(host, "most")) {
        static char text[16];
        snprintf(text, sizeof text, "%d", (int)most);
        return next("127.0.0.1", text, hints, list);
    }
    return next(host, service, hints, list);
}
"""


@pytest.fixture(scope="session")
def slow_resolver(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and LD_PRELOAD to stand in for a slow name server")
    folder = tmp_path_factory.mktemp("resolver")
    source = folder / "resolver.c"
    source.write_text(RESOLVER)
    library = folder / "resolver.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60
    )
    return library


@pytest.fixture
def run_slowly(slow_resolver, run_script, tmp_path):
    """Run a program whose lookups of "slow…" end when the file of the variable GATE is removed."""

    def run(source, **options):
        gate = tmp_path / "gate"
        gate.touch()
        return run_script(source, LD_PRELOAD=str(slow_resolver), GATE=str(gate), **options)

    return run


def test_slow_lookups_block_nobody(run_slowly):
    run_slowly("""
        async def main():
            loop = asyncio.get_running_loop()
            slow = [asyncio.ensure_future(loop.getaddrinfo(f"slow{n}", 80)) for n in range(10)]
            assert await loop.getaddrinfo("127.0.0.1", 80)
            assert await asyncio.wait_for(loop.getaddrinfo("localhost", 80), 60)
            assert await asyncio.wait_for(loop.run_in_executor(None, lambda: 5), 60) == 5
            assert not any(task.done() for task in slow)
            os.remove(os.environ["GATE"])
            for found in await asyncio.wait_for(asyncio.gather(*slow), 60):
                assert found[0][4] == ("127.0.0.1", 80)
        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """)


def test_threads_are_bounded(run_slowly):
    run_slowly("""
        async def main():
            loop = asyncio.get_running_loop()
            before = len(os.listdir("/proc/self/task"))
            slow = [asyncio.ensure_future(loop.getaddrinfo(f"slow{n}", 80)) for n in range(200)]
            await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/task")) - before <= 16
            os.remove(os.environ["GATE"])
            await asyncio.wait_for(asyncio.gather(*slow), 60)
            [(*_, (host, most)), *_] = await loop.getaddrinfo("most", 0)
            assert 1 <= most <= 16, most
        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """)


def test_a_stuck_lookup_does_not_hold_up_the_exit(run_slowly):
    done = run_slowly(
        """
        async def main():
            loop = asyncio.get_running_loop()
            try:
                await asyncio.wait_for(loop.getaddrinfo("slow", 80), 0.1)
            except TimeoutError:
                print("timed out")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """,
        # It would never end.
        timeout=120,
    )
    assert done.stdout == "timed out\n"


def test_closing_the_loop_while_a_lookup_is_under_way(run_slowly):
    run_slowly("""
        before = set(os.listdir("/proc/self/fd"))
        loops = []
        for number in range(3):
            loop = new_event_loop()
            lookup = loop.getaddrinfo(f"slow{number}", 80)
            lookup.send(None)
            loop.close()
            lookup.close()
            loops.append(loop)
        assert set(os.listdir("/proc/self/fd")) == before
        os.remove(os.environ["GATE"])
        loop = new_event_loop()
        assert loop.run_until_complete(loop.getaddrinfo("localhost", 80))
        loop.close()
    """)


def test_cancelled_lookups_that_have_not_begun_never_do(run_slowly):
    run_slowly("""
        async def main():
            loop = asyncio.get_running_loop()
            slow = [asyncio.ensure_future(loop.getaddrinfo(f"slow{n}", 80)) for n in range(16)]
            await asyncio.sleep(0)
            late = [asyncio.ensure_future(loop.getaddrinfo(f"slow{n}", 80)) for n in range(100)]
            await asyncio.sleep(0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            assert all(task.cancelled() for task in late)
            os.remove(os.environ["GATE"])
            assert len(await asyncio.wait_for(asyncio.gather(*slow), 60)) == 16
        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """)


def test_the_child_of_a_fork_has_a_resolver_of_its_own(run_slowly):
    run_slowly("""
        async def main():
            loop = asyncio.get_running_loop()
            slow = [asyncio.ensure_future(loop.getaddrinfo(f"slow{n}", 80)) for n in range(20)]
            await asyncio.sleep(0.01)
            return slow
        loop = new_event_loop()
        slow = loop.run_until_complete(main())
        child = os.fork()
        if child == 0:
            os.environ["GATE"] = "/nonexistent"
            own = new_event_loop()
            found = own.run_until_complete(own.getaddrinfo("localhost", 80))
            os._exit(0 if found else 1)
        assert os.waitpid(child, 0)[1] == 0
        os.remove(os.environ["GATE"])
        loop.run_until_complete(asyncio.wait_for(asyncio.gather(*slow), 60))
        loop.close()
    """)


def test_idle_threads_end_and_signals_stay_with_the_program(run_script):
    run_script("""
        loop = new_event_loop()
        loop.run_until_complete(loop.getaddrinfo("localhost", 80))
        for task in os.listdir("/proc/self/task"):
            status = open(f"/proc/self/task/{task}/status").read()
            if "hybridloop-dns" in status:
                blocked = int(status.split("SigBlk:")[1].split()[0], 16)
                assert blocked & 1 << (signal.SIGINT - 1), status
                break
        else:
            raise AssertionError("no thread of the resolver")
        deadline = time.monotonic() + 60
        while len(os.listdir("/proc/self/task")) > 1:
            assert time.monotonic() < deadline, "the thread stays"
            time.sleep(0.1)
        assert loop.run_until_complete(loop.getaddrinfo("localhost", 80))
        loop.close()
    """)


async def test_many_at_once(loop):
    found = await asyncio.gather(*(loop.getaddrinfo("localhost", port) for port in range(1, 300)))
    assert [entries[0][4][1] for entries in found] == list(range(1, 300))


async def test_not_starved_by_the_executor(loop):
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        loop.set_default_executor(executor)
        busy = loop.run_in_executor(None, release.wait)
        try:
            assert await asyncio.wait_for(loop.getaddrinfo("localhost", 80), 60)
        finally:
            release.set()
        await busy


async def test_cancelled_lookup(loop):
    task = asyncio.ensure_future(loop.getaddrinfo("localhost", 80))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await loop.getaddrinfo("localhost", 80)


async def test_literals_use_no_thread(loop):
    with mock.patch.object(loop, "run_in_executor", side_effect=AssertionError):
        threads = set(threading.enumerate())
        assert await loop.getaddrinfo("127.0.0.1", 80)
        assert await loop.getnameinfo(
            ("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        ) == ("127.0.0.1", "80")
        assert set(threading.enumerate()) <= threads


async def test_literals_do_not_wait(loop):
    with pytest.raises(StopIteration) as stop:
        loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM).send(None)
    assert stop.value.value[0][4] == ("127.0.0.1", 80)


@pytest.mark.parametrize("module", ["socket", "_socket"])
async def test_replaced_function_is_called(loop, module):
    calls = []

    def replacement(*args):
        calls.append(args)
        return [(2, 1, 6, "", ("10.0.0.1", 80))]

    with mock.patch(f"{module}.getaddrinfo", replacement):
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert found == [(2, 1, 6, "", ("10.0.0.1", 80))]
    assert calls == [("127.0.0.1", 80, 0, socket.SOCK_STREAM, 0, 0)]
    assert (await loop.getaddrinfo("127.0.0.1", 80))[0][4] == ("127.0.0.1", 80)


async def test_debug_mode_goes_the_way_of_asyncio(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    with caplog.at_level("DEBUG", "asyncio"):
        assert await loop.getaddrinfo("127.0.0.1", 80)
    assert any("Getting address info 127.0.0.1:80" in text for text in caplog.messages)


def test_audit_hook_sees_lookups(run_script):
    run_script("""
        seen = []
        sys.addaudithook(lambda name, args: seen.append((name, args)) if "getaddr" in name else 0)
        loop = new_event_loop()
        loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80, type=1))
        loop.close()
        assert seen == [("socket.getaddrinfo", ("127.0.0.1", 80, 0, 1, 0))], seen
    """)


async def test_never_awaited(loop):
    with pytest.warns(RuntimeWarning, match="getaddrinfo' was never awaited"):
        loop.getaddrinfo("127.0.0.1", 80)
        gc.collect()


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: loop.getaddrinfo(),
        lambda loop: loop.getaddrinfo("::1"),
        lambda loop: loop.getaddrinfo("::1", 80, 0),
        lambda loop: loop.getaddrinfo("::1", 80, kind=0),
        lambda loop: loop.getaddrinfo("::1", 80, port=0),
    ],
    ids=["none", "no port", "too many", "unknown keyword", "twice"],
)
async def test_a_wrong_number_of_arguments_raises_at_the_call(loop, call):
    with pytest.raises(TypeError):
        call(loop)


async def test_connecting_by_name(loop):
    server = await loop.create_server(asyncio.Protocol, "localhost", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(asyncio.Protocol, "localhost", port)
    assert transport.get_extra_info("peername")[1] == port
    transport.abort()
    server.close()
    await server.wait_closed()


def test_a_loop_with_lookups_is_collected(loop_factory):
    loop = loop_factory()
    gone = weakref.ref(loop)
    lookup = loop.getaddrinfo("localhost", 80)
    lookup.send(None)
    loop.lookup = lookup
    loop.close()
    del loop, lookup
    gc.collect()
    assert gone() is None


async def test_getnameinfo_needs_no_executor(loop):
    with ThreadPoolExecutor(1) as executor:
        loop.set_default_executor(executor)
        with mock.patch.object(executor, "submit", side_effect=AssertionError):
            assert await loop.getnameinfo(("127.0.0.1", 80)) == socket.getnameinfo(
                ("127.0.0.1", 80), 0
            )


async def test_getnameinfo_that_was_replaced_is_called(loop):
    with mock.patch.object(socket, "getnameinfo", return_value=("theirs", "1")):
        assert await loop.getnameinfo(("127.0.0.1", 80)) == ("theirs", "1")


async def test_getnameinfo_cancelled(loop):
    task = asyncio.ensure_future(loop.getnameinfo(("127.0.0.1", 80)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await loop.getnameinfo(("127.0.0.1", 80)) == socket.getnameinfo(("127.0.0.1", 80), 0)
