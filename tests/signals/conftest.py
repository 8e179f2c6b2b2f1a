import signal

import pytest

from tests.support.fixtures import ends_clean

__all__ = ["ends_clean"]


@pytest.fixture(autouse=True)
def _same_signals_after():
    """Every test here has to give signals back as it found them."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    left = signal.set_wakeup_fd(-1)
    after = {number: signal.getsignal(number) for number in signal.valid_signals()}
    for number, handler in before.items():
        if after[number] is not handler and after[number] != handler:
            signal.signal(number, handler)
    assert left == -1
    assert after == before


@pytest.fixture
def on_signal():
    """``on_signal(number, function)`` sets a plain Python handler for the length of the test."""
    old = {}

    def on_signal(number, function):
        old.setdefault(number, signal.signal(number, function))

    yield on_signal
    for number, handler in old.items():
        signal.signal(number, handler)
