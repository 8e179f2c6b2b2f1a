"""loop.getaddrinfo() gives what socket.getaddrinfo() gives: results, types and errors."""

import enum
import itertools
import random
import socket

import pytest

LITERALS = [
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "1",
    "1.2",
    "1.2.3",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "1.2.3.4.",
    "1..2",
    "256.1.1.1",
    "1.2.3.4.5",
    "::",
    "::1",
    "1::",
    "::ffff:1.2.3.4",
    "::1.2.3.4",
    "2001:db8::8a2e:370:7334",
    "2001:DB8:0:0:0:0:0:1",
    "fe80::1%lo",
    "fe80::1%1",
    "fe80::1%no-such-zone",
    "fe80::1%",
    "::1%lo",
    "2001:db8::1%lo",
    ":::1",
    "::g",
    "[::1]",
    "1" * 70,
    "0" * 61 + "1",
    "",
    None,
    b"127.0.0.1",
    b"::1",
    b"",
]
LOCAL = ["localhost", b"localhost"]
NAMES = [
    "\uff11\uff12\uff17.0.0.1",  # full-width digits
    "a" * 64 + ".invalid",
    "double..dot.invalid",
    " 127.0.0.1",
    "\u00fcml\u00e4ut.invalid",
    "\udcff",
    "nul\0nul",
]
PORTS = [None, 0, 80, 443, 65535, 65536, -1, 1 << 40, 1 << 80, True]
PORTS += ["", "80", "080", "http", "no-such-service", "99999", "-1", " 80", b"80", b"domain"]
PORTS += ["\u0661", 80.0, object]
FAMILIES = [0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 99, int(socket.AF_INET)]
TYPES = [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET, 77]
PROTOCOLS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, 255]
FLAGS = [
    0,
    socket.AI_PASSIVE,
    socket.AI_NUMERICHOST,
    socket.AI_NUMERICSERV,
    socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    socket.AI_PASSIVE | socket.AI_NUMERICHOST,
    socket.AI_CANONNAME,
    socket.AI_ADDRCONFIG,
    socket.AI_V4MAPPED | socket.AI_ALL,
    1 << 30,
]


