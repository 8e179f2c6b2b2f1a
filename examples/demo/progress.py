"""One line that says what is going on: rewritten in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

TICK = 0.2


class Progress:
    """Shows elapsed and total seconds while the main thread measures.

    On a terminal a thread rewrites the line. It sleeps nearly all the time, so it takes nothing
    from what is measured.
    """

    def __init__(self, total: float) -> None:
        self._total = total
        self._started = time.monotonic()
        self._text = ""
        self._terminal = sys.stdout.isatty()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._redraw, daemon=True)

    def __enter__(self) -> Self:
        if self._terminal:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            self._stop.set()
            self._thread.join()
            print("\r\x1b[K", end="", flush=True)

    def say(self, text: str) -> None:
        with self._lock:
            self._text = text
        if not self._terminal:
            print(f"  {self._line()}", flush=True)

    def _line(self) -> str:
        elapsed = time.monotonic() - self._started
        return f"[{elapsed:3.0f} of about {self._total:.0f} s] {self._text}"

    def _redraw(self) -> None:
        while not self._stop.wait(TICK):
            with self._lock:
                line = self._line()
            print(f"\r\x1b[K  {line}", end="", flush=True)
