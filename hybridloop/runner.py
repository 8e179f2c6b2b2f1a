"""The former name of `hybridloop.generators`."""

from __future__ import annotations

from .generators import GeneratorRunner, GeneratorTask, readable, writable

__all__ = ["GeneratorRunner", "GeneratorTask", "readable", "writable"]
