"""How much memory the manifests that are just being put may have together: a slow client keeps what it sent for minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

SMALL_MAX_BYTES = 64 * 1024
"""What is shorter is never refused, so that those of nearly everybody get through whoever else sends large ones."""


class Arriving:
    """Counts the bytes of bodies longer than `SMALL_MAX_BYTES`."""

    def __init__(self) -> None:
        self.size_bytes = 0

    @contextmanager
    def taking(self) -> Iterator[Taken]:
        """One body, as long as it is here."""
        taken = Taken(self)
        try:
            yield taken
        finally:
            self.size_bytes -= taken.size_bytes


class Taken:
    """What one body has of it."""

    def __init__(self, arriving: Arriving) -> None:
        self._arriving, self.size_bytes = arriving, 0

    def take(self, size_bytes: int, most_bytes: int) -> bool:
        """Whether it may be that long, when all together may have `most_bytes`."""
        if size_bytes <= SMALL_MAX_BYTES:
            return True
        more_bytes = size_bytes - self.size_bytes
        if self._arriving.size_bytes + more_bytes > most_bytes:
            return False
        self._arriving.size_bytes += more_bytes
        self.size_bytes = size_bytes
        return True
