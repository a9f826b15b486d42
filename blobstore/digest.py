"""Digests: the names of blobs. `Digest.parse` is the only door from text.

Source: image-spec, descriptor.md, Digests. blake3 is registered on the specification's main branch.
"""

from __future__ import annotations

import enum
import hashlib
import re
from typing import Self

import blake3 as _blake3
import msgspec

from blobstore.errors import DigestInvalid


class Algorithm(enum.StrEnum):
    """The digest algorithms a client may use; blobs are stored under their sha256."""

    SHA256 = "sha256"
    SHA512 = "sha512"
    BLAKE3 = "blake3"

    @property
    def size_bytes(self) -> int:
        """Length of a digest of this algorithm, raw."""
        return 64 if self is Algorithm.SHA512 else 32


_GRAMMAR = re.compile(r"(sha256|blake3):([0-9a-f]{64})|(sha512):([0-9a-f]{128})", re.ASCII)
_TEXT_SHOWN_MAX_CHARS = 120


class Digest(msgspec.Struct, frozen=True, order=True):
    """An algorithm and the raw hash; compares and sorts by both."""

    algorithm: Algorithm
    value: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """A digest from `algorithm:hex`.

        Raises:
            DigestInvalid: an unknown algorithm, upper case, a wrong length, or anything before or after.
        """
        # fullmatch, since `$` would let a trailing newline through.
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            shown = repr(text if len(str(text)) <= _TEXT_SHOWN_MAX_CHARS else f"{str(text)[:_TEXT_SHOWN_MAX_CHARS]}…")
            raise DigestInvalid(
                f"{shown} is not a digest; expected sha256:, sha512: or blake3: and lower-case hex of full length"
            )
        return cls(Algorithm(match[1] or match[3]), bytes.fromhex(match[2] or match[4]))

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: Algorithm = Algorithm.SHA256) -> Self:
        """The digest of `data`; for small values, as it hashes where it is called."""
        if algorithm is Algorithm.BLAKE3:
            return cls(algorithm, _blake3.blake3(data).digest())
        return cls(algorithm, hashlib.new(algorithm.value, data).digest())

    @classmethod
    def from_sha256(cls, raw: bytes) -> Self:
        """A sha256 digest from its 32 raw bytes, as the index keeps them."""
        assert len(raw) == 32, len(raw)
        return cls(Algorithm.SHA256, raw)

    @property
    def hex(self) -> str:
        """The hash in lower-case hex, without the algorithm."""
        return self.value.hex()

    def __str__(self) -> str:
        return f"{self.algorithm.value}:{self.value.hex()}"

    def __repr__(self) -> str:
        return f"Digest({self})"
