"""Says what each scenario leaves; fails if one of them leaks."""

import sys
import warnings

from . import counting
from .scenarios import SCENARIOS


def main():
    if not counting.is_available():
        print("only a debug build of Python counts its references", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    leaks = 0
    for name in sys.argv[1:] or SCENARIOS:
        differences = counting.growth(name)
        leaks += (leaked := counting.is_leak(differences))
        print(f"{'LEAK' if leaked else 'ok':5} {name:30} {differences}", flush=True)
    return bool(leaks)


if __name__ == "__main__":
    sys.exit(main())
