"""pyperformance's async_tree: ``python -m benchmarks.trees eager_io --loop NAME`` prints CPU time.

The benchmark's file is taken as it is from the installed package and runs on each loop: tens of
thousands of tasks in a tree, with leaves that do nothing, sleep, or compute.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType

from benchmarks.loops import LOOPS, LoopFactory, loop_factory

PACKAGE = "pyperformance"
FILE = Path("data-files", "benchmarks", "bm_async_tree", "run_benchmark.py")
GROUPS_SUFFIX = "_tg"


def variants() -> dict[str, str]:
    """Return the variants by name: kinds of leaves, with eager tasks, with task groups."""
    kinds = {
        "none": "leaves do nothing",
        "io": "leaves sleep",
        "memoization": "a tenth of the leaves sleep",
        "cpu_io_mixed": "leaves compute or sleep",
    }
    found = {}
    for suffix, groups in (("", ""), (GROUPS_SUFFIX, ", task groups")):
        for kind, title in kinds.items():
            eager = "eager" if kind == "none" else f"eager_{kind}"
            found[kind + suffix] = f"{title}{groups}"
            found[eager + suffix] = f"{title}, eager tasks{groups}"
    return found


VARIANTS = variants()
# Of a run that is not wide: the others add little.
USUAL = [
    name for name in VARIANTS if not name.endswith(GROUPS_SUFFIX) and "memoization" not in name
]


def load() -> ModuleType:
    """Import the benchmark's file; ModuleNotFoundError if pyperformance is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed")
    path = Path(spec.origin).parent / FILE
    module_spec = importlib.util.spec_from_file_location("async_tree", path)
    if module_spec is None or module_spec.loader is None:
        raise ModuleNotFoundError(f"{PACKAGE} has no {FILE}")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def run_once(module: ModuleType, variant: str, factory: LoopFactory) -> int:
    """Run one tree on a new loop; its CPU nanoseconds."""
    kind = variant.removesuffix(GROUPS_SUFFIX)
    tree = module.BENCHMARKS[kind](use_task_groups=variant.endswith(GROUPS_SUFFIX))
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop()
        begin = time.process_time_ns()
        runner.run(tree.run())
        return time.process_time_ns() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.variant.startswith("eager") and sys.version_info < (3, 12):
        sys.exit("eager tasks need Python 3.12")
    module = load()
    factory = loop_factory(arguments.loop)
    taken = [run_once(module, arguments.variant, factory) for _ in range(arguments.rounds)]
    print(json.dumps({"cpu_ns": statistics.median(taken)}))


if __name__ == "__main__":
    main()
