"""A part as the pieces in which it came: where a vendor can send them one by one, putting them together would only cost."""

from __future__ import annotations

from collections.abc import Iterator

KEPT_MIN_BYTES = 64 * 1024
"""Shorter pieces are copied together, so that they are few."""
OWNER_MAX_BYTES = 2 * 1024 * 1024
"""A piece of something longer is copied: it would keep all of that in memory."""


class Pieces:
    """Bytes in a row."""

    def __init__(self) -> None:
        # Views of what others made, which can't change, and buffers of our own.
        self._pieces: list[memoryview | bytearray] = []

    def __iter__(self) -> Iterator[memoryview]:
        return map(memoryview, self._pieces)

    @property
    def size_bytes(self) -> int:
        """How many they are."""
        return sum(map(len, self._pieces))

    def append(self, data: memoryview) -> None:
        """More bytes; they are copied unless they can't change."""
        if not data:
            return
        owner = data.obj
        if type(owner) is bytes and len(data) >= KEPT_MIN_BYTES and len(owner) <= OWNER_MAX_BYTES:
            self._pieces.append(data)
        elif self._pieces and isinstance(last := self._pieces[-1], bytearray) and len(last) < KEPT_MIN_BYTES:
            last += data
        else:
            self._pieces.append(bytearray(data))

    def cut(self, kept_bytes: int) -> None:
        """Forget the bytes behind the first ones."""
        excess = self.size_bytes - kept_bytes
        while excess > 0:
            last = self._pieces.pop()
            if len(last) > excess:
                self._pieces.append(last[: len(last) - excess])
            excess -= len(last)

    def read(self, start: int, stop: int) -> bytes:
        """Some of them."""
        found, at = [], 0
        for piece in self:
            found.append(piece[max(start - at, 0) : max(stop - at, 0)])
            at += len(piece)
        return b"".join(found)

    def joined(self) -> bytes:
        """All of them, as a copy."""
        return b"".join(self._pieces)
