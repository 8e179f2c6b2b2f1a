"""Choosing a worker for each call."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True)
class Place:
    """A worker, and how much it may do at a time."""

    address: str
    threads: int
    limit: int
    busy: int = 0
    """Calls that are under way."""
    stored: int = 0
    """Bytes that were put on it."""
    last: int = 0
    """The number of the last call, so that equal workers take turns."""
    usable: bool = True

    @property
    def has_space(self) -> bool:
        return self.usable and self.busy < self.limit


# Priority, number, future, and the workers that have an argument.
_Waiting = tuple[int, int, "asyncio.Future[Place]", Collection[str]]


class Placement:
    """The least busy worker first. If all have as many calls as they may, callers wait in order."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self._waiting: list[_Waiting] = []
        self._number = 0

    def __len__(self) -> int:
        """How many callers wait."""
        return sum(not future.done() for _, _, future, _ in self._waiting)

    def add(self, address: str, threads: int, limit: int) -> None:
        """Use a worker."""
        self.places[address] = Place(address, threads, limit)
        self._serve()

    def remove(self, address: str) -> None:
        """Do not use a worker any more."""
        if place := self.places.pop(address, None):
            place.usable = False

    def try_acquire(self, holders: Collection[str]) -> Place | None:
        """A worker, if one has space and nobody waits for it."""
        if not self._waiting and (place := self._choose(holders)):
            return self._take(place)
        return None

    async def acquire(self, priority: int, holders: Collection[str]) -> Place:
        """Wait for a worker. `release()` it when the call has ended."""
        self._number += 1
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-priority, self._number, future, holders))
        try:
            return await future
        except asyncio.CancelledError:
            # The place may have been given and the task cancelled in the same iteration.
            if not future.cancelled() and future.exception() is None:
                self.release(future.result())
            raise

    def release(self, place: Place) -> None:
        """A call has ended."""
        place.busy -= 1
        self._serve()

    def fail(self, error: Exception) -> None:
        """Fail all callers that wait."""
        for _, _, future, _ in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()

    def _choose(self, holders: Collection[str]) -> Place | None:
        places = [place for place in self.places.values() if place.has_space]
        return min(places, default=None, key=lambda place: self._rank(place, holders))

    @staticmethod
    def _rank(place: Place, holders: Collection[str]) -> tuple[bool, float, int]:
        return place.address not in holders, place.busy / place.threads, place.last

    def _take(self, place: Place) -> Place:
        self._number += 1
        place.busy += 1
        place.last = self._number
        return place

    def _serve(self) -> None:
        while self._waiting:
            _, _, future, holders = self._waiting[0]
            if future.done():
                heapq.heappop(self._waiting)
            elif place := self._choose(holders):
                heapq.heappop(self._waiting)
                future.set_result(self._take(place))
            else:
                return
