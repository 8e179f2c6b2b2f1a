"""The program that optimised builds are trained with runs to its end."""

import pytest

pytest.importorskip("hybridloop._core", reason="the extension is not built")
pytest.importorskip("ssl", reason="Python was built without ssl")

from benchmarks import training


def test_everything_is_run_once(monkeypatch):
    monkeypatch.setattr(training, "ROUNDS", 5)
    monkeypatch.setattr(training, "CALLBACKS", 20)
    monkeypatch.setattr(training, "CONNECTIONS", 2)
    training.main()
