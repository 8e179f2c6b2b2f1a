"""Fixtures of all tests: the loop under test, time limits, and what counts as a clean end.

``HYBRIDLOOP_TEST_LOOP`` names the module whose ``new_event_loop`` the tests use. Run with
``HYBRIDLOOP_TEST_LOOP=asyncio`` to check the tests themselves against stock asyncio; tests marked
``improves_on_asyncio`` are deselected there. With ``HYBRIDLOOP_TEST_SYNC=1`` hybridloop's loops run
in greenlets, as in programs that use ``hybridloop.sync`` (T3.30). The arguments of a test are in a
private attribute of pytest's items.
"""

import asyncio
import faulthandler
import gc
import importlib
import inspect
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import traceback
import warnings
from pathlib import Path

import pytest

from tests.support.descriptors import name_of, open_fds

# Whatever asyncio has changed in what is overridden here shall fail the tests.
os.environ.setdefault("HYBRIDLOOP_STRICT_ASYNCIO", "1")

if os.environ.get("HYBRIDLOOP_TEST_SYNC", "0") != "0":
    importlib.import_module("hybridloop.sync")

LOOP_MODULE = os.environ.get("HYBRIDLOOP_TEST_LOOP", "hybridloop")
# All limits are far away: they end what hangs, and a busy machine reaches none of them.
TEST_TIMEOUT = 300
real_stderr = pytest.StashKey()


def turned_off(name):
    """Whether `HYBRIDLOOP_SAFE` turns off what `hybridloop.build_info()["unstable"]` calls so."""
    if os.environ.get("HYBRIDLOOP_SAFE", "0") in ("", "0"):
        return False  # what is off then is a fault
    return not importlib.import_module("hybridloop").build_info()["unstable"][name]


def pytest_configure(config):
    config.stash[real_stderr] = os.dup(2)  # nothing is captured yet
    # A shell starts background jobs with Ctrl-C ignored, and their children would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "improves_on_asyncio: asserts a documented improvement over asyncio's own loop; "
        "deselected when the tests run on stock asyncio",
    )
    config.addinivalue_line(
        "markers", "only(*kinds): the kinds of loops on which a test makes sense"
    )


def pytest_unconfigure(config):
    os.close(config.stash[real_stderr])


def pytest_report_header(config):
    return f"event loop under test: {LOOP_MODULE}.new_event_loop()"


def pytest_collection_modifyitems(config, items):
    kept, deselected = [], []
    for item in items:
        if LOOP_MODULE == "asyncio" and item.get_closest_marker("improves_on_asyncio"):
            deselected.append(item)
            continue
        kept.append(item)
        if "clean_end" in item.fixturenames:
            item.add_marker(pytest.mark.filterwarnings("error::ResourceWarning"))
            item.add_marker(
                pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
            )
            item.add_marker(
                pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
            )
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT, method="signal"))
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept


def pytest_make_parametrize_id(val):
    """Show values in test ids by which pytest would only show their number in the list."""
    if isinstance(val, (str, int, float, type, type(None))) or callable(val):
        return None
    text = repr(val)
    if " at 0x" in text:
        return type(val).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """End the process with a traceback if even the signal of pytest-timeout goes unheard."""
    marker = item.get_closest_marker("timeout")
    if "clean_end" not in getattr(item, "fixturenames", ()) or marker is None:
        return (yield)
    faulthandler.dump_traceback_later(
        marker.args[0] + 30, exit=True, file=item.config.stash[real_stderr]
    )
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run ``async def`` tests on the ``loop`` fixture."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or "loop" not in pyfuncitem.funcargs:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    pyfuncitem.funcargs["loop"].run_until_complete(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session")
def loop_factory():
    """The function that makes the loop under test."""
    return importlib.import_module(LOOP_MODULE).new_event_loop


@pytest.fixture
def loop(loop_factory):
    """A fresh loop; closed the way ``asyncio.Runner`` does it."""
    loop = loop_factory()
    loop.slow_callback_duration = 10  # a busy machine is no fault of a test
    if hasattr(loop, "cork_interval"):
        loop.cork_interval = 60  # as above
    try:
        yield loop
    finally:
        if not loop.is_closed():
            try:
                shut_down(loop)
            finally:
                loop.close()


def shut_down(loop):
    pending = asyncio.all_tasks(loop)
    for task in pending:
        task.cancel()
    if pending:
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())


