"""When collections are due: cron expressions, as a function of the last runs and the time."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from blobstore.errors import ConfigInvalid

_NEVER_MS = 2**62
_FIELDS = 5


class Due(msgspec.Struct, frozen=True):
    """The next collection: when, and whether it looks at everything."""

    at_ms: int
    is_full: bool


class Schedule:
    """Two cron expressions in a time zone, empty for never. A run that was missed, as nobody ran then, is due once, at once."""

    def __init__(self, incremental: str, full: str, zone: str = "UTC") -> None:
        for expression in (incremental, full):
            if expression:
                parse_cron(expression)
        self._incremental, self._full = incremental, full
        self._zone = parse_zone(zone)

    def next_due(self, last_incremental_ms: int, last_full_ms: int, now_ms: int) -> Due | None:
        """What is due first, maybe in the past; None for never.

        A full run does an incremental one's work, so that it stands for both; of two that are due it is the full one's turn.

        Args:
            last_incremental_ms: when one of any kind last began, or since when this schedule is kept.
            last_full_ms: the same of full ones.
            now_ms: the time.
        """
        incremental_ms = self._after(self._incremental, max(last_incremental_ms, last_full_ms))
        full_ms = self._after(self._full, last_full_ms)
        at_ms = min(incremental_ms, full_ms)
        if at_ms == _NEVER_MS:
            return None
        return Due(at_ms, is_full=full_ms <= max(at_ms, now_ms))

    def next_at(self, now_ms: int, *, is_full: bool) -> int | None:
        """When a kind of run comes next, seen from now."""
        at_ms = self._after(self._full if is_full else self._incremental, now_ms)
        return None if at_ms == _NEVER_MS else at_ms

    def _after(self, expression: str, ms: int) -> int:
        if not expression:
            return _NEVER_MS
        start = datetime.fromtimestamp(ms / 1000, UTC).astimezone(self._zone)
        try:
            return int(next(CronSim(expression, start)).timestamp() * 1000)
        except StopIteration:
            return _NEVER_MS


def parse_cron(text: str) -> str:
    """A cron expression of five fields, checked.

    Raises:
        ConfigInvalid: it is none, or one that never comes.
    """
    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise ConfigInvalid(_refusal(text, str(error) or "no day is ever like that")) from error
    if len(text.split()) != _FIELDS:
        raise ConfigInvalid(_refusal(text, "Seconds are not looked at"))
    return text


def _refusal(text: str, why: str) -> str:
    return (
        f"{text!r:.80} is not a cron expression: {why}; write minute, hour, day, month and weekday, "
        "such as '17 3 * * *' for every day at 03:17"
    )


def parse_zone(name: str) -> tzinfo:
    """A time zone by its name.

    Raises:
        ConfigInvalid: this machine knows none of that name.
    """
    if name == "UTC":
        # Also where no data base is installed.
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigInvalid(
            f"{name!r:.80} is not a time zone of this machine; write one such as Europe/Berlin, or UTC"
        ) from error
