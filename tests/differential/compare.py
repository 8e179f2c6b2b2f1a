"""The same scenario on asyncio's loop and on the one under test."""

import asyncio
import gc
import importlib

from tests.conftest import LOOP_MODULE
from tests.support.streams import tcp_pair, unix_pair

from . import datagrams, scenarios, streams, tls

SOMETIMES = "differs at times only: {}"


def play(player, pair):
    def play(new_event_loop, scenario):
        ours, theirs = pair()
        theirs.setblocking(False)
        loop = new_event_loop()
        try:
            return player(loop, scenario, (ours, theirs)).play()
        except AssertionError as error:
            return [("stuck", str(error))]
        finally:
            theirs.close()
            ours.close()
            loop.close()

    return play


KINDS = {
    "unix": (play(streams.Player, unix_pair), scenarios.OURS, scenarios.PEERS),
    "tcp": (play(streams.Player, tcp_pair), scenarios.OURS, scenarios.TCP_PEERS),
    "datagrams": (
        play(datagrams.DatagramPlayer, datagrams.pair),
        datagrams.OURS,
        datagrams.PEERS,
        datagrams.CALLBACKS,
    ),
    "tls": (play(tls.TlsPlayer, unix_pair), tls.OURS, tls.PEERS),
}


def scenario(kind, seed):
    _, *pools = KINDS[kind]
    return scenarios.make(seed, *pools)


def difference(kind, scenario):
    """What differs, to be read; nothing if nothing does."""
    new_event_loop = importlib.import_module(LOOP_MODULE).new_event_loop
    play = KINDS[kind][0]
    expected = play(asyncio.SelectorEventLoop, scenario)
    found = play(new_event_loop, scenario)
    # Cycles with sockets in them go now, and not in the middle of another scenario.
    gc.collect(0)
    if streams.agree(expected, found):
        return None
    parts = [repr(scenario)]
    for name, trace in (("asyncio", expected), (LOOP_MODULE, found)):
        parts.append(f"  {name}:")
        parts.extend(f"    {str(entry)[:160]}" for entry in trace)
    return "\n".join(parts)