class LogCollector(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.records = []
        self.expected = False

    def emit(self, record):
        self.records.append(record)

    @property
    def messages(self):
        return [record.getMessage() for record in self.records]


@pytest.fixture(autouse=True, scope="module")
def collect_only_what_is_new():
    """Keep what was there before a module's tests, imports above all, out of their collections."""
    # What earlier modules have left unclosed is no error of this one, whatever its filters are.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
    gc.freeze()


@pytest.fixture
def clean_end():
    """Fail a test that leaves behind an open fd or an error nobody asked for."""
    collector = LogCollector()
    logger = logging.getLogger("asyncio")
    before = open_fds()
    logger.addHandler(collector)
    try:
        yield collector
    finally:
        logger.removeHandler(collector)
    leaked = left_open(before)
    assert not leaked, f"open file descriptors left behind: {leaked}"
    if not collector.expected:
        errors = [describe(record) for record in collector.records]
        assert not errors, "unexpected asyncio log records:\n" + "\n".join(errors)


def left_open(before, patience=10):
    """Descriptors that were not there before, and stay.

    A thread that has ended closes its own later; a cancelled lookup goes on in a thread that reads
    /etc/hosts.
    """
    deadline = time.monotonic() + patience
    while True:
        gc.collect()
        leaked = {fd: name_of(fd) for fd in open_fds() - before}
        if not leaked or time.monotonic() > deadline:
            return leaked
        time.sleep(0.01)


def describe(record):
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + "".join(traceback.format_exception(*record.exc_info))
    return text


@pytest.fixture
def asyncio_log(clean_end):
    """What the ``asyncio`` logger said at WARNING and above; the test checks it itself."""
    clean_end.expected = True
    return clean_end


@pytest.fixture
def unhandled(loop):
    """The contexts given to the loop's exception handler; the test checks them itself."""
    contexts = []
    loop.set_exception_handler(lambda _loop, context: contexts.append(context))
    return contexts


@pytest.fixture
def run_until(loop):
    """Run the loop until a condition holds."""

    def run_until(condition, timeout=60):
        loop.run_until_complete(wait_for_condition(condition, timeout))

    return run_until


@pytest.fixture
def eventually():
    """Inside a coroutine: wait until a condition holds."""
    return wait_for_condition


async def wait_for_condition(condition, timeout=60):
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            source = inspect.getsource(condition).strip()
            raise AssertionError(f"not true within {timeout} s: {source}")
        await asyncio.sleep(0.001)
    return result


@pytest.fixture
def iterate(loop):
    """Run the loop for exactly the callbacks that are ready (and a few iterations more)."""

    def iterate(count=1):
        for _ in range(count):
            loop.call_soon(loop.stop)
            loop.run_forever()

    return iterate


SCRIPT_HEAD = f"""\
import asyncio, importlib, os, signal, sys, threading, time
new_event_loop = importlib.import_module({LOOP_MODULE!r}).new_event_loop
"""


@pytest.fixture
def script_env():
    path = [str(Path(__file__).parent.parent), *(entry for entry in sys.path if entry)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def run_script(script_env):
    """Run a program with ``new_event_loop`` defined in a process of its own."""

    def run_script(source, *, check=True, timeout=300, **env):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT_HEAD + textwrap.dedent(source)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**script_env, **env},
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run_script


@pytest.fixture
def start_script(script_env):
    """Start such a program and give back the running process, stdin and stdout piped."""
    processes = []

    def start_script(source):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT_HEAD + textwrap.dedent(source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=script_env,
        )
        processes.append(process)
        return process

    yield start_script
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def next_owner():
    """``owner, other = next_owner(fd)``: a socket that gets the number, and its peer."""
    opened = []

    def moved(sock, fd):
        family, kind, proto, before = sock.family, sock.type, sock.proto, sock.detach()
        if before != fd:
            os.dup2(before, fd)
            os.close(before)
        opened.append(socket.socket(family, kind, proto, fileno=fd))
        return opened[-1]

    def next_owner(fd, sock=None):
        if sock is not None:
            return moved(sock, fd), None
        ours, theirs = socket.socketpair()
        if theirs.fileno() == fd:
            ours, theirs = theirs, ours
        theirs.setblocking(False)
        opened.append(theirs)
        return moved(ours, fd), theirs

    yield next_owner
    for sock in opened:
        sock.close()
