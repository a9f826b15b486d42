"""What an object store's vendor must be able to do: one method, one request; no retries, no buffers, no names of ours."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec

from blobstore.abc.backend import ObjectInfo
from blobstore.backends._part_pieces import Pieces
from blobstore.errors import KeyUnknown


class Abilities(msgspec.Struct, frozen=True):
    """What a server honours, as found by trying it when it was opened."""

    creates_once: bool
    """A put of what is there already is refused."""
    checks_sha256: bool
    """A body that doesn't hash to the announced sha256 is refused."""
    is_versioned: bool = False
    """Deletes leave the old version behind, unless they name it."""


class Limits(msgspec.Struct, frozen=True):
    """What a vendor allows, in bytes and numbers."""

    part_min_bytes: int
    part_max_bytes: int
    parts_max: int = 10_000
    delete_max: int = 1000


class Part(msgspec.Struct, frozen=True):
    """One part of a multipart upload, as the server has it; parts are numbered from 1."""

    number: int
    size_bytes: int
    etag: str
    checksum: int | None = None
    """Of its bytes, in a vendor's own kind, for checking the whole; None where none is told."""


class OpenMultipart(msgspec.Struct, frozen=True):
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    multipart_id: str


class ObjectClient(abc.ABC):
    """One bucket of a vendor. Keys are whole: the store's prefix is part of them.

    Every method raises of `blobstore.errors`: `KeyUnknown`; `TransientError` (time-outs, resets, 5xx), `SlowDown` where
    the server asks for it, both with what was asked in their text; `AccessDenied` (wrong credentials, no right), `BucketUnknown`,
    `StorageFull`, else `StorageFailed`. After a `TransientError` the request may have taken effect.
    """

    @property
    @abc.abstractmethod
    def vendor(self) -> str:
        """`s3` or `oss`, for messages and metrics."""

    @property
    @abc.abstractmethod
    def location(self) -> str:
        """Where this is, for messages to people; never with a secret."""

    @property
    @abc.abstractmethod
    def limits(self) -> Limits:
        """What the vendor allows."""

    @abc.abstractmethod
    async def open(self) -> None:
        """Connect; sends nothing."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Release all. Repeatable."""

    @abc.abstractmethod
    async def probe(self, scratch_key: str) -> Abilities:
        """Find out what the server honours, with an object of its own that is deleted again."""

    @abc.abstractmethod
    async def put(self, key: str, data: bytes | bytearray, *, is_new: bool, sha256: bytes | None = None) -> bool:
        """Write an object whole. With `is_new` only where none is (as far as the server honours that): False if one is. Once it
        ended, cancelled or not, it uses `data` no more: that memory is written to again.

        Args:
            key: its key.
            data: its bytes.
            is_new: create exclusively.
            sha256: the digest of `data`, if it is known, for the server to check.
        """

    @abc.abstractmethod
    def get(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[tuple[int, AsyncIterator[bytes]]]:
        """The size of the whole object, and its bytes from `start` up to `stop`, in chunks of up to `CHUNK_BYTES`. A body that
        ends early raises `TransientError`; a `start` at or beyond the end raises `RangeInvalid`."""

    @abc.abstractmethod
    async def head(self, key: str) -> ObjectInfo:
        """The size of an object."""

    @abc.abstractmethod
    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """Delete up to `limits.delete_max` keys in one request; returns those confirmed gone, the absent ones among them. On
        a versioned bucket the versions are deleted too."""

    @abc.abstractmethod
    def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """Objects under `prefix`, sorted by key, behind `after`; one request a thousand."""

    @abc.abstractmethod
    async def start_multipart(self, key: str) -> str:
        """Begin a multipart upload; its id."""

    @abc.abstractmethod
    async def put_part(self, key: str, multipart_id: str, number: int, data: bytes | bytearray) -> Part:
        """Send one part, whose checksum is compared with the server's. What was sent before under its number is replaced. Raises
        `KeyUnknown` if the server knows no such upload. Once it ended, cancelled or not, it uses `data` no more."""

    @property
    def takes_pieces(self) -> bool:
        """Whether `put_part_in_pieces` saves copying them together."""
        return False

    async def put_part_in_pieces(self, key: str, multipart_id: str, number: int, pieces: Pieces) -> Part:
        """As `put_part`, of the pieces in which the part came."""
        return await self.put_part(key, multipart_id, number, pieces.joined())

    @abc.abstractmethod
    async def list_parts(self, key: str, multipart_id: str) -> Sequence[Part]:
        """The parts the server has, by number; some servers list what was replaced, too. Raises `KeyUnknown` if it knows no such
        upload."""

    @abc.abstractmethod
    async def complete(self, key: str, multipart_id: str, parts: Sequence[Part], *, is_new: bool = False) -> bool:
        """Make one object of the parts. With `is_new` only where none is, as far as the vendor can say so of a completion: False,
        and the upload stays, if one is. Raises `KeyUnknown` if the server knows no such upload (any more)."""

    async def is_made_of(self, key: str, parts: Sequence[Part]) -> bool:
        """Whether the object under a key is that of these parts: by its size, and by its checksum where the vendor tells one. For
        who asked to complete them and was not answered."""
        try:
            return (await self.head(key)).size_bytes == sum(part.size_bytes for part in parts)
        except KeyUnknown:
            return False

    @abc.abstractmethod
    async def abort(self, key: str, multipart_id: str) -> None:
        """Drop an upload and its parts. Repeatable."""

    @abc.abstractmethod
    def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """The uploads under `prefix` that are neither completed nor aborted."""

    @abc.abstractmethod
    async def presign(self, key: str, valid_s: int) -> str:
        """A URL from which anybody may get the object for that long; sends nothing."""
