"""Which modules of test.test_asyncio run, in which order, and why the others do not."""

import importlib
import importlib.util
import pkgutil
import sys

PACKAGE = "test.test_asyncio"

# Slowest first, so that parallel jobs end together.
MODULES = (
    "test_subprocess",
    "test_tasks",
    "test_taskgroups",
    "test_ssl",
    "test_sslproto",
    "test_eager_task_factory",
    "test_events",
    "test_base_events",
    "test_free_threading",
    "test_waitfor",
    "test_streams",
    "test_locks",
    "test_unix_events",
    "test_sock_lowlevel",
    "test_sendfile",
    "test_timeouts",
    "test_server",
    "test_runners",
    "test_context",
    "test_queues",
    "test_staggered",
    "test_threads",
    "test_futures2",
    "test_graph",
    "test_server_context",
    "test_buffered_proto",
)

# These never create a default loop: whatever loop is under test, they would test CPython alone.
LEFT_OUT = {
    "test_futures": "futures on the harness's own loop of simulated time",
    "test_pep492": "coroutines on a bare BaseEventLoop",
    "test_protocols": "the protocol base classes",
    "test_transports": "the transport base classes",
    "test_selector_events": "asyncio's selector loop and its transports on mock sockets",
    "test_proactor_events": "asyncio's proactor loop, for Windows",
    "test_tools": "how asyncio looks into other processes",
    "test_windows_events": "asyncio's loops for Windows",
    "test_windows_utils": "asyncio's pipes for Windows",
}

# Left out likewise on the Pythons before.
UNUSED_BEFORE = {"test_runners": (3, 13)}

# One class per selector of the standard library. The loop under test brings its own poller, so
# these would only repeat SelectEventLoopTests, the variant that every platform has.
SELECTOR_VARIANTS = frozenset(
    {"EPollEventLoopTests", "KqueueEventLoopTests", "PollEventLoopTests"},
)


def why_unavailable() -> str | None:
    """Say why the tests cannot run on this Python, or None when they can."""
    try:
        found = importlib.util.find_spec(PACKAGE)
    except ImportError:
        found = None
    if found is None:
        return (
            f"this Python comes without CPython's own tests ({PACKAGE}); distributions ship them "
            "apart, for instance as libpython3-testsuite on Debian"
        )
    return None


def creates_loops(name: str) -> bool:
    """Whether the module's tests are known to create the default loop on this Python."""
    return name in MODULES and sys.version_info >= UNUSED_BEFORE.get(name, (3, 11))


def available() -> list[str]:
    """The modules to run on this Python: those listed, then those of a newer Python."""
    package = importlib.import_module(PACKAGE)
    present = {info.name for info in pkgutil.iter_modules(package.__path__)}
    listed = [name for name in MODULES if name in present and creates_loops(name)]
    new = sorted(name for name in present.difference(MODULES, LEFT_OUT) if name.startswith("test_"))
    return listed + new
