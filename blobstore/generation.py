"""Generations: what makes a physical name be used once (docs/storage.md, The tree on the backend)."""

from __future__ import annotations

import re
from typing import Self

import msgspec

_TEXT = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Generation(msgspec.Struct, frozen=True, order=True):
    """One upload's bytes: the epoch of the process that minted it, and that process's counter."""

    epoch: int
    counter: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """From 32 hex characters; None if `text` isn't one, as names on a backend may be anybody's."""
        return cls(int(text[:16], 16), int(text[16:], 16)) if _TEXT.fullmatch(text) else None

    @classmethod
    def from_key(cls, key: bytes) -> Self:
        """From the 16 bytes of `key`."""
        assert len(key) == 16, len(key)
        return cls(int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big"))

    @property
    def key(self) -> bytes:
        """16 bytes, big-endian, that sort as the generation does."""
        return self.epoch.to_bytes(8, "big") + self.counter.to_bytes(8, "big")

    def __str__(self) -> str:
        return f"{self.epoch:016x}{self.counter:016x}"
