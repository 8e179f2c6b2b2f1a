"""The former name of `hybridloop.metrics.prometheus`."""

from __future__ import annotations

from .metrics.prometheus import Collector

__all__ = ["Collector"]
