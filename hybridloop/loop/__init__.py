"""`Loop`: an asyncio event loop with native callbacks, timers, I/O and streams."""

from __future__ import annotations

from .loop import Loop, new_event_loop, run

__all__ = ["Loop", "new_event_loop", "run"]
