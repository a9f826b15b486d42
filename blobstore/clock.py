"""The only place that looks at the clock, asks which boot of the machine this is, or draws random numbers."""

from __future__ import annotations

import functools
import secrets
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where every part asks for the time, so that a test can advance it."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since 1970-01-01 UTC."""

    def monotonic_ms(self) -> int:
        """A clock that no one sets, milliseconds from any origin."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """A clock that no one sets, milliseconds from any origin."""
        return time.monotonic_ns() // 1_000_000


def stopwatch_s() -> float:
    """Seconds from any origin, for measuring how long something took; nothing is decided by it, so no test need advance it."""
    return time.perf_counter()


def random_hex(size_bytes: int) -> str:
    """Unguessable hex text of `2 × size_bytes` characters."""
    return secrets.token_hex(size_bytes)


def random_u64() -> int:
    """An unguessable integer below 2⁶³, so that it also fits a signed column."""
    return secrets.randbits(63)


def random_fraction() -> float:
    """An unguessable number from 0 up to 1."""
    return secrets.randbits(53) / 2**53


@functools.cache
def boot_id() -> str:
    """Changes whenever the machine starts: what the page cache held then is gone."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def iso_utc(ms: int) -> str:
    """`ms` since the epoch as RFC 3339 text in UTC, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
