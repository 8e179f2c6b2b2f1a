"""Reads callgrind's profile files."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath

NAME = re.compile(r"\((\d+)\)(?: (.*))?$")

# A function of a shared object.
Function = tuple[str, str]


@dataclass
class Profile:
    """Instructions by function: in its own code, and with everything it calls."""

    own: Counter[Function] = field(default_factory=Counter)
    calls: Counter[tuple[Function, Function]] = field(default_factory=Counter)
    called: Counter[Function] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.own.total()

    def since(self, earlier: Profile) -> Profile:
        """Return what this profile has more than a profile of a shorter run."""
        later = Profile(Counter(self.own), Counter(self.calls), Counter(self.called))
        later.own.subtract(earlier.own)
        later.calls.subtract(earlier.calls)
        later.called.subtract(earlier.called)
        return later

    def by_object(self) -> Counter[str]:
        """Return instructions by shared object."""
        objects: Counter[str] = Counter()
        for (owner, _), cost in self.own.items():
            objects[owner] += cost
        return objects

    def inclusive(self) -> Counter[Function]:
        """Return instructions with callees; in recursion inner calls are counted repeatedly."""
        costs = Counter(self.own)
        for (caller, callee), cost in self.calls.items():
            if caller != callee:
                costs[caller] += cost
        return costs


class Names:
    """Undoes the name compression: "(id) name" defines, "(id)" refers."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        match = NAME.match(text)
        if match is None:
            return text
        key, name = match.groups()
        if name is not None:
            self.known[key] = name
        return self.known.get(key, key)


def read(path: Path) -> Profile:
    """Read one profile dump."""
    profile = Profile()
    objects, functions = Names(), Names()
    owner = callee_owner = ""
    caller = callee = ("", "")
    calls = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in map(str.rstrip, lines):
            key, _, value = line.partition("=")
            if not line:
                continue
            if key == "ob":
                owner = callee_owner = short(objects(value))
            elif key == "fn":
                caller = (owner, functions(value))
                callee_owner = owner
            elif key == "cob":
                callee_owner = short(objects(value))
            elif key == "cfn":
                callee = (callee_owner, functions(value))
            elif key == "calls":
                calls = int(value.split()[0])
                # The next line holds what these calls cost.
                cost = int(next(lines).split()[1])
                if calls:  # a call that began before the dump counts as none, and costs all
                    profile.calls[caller, callee] += cost
                    profile.called[callee] += calls
                callee_owner = owner
            elif line[0] in "0123456789+-*":
                profile.own[caller] += int(line.split()[1])
    return profile


def short(path: str) -> str:
    return PurePath(path).name
