"""A megabyte of JSON, of which little is needed: a kernel parses it, Python gets the part.

python -m examples.recipes.json_parts

`json.loads()` holds the interpreter until it is done, also in an executor: the loop cannot go on.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable

import hybridloop
from examples.recipes import crate

ITEMS = [
    {"id": number, "name": f"item {number}", "prices": [number / 7, number / 3], "tags": ["a", "b"]}
    for number in range(12_000)
]
DOCUMENT = json.dumps({"page": {"count": len(ITEMS), "next": None}, "items": ITEMS}).encode()


def plain() -> object:
    return json.loads(DOCUMENT)["page"]


def kernel() -> Awaitable[object]:
    return hybridloop.run_native("recipes.json_part", DOCUMENT, "/page")


async def prepare() -> None:
    crate.load()


async def main() -> None:
    await prepare()
    print(f"{len(DOCUMENT) / 1e6:.1f} MB")
    for pointer in ("/page", "/items/11999/prices"):
        part = json.loads(await hybridloop.run_native("recipes.json_part", DOCUMENT, pointer))
        print(pointer, part)
    for document, pointer in ((DOCUMENT, "/pages"), (DOCUMENT[:-1], "/page")):
        try:
            await hybridloop.run_native("recipes.json_part", document, pointer)
        except (KeyError, ValueError) as error:
            print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    hybridloop.run(main())
