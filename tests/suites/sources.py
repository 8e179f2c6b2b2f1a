"""Brings the suites and what they need onto this machine, by pip alone."""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from .table import COMMON, Suite


class Sources:
    """A folder with one virtual environment, and the unpacked source of each suite."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.python = self._folder / "bin" / "python"

    def prepare(self, suites: Sequence[Suite], given: dict[str, Path]) -> dict[str, Path]:
        """Install what the suites need; return the folder to run each of them in."""
        if not self.python.exists():
            print(f"Making the virtual environment {self._folder}", flush=True)
            _call(sys.executable, "-m", "venv", "--clear", str(self._folder))
        folders = {}
        for suite in suites:
            if suite.name in given:
                folders[suite.name] = self._take(suite, given[suite.name])
                package = str(given[suite.name].absolute())
            else:
                folders[suite.name] = self._unpack(suite, self._archive(suite))
                package = _pinned(suite, folders[suite.name])
            self._install(suite, [*COMMON, package, *suite.needs])
        return folders

    def version(self, suite: Suite) -> str:
        code = f"import importlib.metadata as m; print(m.version({suite.name!r}))"
        return _call(str(self.python), "-c", code).strip()

    def _archive(self, suite: Suite) -> Path:
        """The newest source archive that the requirement allows."""
        archives = self._folder / "archives" / suite.name
        if not (found := sorted(archives.glob("*.tar.gz"))):
            print(f"Fetching the source archive of {suite.requirement}", flush=True)
            requirement = suite.requirement
            options = ("--quiet", "--no-deps", "--no-binary", suite.name, "--dest", str(archives))
            _call(str(self.python), "-m", "pip", "download", *options, requirement)
            found = sorted(archives.glob("*.tar.gz"))
        return found[-1]

    def _unpack(self, suite: Suite, archive: Path) -> Path:
        folder = self._folder / "sources"
        target = folder / archive.name.removesuffix(".tar.gz")
        if not target.exists():
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
            _hide(suite, target)
        return target

    def _take(self, suite: Suite, checkout: Path) -> Path:
        target = self._folder / "sources" / f"{suite.name}-given"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(checkout, target, ignore=shutil.ignore_patterns(".git"))
        _hide(suite, target)
        return target

    def _install(self, suite: Suite, wanted: list[str]) -> None:
        stamp = self._folder / f"installed-{suite.name}.txt"
        lines = "\n".join(wanted)
        if stamp.exists() and stamp.read_text(encoding="utf-8") == lines:
            return
        print(f"Installing what the suite of {suite.name} needs", flush=True)
        _call(str(self.python), "-m", "pip", "install", "--quiet", *wanted)
        stamp.write_text(lines, encoding="utf-8")


def _pinned(suite: Suite, source: Path) -> str:
    """The requirement of the version whose tests were unpacked."""
    name = suite.requirement.partition(">")[0]
    return f"{name}=={source.name.rpartition('-')[2]}"


def _hide(suite: Suite, folder: Path) -> None:
    for name in suite.hidden:
        shutil.rmtree(folder / name, ignore_errors=True)


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
