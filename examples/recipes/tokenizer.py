"""A tokenizer as a kernel: its vocabulary is loaded once, its tokens are an array of u32.

python -m examples.recipes.tokenizer

It is WordPiece, which BERT and its relatives use, in eighty lines of Rust without dependencies.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable

import hybridloop
from examples.recipes import crate

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = [
    *("[UNK]", "loop", "task", "future", "time", "sock", "the", "wait", "in", "un", ",", "."),
    *("##s", "##ing", "##er", "##ed", "##et", "##out"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
]
TEXT = "The loop waits, unlooping tasks: timers and sockets timed out. Ω\n" * 1000


def tokens(text: str, places: dict[str, int]) -> list[int]:
    """The same in Python."""
    found = []
    for word in re.findall(r"[!-/:-@\[-`{-~]|[^\s!-/:-@\[-`{-~]+", text.lower()):
        pieces, start = [], 0
        while start < len(word):
            mark = "##" if start else ""
            for end in range(len(word), start, -1):
                if mark + word[start:end] in places:
                    pieces.append(places[mark + word[start:end]])
                    start = end
                    break
            else:
                pieces = [places["[UNK]"]]
                break
        found += pieces
    return found


PLACES = {piece: place for place, piece in enumerate(PIECES)}
_vocabulary = 0


def plain() -> object:
    return tokens(TEXT, PLACES)


def kernel() -> Awaitable[object]:
    return hybridloop.run_native("recipes.tokens", TEXT, _vocabulary)


async def prepare() -> None:
    global _vocabulary
    crate.load()
    _vocabulary = await hybridloop.run_native("recipes.load_vocabulary", "\n".join(PIECES))


async def main() -> None:
    await prepare()
    found = await hybridloop.run_native("recipes.tokens", "Unlooping sockets.", _vocabulary)
    print([PIECES[token] for token in found])
    found = await hybridloop.run_native("recipes.tokens", TEXT, _vocabulary)
    print(f"{len(found):,} tokens, as in Python: {list(found) == plain()}; format {found.format!r}")
    # Texts of one request make one batch.
    texts = [(line, _vocabulary) for line in TEXT.splitlines()]
    batch = await hybridloop.run_native_many("recipes.tokens", texts)
    print(f"{len(batch):,} texts, {sum(map(len, batch)):,} tokens")


if __name__ == "__main__":
    hybridloop.run(main())
