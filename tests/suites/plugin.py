"""The pytest plugin that puts a loop in the default loop's place and reports every test.

The environment variable SETTINGS contains the loop and the folder for the results, one file of JSON
lines for each process that runs tests.
"""

import json
import os
from pathlib import Path
from typing import TextIO

import pytest

from ..conformance import loops, replace

SETTINGS = "HYBRIDLOOP_SUITES"
# Worse outcomes come later.
RANK = ("passed", "xfailed", "skipped", "xpassed", "failed", "error")
DETAIL = 8000


class Results:
    """Writes what each test of this process comes to."""

    def __init__(self, folder: Path, tally: replace.Tally | None) -> None:
        self._folder = folder
        self._file: TextIO | None = None
        self._pid = os.getpid()
        self._tally = tally
        self._running = False
        self._outcome = ""
        self._details: list[str] = []

    def _write(self, **event: object) -> None:
        if os.getpid() != self._pid:
            return  # a child that a test forked
        if self._file is None:
            self._file = (self._folder / f"{self._pid}.jsonl").open("w", encoding="utf-8")
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        self._running, self._outcome, self._details = True, "passed", []
        if self._tally is not None:
            self._tally.reset()
        self._write(start=item.nodeid)
        try:
            return (yield)
        finally:
            self._running = False
            self._write(
                stop=item.nodeid,
                outcome=self._outcome,
                detail="\n".join(self._details)[-DETAIL:],
                loops=self._tally.under_test if self._tally else 0,
                stock=self._tally.stock if self._tally else 0,
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self._running:
            return  # a report of another process, for the one that distributes the tests
        outcome = outcome_of(report)
        if RANK.index(outcome) > RANK.index(self._outcome):
            self._outcome = outcome
        if outcome != "passed":
            self._details.append(report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(stop=report.nodeid, outcome="error", detail=report.longreprtext[-DETAIL:])


def outcome_of(report: pytest.TestReport) -> str:
    if report.failed:
        return "failed" if report.when == "call" else "error"
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    return report.outcome


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Results(Path(_settings["results"]), _tally))


_settings = json.loads(os.environ[SETTINGS])
# Before any conftest: they read the names at import.
_tally = replace.install(loops.load(_settings["loop"])) if _settings["loop"] else None
