"""Running unchanged programs on hybridloop, for `python -m hybridloop`."""

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
    """Makes hybridloop the default loop of each process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[], _InstallInChildren], tuple[()]]:
        return install_everywhere, ()


def install_everywhere() -> _InstallInChildren:
    """Make hybridloop the default loop of this process and of its multiprocessing children.

    multiprocessing passes the configuration of a process to its children; those that are not forks
    unpickle it.
    """
    install()
    _replace_uvicorn_auto_loop()
    in_children = _InstallInChildren()
    process.current_process()._config["hybridloop"] = in_children  # type: ignore[attr-defined]
    return in_children


def _replace_uvicorn_auto_loop() -> None:
    """Replace the module that selects uvicorn's loop if none is configured.

    uvicorn uses neither the event loop policy nor `asyncio.new_event_loop()`.
    """
    name = "uvicorn.loops.auto"
    chooser = ModuleType(name)
    chooser.__spec__ = ModuleSpec(name, None)
    chooser.auto_loop_factory = _auto_loop_factory  # type: ignore[attr-defined]
    sys.modules.setdefault(name, chooser)


def _auto_loop_factory(use_subprocess: bool = False) -> Callable[[], Loop]:
    return new_event_loop


def run_module(argv: list[str]) -> None:
    """Run a module like `python -m`."""
    install_everywhere()
    sys.argv = argv
    _new_main()
    runpy._run_module_as_main(argv[0])  # type: ignore[attr-defined]


def run_file(argv: list[str]) -> None:
    """Run a file, a directory or a ZIP file like `python PATH`."""
    path = argv[0]
    install_everywhere()
    sys.argv = argv
    is_archive = pkgutil.get_importer(path) is not None
    if is_archive or not sys.flags.safe_path:
        beside = os.path.abspath(path) if is_archive else os.path.dirname(os.path.realpath(path))
        # Replaces the current directory, which `python -m` has inserted unless -P is used.
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
    # Modules have no `__cached__` since Python 3.15.
    cached = {} if sys.version_info >= (3, 15) else {"__cached__": None}
    main = _new_main(__file__=path, __loader__=loader, **cached)
    exec(code, main.__dict__)


def _new_main(**attributes: Any) -> ModuleType:
    """Make a new `__main__` module for the program. It stays in `sys.modules`."""
    main = ModuleType("__main__")
    vars(main).update(attributes, __builtins__=builtins)
    sys.modules["__main__"] = main
    return main
