"""Programs that run as they are, on hybridloop: what `python -m hybridloop` prepares and runs."""

from __future__ import annotations

import builtins
import os
import pkgutil
import runpy
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader, SourcelessFileLoader
from multiprocessing import process
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .loop.loop import Loop, new_event_loop
from .loop.policy import install

if TYPE_CHECKING:
    from collections.abc import Callable


class _InstallInChildren:
    """Makes hybridloop the default in each process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[], _InstallInChildren], tuple[()]]:
        return install_everywhere, ()


def install_everywhere() -> _InstallInChildren:
    """Make hybridloop the loop of this process and of those that multiprocessing starts from it.

    multiprocessing hands what a process is configured with to its children; those that are no
    forks unpickle it.
    """
    install()
    _replace_uvicorn_auto_loop()
    in_children = _InstallInChildren()
    process.current_process()._config["hybridloop"] = in_children  # type: ignore[attr-defined]
    return in_children


def _replace_uvicorn_auto_loop() -> None:
    """Stand in for the module that chooses uvicorn's loop where no loop is named.

    uvicorn asks neither asyncio's policy nor `asyncio.new_event_loop()`.
    """
    name = "uvicorn.loops.auto"
    chooser = ModuleType(name)
    chooser.__spec__ = ModuleSpec(name, None)
    chooser.auto_loop_factory = _auto_loop_factory  # type: ignore[attr-defined]
    sys.modules.setdefault(name, chooser)


def _auto_loop_factory(use_subprocess: bool = False) -> Callable[[], Loop]:
    return new_event_loop


def run_module(argv: list[str]) -> None:
    """Run a module as `python -m` does."""
    install_everywhere()
    sys.argv = argv
    _new_main()
    runpy._run_module_as_main(argv[0])  # type: ignore[attr-defined]


def run_file(argv: list[str]) -> None:
    """Run a file, a folder or a ZIP file as `python PATH` does."""
    path = argv[0]
    install_everywhere()
    sys.argv = argv
    is_archive = pkgutil.get_importer(path) is not None
    if is_archive or not sys.flags.safe_path:
        beside = os.path.abspath(path) if is_archive else os.path.dirname(os.path.realpath(path))
        # Until now this was the current folder, because of `python -m`; if there is anything.
        sys.path[: not sys.flags.safe_path] = [beside]
    if is_archive:
        _new_main()
        runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
        return
    path = os.path.abspath(path)
    loader: Any
    if path.endswith(".pyc"):
        loader = SourcelessFileLoader("__main__", path)
        code = loader.get_code("__main__")
    else:
        loader = SourceFileLoader("__main__", path)
        code = loader.source_to_code(loader.get_data(path), path)
    # No module of Python 3.15 has `__cached__`.
    cached = {} if sys.version_info >= (3, 15) else {"__cached__": None}
    main = _new_main(__file__=path, __loader__=loader, **cached)
    exec(code, main.__dict__)


def _new_main(**attributes: Any) -> ModuleType:
    """A module `__main__` for the program, which stays when its last line has run."""
    main = ModuleType("__main__")
    vars(main).update(attributes, __builtins__=builtins)
    sys.modules["__main__"] = main
    return main
