"""Random sequences of operations give the callbacks that they give on asyncio."""

import pytest

from tests.support.fixtures import ends_clean

from . import compare, scenarios

__all__ = ["ends_clean"]

SEEDS_AT_A_TIME = 250


@pytest.fixture(autouse=True)
def _clean_end(clean_end):
    clean_end.expected = True  # what is logged is part of what is compared


@pytest.fixture
def _without_openssl(monkeypatch):
    """As where Python's OpenSSL is out of reach."""
    from hybridloop.loop import tls

    monkeypatch.setattr(tls.TlsProtocol, "_is_available", staticmethod(lambda: False))


@pytest.mark.usefixtures("_without_openssl")
def test_like_asyncio_without_openssl():
    test_like_asyncio("tls", 1)


@pytest.mark.parametrize(
    ("kind", "rounds"), [("unix", 3), ("tcp", 1), ("datagrams", 1), ("tls", 1)]
)
def test_like_asyncio(kind, rounds):
    for seed in range(rounds * SEEDS_AT_A_TIME):
        difference = compare.difference(kind, compare.scenario(kind, seed))
        assert difference is None, f"{difference}\npython -m tests.differential --kind {kind}"


def test_differences_are_found_and_made_small(monkeypatch):
    """A loop that loses what is written last does not get through."""
    player = compare.streams.Player
    play = compare.KINDS["unix"][0]

    class Forgetful(player):
        def do_many_writes(self):
            self.transport.write(b"again" * 6)
            self.sent += b"again" * 7

    def broken(new_event_loop, scenario):
        kind = player if new_event_loop is compare.asyncio.SelectorEventLoop else Forgetful
        return compare.play(kind, compare.unix_pair)(new_event_loop, scenario)

    assert play is not broken
    monkeypatch.setitem(compare.KINDS, "unix", (broken, scenarios.OURS, scenarios.PEERS))

    def fails(scenario):
        return compare.difference("unix", scenario) is not None

    found = next(
        scenario for seed in range(1000) if fails(scenario := compare.scenario("unix", seed))
    )
    smallest = scenarios.shrink(found, fails)
    assert smallest.steps == [[("many_writes",)]] or "many_writes" in str(smallest.reactions)
    assert "'arrived', False" in compare.difference("unix", smallest)
