"""aiofiles: every operation on a file is a call in the loop's executor."""

from __future__ import annotations

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiofiles
import aiofiles.os
import aiofiles.tempfile
import pytest

from ..integration.support.loops import run_on_loop

FILES = 100
MEBIBYTE = os.urandom(1 << 20)


def test_many_files_at_once(tmp_path: Path) -> None:
    async def write_and_read(number: int) -> str:
        path = tmp_path / f"{number}.txt"
        async with aiofiles.open(path, "w", encoding="utf-8") as file:
            for line in range(20):
                await file.write(f"{number} zeile {line} ü\n")
        async with aiofiles.open(path, encoding="utf-8") as file:
            lines = [line async for line in file]
        assert lines == [f"{number} zeile {line} ü\n" for line in range(20)]
        await aiofiles.os.rename(path, path.with_suffix(".done"))
        return "".join(lines)

    async def main() -> None:
        texts = await asyncio.gather(*(write_and_read(number) for number in range(FILES)))
        assert len(set(texts)) == FILES
        names = await aiofiles.os.listdir(tmp_path)
        assert sorted(names) == sorted(f"{number}.done" for number in range(FILES))

    run_on_loop(main())


def test_copy_in_pieces(tmp_path: Path) -> None:
    path, copy = tmp_path / "file.bin", tmp_path / "copy.bin"
    path.write_bytes(MEBIBYTE * 4)

    async def main() -> None:
        digest = hashlib.sha256()
        async with aiofiles.open(path, "rb") as source, aiofiles.open(copy, "wb") as target:
            while chunk := await source.read(50_000):
                digest.update(chunk)
                await target.write(chunk)
            await source.seek(-10, os.SEEK_END)
            assert await source.read() == MEBIBYTE[-10:]
        assert digest.digest() == hashlib.sha256(MEBIBYTE * 4).digest()
        assert (await aiofiles.os.stat(copy)).st_size == 4 << 20

    run_on_loop(main())
    assert copy.read_bytes() == path.read_bytes()


def test_errors_and_executors(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            async with aiofiles.open(tmp_path / "none"):
                pass
        with ThreadPoolExecutor(1) as executor:
            async with aiofiles.tempfile.TemporaryFile("w+", executor=executor) as file:
                await file.write("kept")
                await file.seek(0)
                assert await file.read() == "kept"

    run_on_loop(main())


def test_the_loop_goes_on_while_threads_work(tmp_path: Path) -> None:
    """A read that blocks in a thread, of a pipe, ends by what the loop writes meanwhile."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    async def read() -> bytes:
        async with aiofiles.open(path, "rb") as file:
            data: bytes = await file.read()
            return data

    async def main() -> None:
        reading = asyncio.create_task(read())
        async with aiofiles.open(path, "wb") as file:
            for number in range(100):
                await file.write(b"%d " % number)
                await asyncio.sleep(0)
        assert await reading == b"".join(b"%d " % number for number in range(100))

    run_on_loop(main())
