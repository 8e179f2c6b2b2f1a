"""Imports one module and prints what that took, as JSON. It imports nothing else that it can help.

python -m benchmarks.importing hybridloop asyncio    # hybridloop, after asyncio
"""

import importlib
import sys
import time


def resident_kib() -> int:
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    raise OSError("the kernel does not tell the resident memory")


def measure(name: str) -> dict[str, float]:
    modules, resident = len(sys.modules), resident_kib()
    begin = time.perf_counter()
    importlib.import_module(name)
    seconds = time.perf_counter() - begin
    return {
        "modules": len(sys.modules) - modules,
        "ms": seconds * 1e3,
        "resident": resident_kib() - resident,
    }


def main() -> None:
    name, *before = sys.argv[1:]
    for other in before:
        importlib.import_module(other)
    found = measure(name)
    import json

    print(json.dumps(found))


if __name__ == "__main__":
    main()
