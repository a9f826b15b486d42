"""How often one may fail: a burst per key, then one more try now and then."""

from __future__ import annotations

from collections import OrderedDict

from blobstore.clock import Clock

KEYS_MAX = 10_000
"""Keys remembered at once; beyond it those that failed longest ago are forgotten."""


class FailureLimit:
    """Counts tries of each key. A try is taken before it is known to fail, so that many at once are counted, and given back if it
    didn't fail."""

    def __init__(self, clock: Clock, *, burst: int, recover_ms: int) -> None:
        assert burst >= 1 and recover_ms >= 1, (burst, recover_ms)  # noqa: PT018 - both numbers belong in the message
        self._clock, self._burst, self._recover_ms = clock, burst, recover_ms
        # For each key the time at which all its tries will have recovered.
        self._recovered_at_ms: OrderedDict[str, int] = OrderedDict()

    def wait_ms(self, key: str) -> int:
        """How long until a try of this key may be taken; 0: now."""
        now_ms = self._clock.monotonic_ms()
        used_ms = max(0, self._recovered_at_ms.get(key, now_ms) - now_ms)
        return max(0, used_ms - (self._burst - 1) * self._recover_ms)

    def take(self, key: str) -> None:
        """Count a try."""
        now_ms = self._clock.monotonic_ms()
        self._recovered_at_ms[key] = max(now_ms, self._recovered_at_ms.get(key, now_ms)) + self._recover_ms
        self._recovered_at_ms.move_to_end(key)
        while len(self._recovered_at_ms) > KEYS_MAX:
            self._recovered_at_ms.popitem(last=False)

    def give_back(self, key: str) -> None:
        """A try that was taken did not fail."""
        left_ms = self._recovered_at_ms.get(key)
        if left_ms is None:
            return
        self._recovered_at_ms[key] = left_ms - self._recover_ms
        if self._recovered_at_ms[key] <= self._clock.monotonic_ms():
            del self._recovered_at_ms[key]

    def __len__(self) -> int:
        """Keys remembered."""
        return len(self._recovered_at_ms)
