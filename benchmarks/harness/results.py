"""What a measurement is: how it is taken, its samples, and what follows from them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Settings:
    """How each sample is taken."""

    server_core: int
    client_core: int
    seconds: float
    micro_rounds: int


@dataclass(frozen=True)
class Sample:
    """One measurement of one loop in one row. Rate and latencies are the client's."""

    cpu_ns: float
    per_second: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None

    def as_dict(self) -> dict[str, float]:
        return {key: value for key, value in asdict(self).items() if value is not None}


class Row(Protocol):
    """A benchmark that every loop is put through."""

    @property
    def group(self) -> str: ...
    @property
    def title(self) -> str: ...
    def runs_on(self, loop: str) -> bool: ...
    def sample(self, loop: str, settings: Settings) -> Sample: ...


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

    def range(self) -> tuple[float, float]:
        values = [sample.cpu_ns for sample in self.samples]
        return min(values), max(values)

    def spread(self) -> float:
        """Return how far the samples lie apart, as a part of their median."""
        low, high = self.range()
        return (high - low) / statistics.median(sample.cpu_ns for sample in self.samples)


Cells = Mapping[str, Result]
Results = dict[Row, dict[str, Result]]
