"""docs/methods.md names every method, and what it says of hybridloop is so."""

import asyncio
import os
import re

import pytest

import hybridloop

from . import methods
from .probes import PROBES

NAMES = methods.names()


@pytest.fixture(scope="module")
def committed():
    """The table, as method -> loop -> cell."""
    lines = methods.DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    head = rows[0][1:]
    return {
        match[1]: dict(zip(head, row[1:], strict=True))
        for row in rows[2:]
        if (match := re.fullmatch(r"`(\w+)\(\)`", row[0]))
    }


def test_the_table_names_every_method_and_loop(committed):
    assert set(NAMES) <= committed.keys()
    assert all(set(row) == set(methods.LOOPS) for row in committed.values())


@pytest.mark.parametrize("name", NAMES)
def test_hybridloop_has_the_method_where_the_table_says(committed, name):
    assert committed[name]["hybridloop"] == methods.origin(hybridloop.Loop, name)
    assert committed[name]["hybridloop"] in ("native", "Python", "inherited")


@pytest.mark.parametrize("name", NAMES)
def test_the_method_works(name):
    assert methods.try_out(methods.LOOPS["hybridloop"], name) == methods.WORKS


def test_a_method_that_is_missing_or_does_not_work_is_noticed():
    spec = f"{__name__}:LackingLoop"
    assert methods.origin(asyncio.AbstractEventLoop, "time") == methods.MISSING
    assert methods.origin(LackingLoop, "sock_recv") == "Python"
    assert methods.try_out(spec, "sock_recv") == methods.MISSING
    assert methods.try_out(spec, "sock_sendall") == "fails: AssertionError"
    assert methods.try_out(spec, "getaddrinfo") == "fails: crashes"
    assert methods.try_out(spec, "sock_accept") == methods.WORKS


class LackingLoop(asyncio.SelectorEventLoop):
    async def sock_recv(self, sock, n):
        raise NotImplementedError

    async def sock_sendall(self, sock, data):
        raise AssertionError

    async def getaddrinfo(self, *args, **options):
        os.abort()


def test_every_method_has_a_probe():
    assert set(NAMES) <= PROBES.keys()
