"""Random sequences of what an application and its peer do to a stream."""

import random
from dataclasses import dataclass, field

TINY = (b"a", b"bc", b"defgh", b"x" * 100)
# More than the kernel takes at once, so that something is certain to wait.
HUGE = 2 * 1024 * 1024

OURS = (
    [("write", n) for n in range(len(TINY))] * 2
    + [("write_huge",)] * 2
    + [
        ("write_empty",),
        ("write_text",),
        ("write_view",),
        ("writelines",),
        ("writelines_mixed",),
        ("write_eof",),
        ("close",),
        ("abort",),
        ("limits", 0),
        ("limits", None),
        ("limits", 200_000),
        ("set_protocol", "plain"),
        ("set_protocol", "buffered"),
        ("get_protocol",),
        ("many_writes",),
    ]
    + [("pause_reading",), ("resume_reading",)] * 3
)
PEERS = (
    [("peer_send", n) for n in range(len(TINY))] * 2
    + [("peer_drain",)] * 3
    + [("peer_send_much",), ("peer_shutdown",), ("peer_close",), ("peer_reset",)]
)
# Over TCP, a peer that has merely closed refuses the first segment, and the second write finds out:
# several writes in one system call are one.
TCP_PEERS = [operation for operation in PEERS if operation != ("peer_close",)]
CALLBACKS = (
    "connection_made",
    "data_received",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
)
EOF_ANSWERS = (None, None, True, True, False, "raise")


@dataclass
class Scenario:
    """Each step is done in one iteration; reactions inside the first callback of their name."""

    seed: int
    protocol: str = "plain"
    eof: object = None
    steps: list = field(default_factory=list)
    reactions: dict = field(default_factory=dict)


def make(seed, ours=OURS, peers=PEERS, callbacks=CALLBACKS):
    """The scenario of a number, always the same."""
    choose = random.Random(seed)
    scenario = Scenario(seed, choose.choice(["plain", "plain", "buffered"]))
    scenario.eof = choose.choice(EOF_ANSWERS)
    for _ in range(choose.randrange(1, 9)):
        pool = ours if choose.random() < 0.55 else peers
        count = 1 if choose.random() < 0.5 else choose.randrange(2, 5)
        scenario.steps.append([choose.choice(pool) for _ in range(count)])
    for name in choose.sample(callbacks, choose.randrange(3)):
        operations = [choose.choice(ours) for _ in range(choose.randrange(1, 4))]
        if choose.random() < 0.15:
            operations.append(("raise",))
        scenario.reactions[name] = operations
    return scenario


def smaller(scenario):
    """The scenarios that leave out one thing."""
    for at in range(len(scenario.steps)):
        yield replaced(scenario, steps=scenario.steps[:at] + scenario.steps[at + 1 :])
    for at, step in enumerate(scenario.steps):
        for inner in range(len(step)):
            if len(step) > 1:
                kept = step[:inner] + step[inner + 1 :]
                steps = [*scenario.steps[:at], kept, *scenario.steps[at + 1 :]]
                yield replaced(scenario, steps=steps)
    for name, operations in scenario.reactions.items():
        others = {key: value for key, value in scenario.reactions.items() if key != name}
        yield replaced(scenario, reactions=others)
        for inner in range(len(operations)):
            if len(operations) > 1:
                kept = operations[:inner] + operations[inner + 1 :]
                yield replaced(scenario, reactions={**others, name: kept})
    if scenario.eof is not None:
        yield replaced(scenario, eof=None)
    if scenario.protocol != "plain":
        yield replaced(scenario, protocol="plain")


def replaced(scenario, **changes):
    return Scenario(**{**vars(scenario), **changes})


def shrink(scenario, fails):
    """The smallest scenario near this one for which `fails` still holds."""
    shrinking = True
    while shrinking:
        shrinking = False
        for candidate in smaller(scenario):
            if fails(candidate):
                scenario, shrinking = candidate, True
                break
    return scenario
