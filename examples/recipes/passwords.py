"""Passwords off the loop: argon2id takes tens of milliseconds and megabytes, on purpose.

python -m examples.recipes.passwords
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable

import hybridloop

PASSWORD = b"correct horse battery staple"
SALT = os.urandom(16)


def plain() -> object:
    """What the standard library has: scrypt, which costs about as much."""
    return hashlib.scrypt(PASSWORD, salt=SALT, n=1 << 14, r=8, p=1)


def kernel() -> Awaitable[object]:
    return hybridloop.run_native("hl.argon2id.hash", PASSWORD)


async def main() -> None:
    stored = await hybridloop.run_native("hl.argon2id.hash", PASSWORD)
    print("stored:", stored.rpartition("$")[0].rpartition("$")[0])
    for password in (PASSWORD, b"Tr0ub4dor&3"):
        is_right = await hybridloop.run_native("hl.argon2id.verify", password, stored)
        print("right" if is_right else "wrong")
    # The hash says how much it costs; one from elsewhere may not ask for more than is allowed.
    try:
        await hybridloop.run_native("hl.argon2id.verify", PASSWORD, stored, max_memory=1024)
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    hybridloop.run(main())
