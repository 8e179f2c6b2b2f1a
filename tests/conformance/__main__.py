"""Command line of the conformance runner."""

import argparse
import json
import platform
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from . import loops, modules, registry, report, runner


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="Run CPython's asyncio tests from the installed standard library with another "
        "event loop in the default loop's place.",
    )
    parser.add_argument(
        "--loop",
        action="append",
        metavar="NAME",
        help=f"{', '.join(loops.NAMED)} or module:factory; repeat it for several "
        "(default: hybridloop)",
    )
    parser.add_argument(
        "--modules", nargs="+", metavar="MODULE", help="such as test_events (default: all)"
    )
    parser.add_argument(
        "--tests", nargs="+", metavar="ID", help="only these test ids or patterns (module.Class.*)"
    )
    parser.add_argument("--jobs", type=int, default=runner.DEFAULT_JOBS, help="modules at a time")
    parser.add_argument(
        "--timeout", type=float, default=runner.DEFAULT_TIMEOUT, help="seconds for one test"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome here")
    parser.add_argument(
        "--table", action="store_true", help="print a Markdown table of counts, judge nothing"
    )
    options = parser.parse_args(arguments)
    options.loop = options.loop or ["hybridloop"]
    try:
        for name in options.loop:
            loops.spec_of(name)
    except ValueError as error:
        parser.error(str(error))
    if options.jobs < 1 or options.timeout <= 0:
        parser.error("--jobs and --timeout must be above 0")
    return options


def select(options: argparse.Namespace) -> list[str]:
    names = modules.available()
    if options.tests:
        wanted = {test_id.partition(".")[0] for test_id in options.tests}
        names = [name for name in names if any(fnmatchcase(name, item) for item in wanted)]
    if options.modules:
        if unknown := set(options.modules) - set(names):
            raise SystemExit(f"not among the modules run: {', '.join(sorted(unknown))}")
        names = [name for name in names if name in options.modules]
    return names


def run(loop: str, names: list[str], options: argparse.Namespace) -> list[runner.ModuleRun]:
    with runner.Modules(
        loop, only=options.tests, timeout=options.timeout, jobs=options.jobs
    ) as pool:
        futures = [pool.submit(name) for name in names]
        return [future.result() for future in futures]


def judge(loop: str, runs: list[runner.ModuleRun], options: argparse.Namespace) -> bool:
    entries = registry.read() if loop.partition("-")[0] == "hybridloop" else []
    verdicts = [
        registry.judge(
            run,
            entries,
            lambda ids, module=run.module: runner.run_module(
                loops.CONTROL, module, only=ids, timeout=options.timeout
            ),
            lambda ids, module=run.module: runner.run_module(
                loop, module, only=ids, timeout=options.timeout
            ),
            whole=not options.tests,
        )
        for run in runs
    ]
    print(f"{loop} on Python {platform.python_version()}")
    print(report.summary(runs, verdicts))
    return all(verdict.accepted for verdict in verdicts)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if reason := modules.why_unavailable():
        print(reason, file=sys.stderr)
        return 2
    names = select(options)
    runs_by_loop = {loop: run(loop, names, options) for loop in options.loop}
    if options.json:
        document = {
            "python": platform.python_version(),
            "loops": {loop: [run.as_json() for run in runs] for loop, runs in runs_by_loop.items()},
        }
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    if options.table:
        print(report.table(runs_by_loop))
        return 0
    verdicts = [judge(loop, runs, options) for loop, runs in runs_by_loop.items()]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