def is_literal(host):
    try:
        socket.getaddrinfo(host, None if host else 80, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return False
    return True


def offline(host, hints):
    """Keep the name servers out of it: they may be slow, or not there."""
    if not is_literal(host):
        hints["flags"] = hints.get("flags", 0) | socket.AI_NUMERICHOST
    return hints


def outcome(error):
    return type(error), error.args, getattr(error, "errno", None)


def expected(host, port, **hints):
    try:
        return repr(socket.getaddrinfo(host, port, **hints))
    except Exception as error:
        return outcome(error)


async def found(loop, host, port, **hints):
    try:
        return repr(await loop.getaddrinfo(host, port, **hints))
    except Exception as error:
        return outcome(error)


def hints(choose):
    return {
        "family": choose(FAMILIES),
        "type": choose(TYPES),
        "proto": choose(PROTOCOLS),
        "flags": choose(FLAGS),
    }


async def test_every_literal_with_every_port(loop):
    for host, port in itertools.product(LITERALS, PORTS):
        asked = offline(host, {})
        assert await found(loop, host, port, **asked) == expected(host, port, **asked), (
            host,
            port,
        )


@pytest.mark.parametrize("seed", range(4))
async def test_literals_with_random_hints(loop, seed):
    choose = random.Random(seed).choice
    for _ in range(1500):
        host, port = choose(LITERALS), choose(PORTS)
        asked = offline(host, hints(choose))
        assert await found(loop, host, port, **asked) == expected(host, port, **asked), (
            host,
            port,
            asked,
        )


@pytest.mark.parametrize("seed", range(4))
async def test_random_addresses(loop, seed):
    dice = random.Random(seed)
    characters = "0123456789abcdefx.:%"
    for _ in range(1000):
        if dice.random() < 0.5:
            host = socket.inet_ntop(socket.AF_INET6, dice.randbytes(16))
        else:
            host = socket.inet_ntop(socket.AF_INET, dice.randbytes(4))
        position = dice.randrange(len(host))
        if dice.random() < 0.5:
            host = host[:position] + dice.choice(characters) + host[position + 1 :]
        asked = {"family": dice.choice(FAMILIES[:3]), "flags": socket.AI_NUMERICHOST}
        assert await found(loop, host, 80, **asked) == expected(host, 80, **asked), host


async def assert_same(loop, host, port, **asked):
    """For names: a name server may not give the same answer each time, or none in time."""
    for _ in range(5):
        ours, theirs = await found(loop, host, port, **asked), expected(host, port, **asked)
        if ours == theirs:
            return
    assert ours == theirs, (host, port, asked)


async def test_names(loop):
    for host, port in itertools.product(LOCAL, PORTS):
        await assert_same(loop, host, port)
    for host in NAMES:
        await assert_same(loop, host, 80, flags=socket.AI_NUMERICHOST)


@pytest.mark.parametrize("host", ["localhost.", "unknown.invalid"])
async def test_names_for_a_name_server(loop, host):
    await assert_same(loop, host, 80)


async def test_names_with_random_hints(loop):
    choose = random.Random(0).choice
    for _ in range(300):
        await assert_same(loop, choose(LOCAL), choose(PORTS), **hints(choose))


class Number(enum.IntEnum):
    PORT = 80


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("host", "port"),
    [
        (Text("127.0.0.1"), 80),
        ("127.0.0.1", Text("80")),
        ("127.0.0.1", Number.PORT),
        (bytearray(b"127.0.0.1"), 80),
        (5, 80),
        ("127.0.0.1", 1.5),
        (object, object),
    ],
)
async def test_arguments_of_other_types(loop, host, port):
    assert await found(loop, host, port) == expected(host, port)


@pytest.mark.parametrize("name", ["family", "type", "proto", "flags"])
@pytest.mark.parametrize("value", [None, "1", 1.5, 1 << 40, -1, True])
async def test_hints_of_other_types(loop, name, value):
    asked = {name: value}
    assert await found(loop, "127.0.0.1", 80, **asked) == expected("127.0.0.1", 80, **asked)


async def test_members_of_enumerations(loop):
    [(family, kind, *_)] = await loop.getaddrinfo("::1", 80, type=socket.SOCK_STREAM)
    assert family is socket.AddressFamily.AF_INET6
    assert kind is socket.SocketKind.SOCK_STREAM


@pytest.mark.parametrize(
    "flags",
    [
        0,
        socket.NI_NUMERICHOST | socket.NI_NUMERICSERV,
        socket.NI_NUMERICHOST,
        socket.NI_NUMERICSERV,
        socket.NI_NAMEREQD,
        socket.NI_NAMEREQD | socket.NI_DGRAM,
        socket.NI_NUMERICHOST | socket.NI_NAMEREQD,
        1.5,
        None,
    ],
)
@pytest.mark.parametrize(
    "address",
    [
        ("127.0.0.1", 80),
        ("::1", 443, 0, 0),
        ("fe80::1", 443, 0, 1),
        ("localhost", 80),
        ("127.0.0.1",),
        ("127.0.0.1", 80, 0, 0),
        ("127.0.0.1", "80"),
        ("127.0.0.1", 1 << 20),
        ("::1", 80, 1 << 21, 0),
        "127.0.0.1",
        None,
    ],
)
async def test_getnameinfo(loop, address, flags):
    for _ in range(5):
        try:
            theirs = socket.getnameinfo(address, flags)
        except Exception as error:
            theirs = outcome(error)
        try:
            ours = await loop.getnameinfo(address, flags)
        except Exception as error:
            ours = outcome(error)
        if ours == theirs:
            return
    # A name server may not give the same answer each time.
    assert ours == theirs
