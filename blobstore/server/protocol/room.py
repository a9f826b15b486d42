"""Whether there is room for what a new upload brings."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from typing import Protocol

from blobstore.clock import Clock, SystemClock

_FRESH_MS = 1000


class Room(Protocol):
    """Asked before bytes are taken in, and while they are."""

    async def is_short(self) -> bool:
        """Whether new uploads are to be refused."""

    async def is_exhausted(self) -> bool:
        """Whether those under way are to be broken off, too: what frees space must find a little."""


class EndlessRoom:
    """For stores whose end nobody can see, as object stores are."""

    async def is_short(self) -> bool:
        """See `Room.is_short`."""
        return False

    async def is_exhausted(self) -> bool:
        """See `Room.is_exhausted`."""
        return False


class DiskRoom:
    """Room on disks: short when one of the `paths` has less than its mark free for this user, exhausted when it has less than
    half of that. The mark is `low_water_bytes`; with `share_max` no more than that share of the disk. Looks once a second."""

    def __init__(
        self, paths: Sequence[str], low_water_bytes: int, clock: Clock | None = None, *, share_max: float | None = None
    ) -> None:
        self._paths, self._low_water_bytes, self._share_max = paths, low_water_bytes, share_max
        self._clock = clock or SystemClock()
        self._looked_ms = 0
        self._looking: asyncio.Future[float] | None = None

    async def is_short(self) -> bool:
        """See `Room.is_short`."""
        return await self._level() < 1

    async def is_exhausted(self) -> bool:
        """See `Room.is_exhausted`."""
        return await self._level() < 0.5

    async def _level(self) -> float:
        """What is free, of the mark; that of the fullest."""
        # The server of a share may be away for hours: one thread waits for it, not one a second.
        now_ms = self._clock.monotonic_ms()
        if self._looking is None or (self._looking.done() and now_ms - self._looked_ms >= _FRESH_MS):
            self._looked_ms = now_ms
            self._looking = asyncio.ensure_future(asyncio.to_thread(self._look))
        elif self._looking.done():
            return self._looking.result()
        return await asyncio.shield(self._looking)

    def _look(self) -> float:
        return min(map(self._level_of, self._paths))

    def _level_of(self, path: str) -> float:
        if not self._low_water_bytes:
            return math.inf
        try:
            found = os.statvfs(path)
        except OSError:
            # What is wrong there is told by whoever writes to it.
            return 0
        mark: float = self._low_water_bytes
        if self._share_max is not None:
            mark = min(mark, found.f_blocks * found.f_frsize * self._share_max)
        return found.f_bavail * found.f_frsize / mark if mark else math.inf
