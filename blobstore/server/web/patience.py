"""How long we wait for a client: long enough for a slow line, not for one that keeps a connection for its own sake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

import msgspec

Result = TypeVar("Result")


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a client while a body moves, either way. Only the time counts in which we wait for it."""

    rate_min_bytes_s: int = 4 * 1024
    """On average, once the allowance is used up; 0 switches it off."""
    allowance_s: float = 30
    """What every body may wait however little came."""
    stall_max_s: float = 60
    """The longest single wait, however much came before."""


class Patience:
    """Of one body: knows how much moved, and how long was waited for it.

    Raises:
        TimeoutError: by `wait`, when the client used up what it had.
    """

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._moved_bytes = 0
        self._waited_s = 0.0

    def moved(self, size_bytes: int) -> None:
        """So many bytes came, or left."""
        self._moved_bytes += size_bytes

    @property
    def left_s(self) -> float:
        """How long the next wait may be."""
        limits = self._limits
        if not limits.rate_min_bytes_s:
            return limits.stall_max_s
        earned_s = limits.allowance_s + self._moved_bytes / limits.rate_min_bytes_s
        return max(0.0, min(limits.stall_max_s, earned_s - self._waited_s))

    async def wait(self, client: Awaitable[Result]) -> Result:
        """What `client` returns, if it does in time."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(self.left_s):
                return await client
        finally:
            self._waited_s += time.monotonic() - start
