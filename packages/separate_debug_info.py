"""Take the debug information out of wheels: ``python packages/separate_debug_info.py dist/*.whl``.

It is written beside each wheel, as ``debug/<name of the wheel>/<name of the extension>.debug``;
debuggers find it once it lies beside the extension. Needs the package ``wheel``, and ``objcopy`` of
binutils. For ELF, the format of Linux; other systems keep debug information apart anyway.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def separate(wheel: Path) -> None:
    """Replace `wheel` by one without debug information."""
    with tempfile.TemporaryDirectory() as folder:
        run("-m", "wheel", "unpack", "--dest", folder, str(wheel))
        (unpacked,) = Path(folder).iterdir()
        for extension in unpacked.rglob("*.so"):
            debug = wheel.parent / "debug" / wheel.stem / f"{extension.name}.debug"
            debug.parent.mkdir(parents=True, exist_ok=True)
            objcopy("--only-keep-debug", extension, debug)
            objcopy("--strip-unneeded", extension)
            objcopy(f"--add-gnu-debuglink={debug}", extension)
        run("-m", "wheel", "pack", "--dest-dir", str(wheel.parent), str(unpacked))


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def objcopy(option: str, *files: Path) -> None:
    subprocess.run(["objcopy", option, *files], check=True)


if __name__ == "__main__" and sys.platform == "linux":
    for name in sys.argv[1:]:
        separate(Path(name))
