"""How fast requests may be repeated, and how fast those go that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from blobstore.clock import Clock, SystemClock, random_fraction

Sleep = Callable[[float], Awaitable[object]]
"""Seconds to wait; `asyncio.sleep`, or what a test puts in its place."""


class RetryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How often, how soon and how much; an endpoint may be away for about 20 seconds on average until a request fails."""

    attempts_max: int = 10
    """How often one request is sent; what makes progress in between (a body, a listing) counts anew."""
    delay_first_s: float = 0.1
    """The first pause is drawn from 0 to this, each further one from twice as much."""
    delay_max_s: float = 20
    requests_max: int = 64
    """How many requests are under way at once; others wait."""
    bodies_max: int = 128
    """How many downloads are open at once. They don't count as requests, so that slow readers stop no push."""
    listed_page_keys: int = 1000
    """How many keys of a listing cost one request."""
    delete_attempts_max: int = 3
    """How often keys are asked for whose deletion a server left unconfirmed without an error."""

    pace_max_per_s: float = 200
    """Deletes and listings, as long as nobody complains."""
    pace_min_per_s: float = 0.5
    pace_gain_per_s: float = 1
    """How much faster they may go after each second without a complaint."""
    pace_pause_s: float = 2
    """How long none is sent after a complaint; further complaints meanwhile don't halve the pace again."""


class RetryBudget:
    """How many requests one process may repeat, over all its servers: one that is overloaded is not asked many times as often as
    one that is well. Each success earns a part of a retry, and so does time, so that nobody is locked out for good."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        retries_max: float = 500,
        retries_per_success: float = 0.1,
        retries_per_s: float = 1,
    ) -> None:
        self._clock = clock or SystemClock()
        self._max, self._per_success, self._per_s = retries_max, retries_per_success, retries_per_s
        self._left = retries_max
        self._counted_ms = self._clock.monotonic_ms()
        self.spent = 0
        """How many were taken since the start, for metrics."""

    def earn(self) -> None:
        """A request succeeded."""
        self._left = min(self._max, self._left + self._per_success)

    def take(self) -> bool:
        """Whether one more may be repeated now."""
        now_ms = self._clock.monotonic_ms()
        earned = (now_ms - self._counted_ms) / 1000 * self._per_s
        self._left, self._counted_ms = min(self._max, self._left + earned), now_ms
        if self._left < 1:
            return False
        self._left -= 1
        self.spent += 1
        return True


class BackgroundPace:
    """The pace of what nobody waits for. Additive increase, multiplicative decrease: half as fast after each complaint of the
    server, then a little faster each second."""

    def __init__(self, limits: RetryLimits, clock: Clock, sleep: Sleep) -> None:
        self._limits, self._clock, self._sleep = limits, clock, sleep
        self._turn = asyncio.Lock()
        self._per_s = limits.pace_max_per_s
        self._changed_ms = self._next_ms = float(clock.monotonic_ms())

    @property
    def per_s(self) -> float:
        """Requests a second that may be sent now."""
        quiet_s = max(0.0, self._clock.monotonic_ms() - self._changed_ms) / 1000
        return min(self._limits.pace_max_per_s, self._per_s + quiet_s * self._limits.pace_gain_per_s)

    async def wait(self) -> None:
        """Until the next one may be sent; first come, first served."""
        async with self._turn:
            # Not once: a complaint may come while this sleeps.
            while (early_ms := self._next_ms - self._clock.monotonic_ms()) > 0:
                await self._sleep(early_ms / 1000)
            self._next_ms = self._clock.monotonic_ms() + 1000 / self.per_s

    def slow_down(self) -> None:
        """The server complained, whoever asked."""
        now_ms, pause_ms = self._clock.monotonic_ms(), self._limits.pace_pause_s * 1000
        if now_ms >= self._changed_ms:
            self._per_s = max(self._limits.pace_min_per_s, self.per_s / 2)
            self._changed_ms = now_ms + pause_ms
        self._next_ms = max(self._next_ms, self._changed_ms)


def jittered_s(limits: RetryLimits, attempt: int, fraction: Callable[[], float] = random_fraction) -> float:
    """The pause before attempt number `attempt` (the second is 1): anything from 0 to a bound that doubles, so that those who
    failed together don't come back together."""
    return fraction() * min(limits.delay_max_s, limits.delay_first_s * 2.0 ** (attempt - 1))
