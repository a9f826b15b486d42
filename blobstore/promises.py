"""When a promise ends: the pure rule that pushers, index and collector share."""

from __future__ import annotations

import msgspec

RENEW_S = 60
GRACE_S_DEFAULT = 24 * 3600
QUARANTINE_S_DEFAULT = 3600
ACTIVITY_MAX_S = 7 * 24 * 3600
PINNED_MS = 2**63 - 1
"""`renewed_at_ms` of a pin: a hold that doesn't expire."""


class Activity(msgspec.Struct, frozen=True):
    """Since when, and until when at least, bytes have been arriving in a repository; 0 and 0: never."""

    since_ms: int = 0
    until_ms: int = 0


class HoldTerms(msgspec.Struct, frozen=True):
    """How long a promise is owed. With `grace_s` 0 none is: holds lapse as they are made."""

    grace_s: float = GRACE_S_DEFAULT
    renew_s: float = RENEW_S
    activity_max_s: float = ACTIVITY_MAX_S

    @property
    def term_ms(self) -> int:
        """How long a hold lasts after it was made or renewed."""
        return int((self.grace_s + self.renew_s) * 1000) if self.grace_s > 0 else 0

    @property
    def renew_ms(self) -> int:
        """How old a hold must be to be written anew when it is asked for again."""
        return int(self.renew_s * 1000)

    def lapses_at_ms(self, renewed_at_ms: int, activity: Activity) -> int:
        """When a hold ends, as things stand: later bytes may still put it off.

        A hold whose repository was active when it would have lapsed lasts until a term after that activity, but no longer
        than `activity_max_s` (source: docs/storage.md, Promises).
        """
        plain = renewed_at_ms + self.term_ms
        if renewed_at_ms >= PINNED_MS or self.term_ms == 0 or renewed_at_ms == 0 or activity.since_ms > plain:
            return min(plain, PINNED_MS)
        latest = renewed_at_ms + max(self.term_ms, int(self.activity_max_s * 1000))
        return max(plain, min(activity.until_ms + self.term_ms, latest))

    def is_lapsed(self, renewed_at_ms: int, activity: Activity, now_ms: int) -> bool:
        """Whether nothing is owed for this hold any more."""
        return renewed_at_ms < PINNED_MS and now_ms >= self.lapses_at_ms(renewed_at_ms, activity)
