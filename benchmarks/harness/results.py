"""What a measurement is: how it is taken, its samples, and what follows from them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol


@dataclass(frozen=True)
class Settings:
    """How each sample is taken."""

    server_core: int
    client_core: int
    seconds: float


@dataclass(frozen=True)
class Sample:
    """One measurement of one loop in one row. Rate and latencies are the client's."""

    cpu_ns: float
    per_second: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None


FIGURES = [figure.name for figure in fields(Sample)]


class Row(Protocol):
    """What a row is known by: the titles differ within a group."""

    @property
    def group(self) -> str: ...
    @property
    def title(self) -> str: ...


class Benchmark(Row, Protocol):
    """A row that every loop can be put through."""

    def runs_on(self, loop: str) -> bool: ...
    def sample(self, loop: str, settings: Settings) -> Sample: ...


@dataclass(frozen=True)
class StoredRow:
    """A row of a run that was stored."""

    group: str
    title: str


@dataclass
class Result:
    """What one loop did in one row: a sample for each repeat, or why there are none."""

    samples: list[Sample] = field(default_factory=list)
    failure: str | None = None

    def cpu(self) -> float | None:
        return self.median("cpu_ns")

    def median(self, figure: str) -> float | None:
        if self.failure is not None:
            return None
        values = [getattr(sample, figure) for sample in self.samples]
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    def range(self, figure: str = "cpu_ns") -> tuple[float, float]:
        values = [getattr(sample, figure) for sample in self.samples]
        return min(values), max(values)

    def spread(self) -> float:
        """Return how far the samples lie apart, as a part of their median."""
        low, high = self.range()
        return (high - low) / statistics.median(sample.cpu_ns for sample in self.samples)


Cells = Mapping[str, Result]
Results = dict[Row, dict[str, Result]]


def packed(result: Result) -> str | dict[str, list[float]]:
    """Return a result for JSON: its samples figure by figure, or why there are none."""
    if result.failure is not None:
        return result.failure
    columns = {}
    for figure in FIGURES:
        values = [getattr(sample, figure) for sample in result.samples]
        if values and None not in values:
            columns[figure] = [round(value, 1) for value in values]
    return columns


def unpacked(stored: str | dict[str, list[float]]) -> Result:
    if isinstance(stored, str):
        return Result(failure=stored)
    samples = zip(*stored.values(), strict=True)
    return Result([Sample(**dict(zip(stored, values, strict=True))) for values in samples])
