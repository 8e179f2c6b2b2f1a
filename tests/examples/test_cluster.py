"""The example of a cluster prints what it promises."""

import re

import pytest


def test_hashing_and_sorting(run_example):
    pytest.importorskip("distributed")
    first, *results = run_example("examples.cluster", "--mib", "16", timeout=280)
    assert first == "making 16 MiB of numbers, starting a scheduler and two workers"
    found = [re.sub(r"[\d.]+ s\b", "…", line) for line in results]
    assert found == [
        "hl.sha256  16 MiB on two workers   …",
        "hl.sha256  16 MiB on this machine  …, the same: True",
        "hl.sort    16 MiB on two workers   …",
        "hl.sort    16 MiB on this machine  …, the same: True",
    ]
