"""Runs tests of one stdlib module in this process and reports each of them as it goes.

The parent passes one JSON object on standard input and reads JSON lines from a pipe. Everything
the tests print goes to standard output and error, which the parent has pointed at a file.
"""

import ctypes
import faulthandler
import gc
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
import unittest
from fnmatch import fnmatchcase

from . import loops, modules, replace

PR_SET_PDEATHSIG = 1
RANK = ("pass", "skip", "fail", "error")


class Reporter:
    """Writes events to the parent; a child forked by a test never does."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._fd = fd
        self._pid = os.getpid()

    def send(self, **event: object) -> None:
        if os.getpid() != self._pid:
            os._exit(70)
        data = json.dumps(event).encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]


class StreamedResult(unittest.TestResult):
    """A test result that goes to the parent one test at a time."""

    def __init__(self, reporter: Reporter, tally: replace.Tally, by_class: dict) -> None:
        super().__init__()
        self._reporter = reporter
        self._tally = tally
        self._by_class = by_class
        self._outcome = ""
        self._details: list[str] = []
        self._uncaught: list[str] = []
        self._running = False
        self._started = 0.0

    def startTest(self, test):
        super().startTest(test)
        self._running = True
        self._outcome = "pass"
        self._details = []
        self._tally.reset()
        sys.stdout.flush()
        sys.stderr.flush()
        self._reporter.send(event="start", id=short_id(test.id()), log=os.fstat(1).st_size)
        self._started = time.monotonic()

    def stopTest(self, test):
        super().stopTest(test)
        for detail in self._uncaught:
            self._note(test, "fail", detail)
        self._uncaught = []
        self._report(short_id(test.id()), time.monotonic() - self._started)
        self._running = False
        if self._outcome in ("fail", "error"):
            # What a failed test leaves behind must not reach the next one.
            self.stop()

    def addError(self, test, err):
        self._note(test, "error", self._exc_info_to_string(err, test).rstrip())

    def addFailure(self, test, err):
        self._note(test, "fail", self._exc_info_to_string(err, test).rstrip())

    def addSubTest(self, test, subtest, err):
        if err is not None:
            outcome = "fail" if issubclass(err[0], test.failureException) else "error"
            trace = self._exc_info_to_string(err, test).rstrip()
            self._note(test, outcome, f"{subtest}\n{trace}")

    def addSkip(self, test, reason):
        self._note(test, "skip", reason)

    def addUnexpectedSuccess(self, test):
        self._note(test, "fail", "unexpected success")

    def _note(self, test, outcome: str, detail: str) -> None:
        if self._running:
            if RANK.index(outcome) > RANK.index(self._outcome):
                self._outcome = outcome
            self._details.append(detail)
            return
        self._tally.reset()
        self._outcome, self._details = outcome, [detail]
        if isinstance(test, unittest.TestCase):
            # Python 3.12.1 skips the tests of a skipped class without starting them.
            self._report(short_id(test.id()), 0.0)
            return
        # A fixture of a class or of the module; its tests do not start.
        fixture, _, where = str(test.id()).rstrip(")").partition(" (")
        scope = short_id(where)
        self._details = [f"{fixture}: {detail}"]
        ids = [] if fixture.startswith("tearDown") else self._by_class.get(scope, [])
        for test_id in ids or [f"{scope}.{fixture}"]:
            self._report(test_id, 0.0)
        if outcome != "skip":
            self.stop()

    def note_uncaught(self, error) -> None:
        """Hook for exceptions in finalizers and threads: they fail the test that runs."""
        where = getattr(error, "object", None) or getattr(error, "thread", None)
        what = getattr(error, "err_msg", None) or "uncaught exception in"
        trace = traceback.format_exception(error.exc_type, error.exc_value, error.exc_traceback)
        self._uncaught.append(f"{what}: {where!r}\n{''.join(trace).rstrip()}")

    def report_uncaught(self, where: str) -> None:
        """Report such exceptions that came after the last test."""
        if self._uncaught:
            self._outcome, self._details = "fail", self._uncaught
            self._report(where, 0.0)

    def _report(self, test_id: str, seconds: float) -> None:
        self._reporter.send(
            event="stop",
            id=test_id,
            outcome=self._outcome,
            detail="\n".join(self._details),
            seconds=round(seconds, 3),
            loops=self._tally.under_test,
            stock=self._tally.stock,
        )


def short_id(test_id: str) -> str:
    return test_id.removeprefix(modules.PACKAGE + ".")


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def select(tests: list[unittest.TestCase], only: list[str] | None) -> list[unittest.TestCase]:
    """The tests to run; ``only`` holds ids and patterns, or None for all of them."""
    tests = [test for test in tests if type(test).__name__ not in modules.SELECTOR_VARIANTS]
    if only is None:
        return tests
    exact = set(only)
    patterns = [item for item in only if "*" in item]
    return [
        test
        for test in tests
        if (test_id := short_id(test.id())) in exact
        or any(fnmatchcase(test_id, pattern) for pattern in patterns)
    ]


def load_module(module: str) -> list[unittest.TestCase]:
    """The module's tests; raises what importing it raises, unittest.SkipTest included."""
    name = f"{modules.PACKAGE}.{module}"
    __import__(name)
    return list(flatten(unittest.defaultTestLoader.loadTestsFromModule(sys.modules[name])))


def end_with(parent: int) -> None:
    """Have the system kill this process when the one that started it is gone.

    Nobody would end a test that hangs then, and some have mocks that remember calls without end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def main() -> None:
    config = json.loads(sys.stdin.readline())
    end_with(config["parent"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(all_threads=True)
    reporter = Reporter(config["fd"])
    try:
        tally = replace.install(loops.load(config["loop"]))
        tests = load_module(config["module"])
    except unittest.SkipTest as skip:
        reporter.send(event="module", outcome="skip", detail=str(skip))
        return
    except BaseException:
        reporter.send(event="module", outcome="error", detail=traceback.format_exc())
        return

    tests = select(tests, config["only"])
    reporter.send(event="plan", ids=[short_id(test.id()) for test in tests])
    by_class: dict[str, list[str]] = {}
    for test in tests:
        test_id = short_id(test.id())
        scopes = (test_id.rpartition(".")[0], config["module"])
        for scope in scopes:
            by_class.setdefault(scope, []).append(test_id)
    result = StreamedResult(reporter, tally, by_class)
    sys.unraisablehook = threading.excepthook = result.note_uncaught
    suite = unittest.TestSuite(tests)
    # The suite drops each test, and so its loop, once it has run.
    del tests, test
    suite.run(result)
    gc.collect()
    result.report_uncaught(f"{config['module']}.<exit>")
    sys.stdout.flush()
    sys.stderr.flush()
    reporter.send(event="end", log=os.fstat(1).st_size)
