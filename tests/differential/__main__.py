"""Play scenarios of many numbers, and show the smallest that goes otherwise than on asyncio.

For example: python -m tests.differential --kind unix --seeds 0:100000
"""

import argparse
import sys
import time

from tests.conftest import LOOP_MODULE

from . import compare, scenarios


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--kind", choices=compare.KINDS, default="unix")
    parser.add_argument("--seeds", default="0:10000", metavar="FROM:TO")
    parser.add_argument("--show", type=int, default=3, help="differences to show (3)")
    options = parser.parse_args()
    first, last = map(int, options.seeds.split(":"))
    found, started = 0, time.monotonic()
    for seed in range(first, last):
        scenario = compare.scenario(options.kind, seed)
        if not compare.difference(options.kind, scenario):
            continue
        found += 1
        if found <= options.show:
            smallest = scenarios.shrink(
                scenario, lambda candidate: compare.difference(options.kind, candidate)
            )
            print(compare.difference(options.kind, smallest) or compare.SOMETIMES.format(scenario))
    took = time.monotonic() - started
    print(f"{options.kind}: {found} of {last - first} differ on {LOOP_MODULE} ({took:.0f} s)")
    return found > 0


if __name__ == "__main__":
    sys.exit(main())
