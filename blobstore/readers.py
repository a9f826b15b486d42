"""Reading blobs: ranges, and whole blobs that are verified on their way out."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import blake3

from blobstore.abc.records import Blob
from blobstore.digest import Digest
from blobstore.errors import BlobDamaged, BlobUnknown, KeyUnknown, RangeInvalid
from blobstore.events import Alarm, PromiseBroken
from blobstore.hashing import INLINE_HASH_MAX_BYTES
from blobstore.parts import Parts
from blobstore.pool import Lane


class BlobReader:
    """An open blob. Iterate over it once, for chunks of bytes.

    A whole blob is verified: its last chunk is given only after all of it was hashed, so that damaged bytes never arrive in
    full. A range is not, as only the whole has a digest.
    """

    def __init__(self, parts: Parts, blob: Blob, start: int, stop: int, chunks: AsyncIterator[bytes]) -> None:
        self.digest, self.size_bytes = blob.digest, blob.size_bytes
        self.start, self.stop = start, stop
        self._parts, self._blob, self._chunks = parts, blob, chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        is_whole = (self.start, self.stop) == (0, self.size_bytes)
        return self._verified() if is_whole else self._chunks

    async def read(self) -> bytes:
        """All of it at once; for small blobs.

        Raises:
            BlobDamaged: the bytes do not hash to the digest.
        """
        return b"".join([chunk async for chunk in self])

    async def _verified(self) -> AsyncIterator[bytes]:
        hasher, expected = _verifier(self._blob)
        lane = Lane(self._parts.hash_pool)
        held: bytes | None = None
        try:
            async for chunk in self._chunks:
                if self.size_bytes <= INLINE_HASH_MAX_BYTES:
                    hasher.update(chunk)
                else:
                    await lane.put(functools.partial(hasher.update, chunk))
                if held is not None:
                    yield held
                held = chunk
            await lane.drain()
        finally:
            await lane.settle()
        if hasher.digest() != expected:
            text = f"the bytes of {self.digest} are damaged; `blobstore check --read-data` marks it, a push heals it"
            self._parts.events(Alarm(text))
            raise BlobDamaged(text)
        if held is not None:
            yield held


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> object:
        """Hash more."""

    def digest(self) -> bytes:
        """The hash so far."""


def _verifier(blob: Blob) -> tuple[_Hasher, bytes]:
    """blake3 where it was noted when the blob came, as it is several times faster; else the digest itself."""
    if blob.blake3 is not None:
        return blake3.blake3(), blob.blake3
    return hashlib.sha256(), blob.digest.value


@asynccontextmanager
async def open_blob(
    parts: Parts,
    digest: Digest,
    find: Callable[[], Awaitable[Blob | None]],
    start: int = 0,
    stop: int | None = None,
) -> AsyncIterator[BlobReader]:
    """Open the blob that `find` finds in the index, from `start` up to `stop`.

    Raises:
        BlobUnknown: there is none, or it was collected just now.
        BlobDamaged: its bytes are gone.
        RangeInvalid: see `Backend.read`.
    """
    blob = await find()
    if blob is None:
        raise BlobUnknown(f"no blob {digest}")
    end = blob.size_bytes if stop is None else stop
    if not 0 <= start <= blob.size_bytes or not start <= end:
        raise RangeInvalid(f"bytes {start} to {end} of a blob of {blob.size_bytes}")
    end = min(end, blob.size_bytes)
    async with AsyncExitStack() as stack:
        try:
            chunks = await stack.enter_async_context(parts.backend.read(blob.names[0], start, end))
        except KeyUnknown as error:
            blob = await _look_again(parts, digest, blob, error)
            chunks = await stack.enter_async_context(parts.backend.read(blob.names[0], start, end))
        yield BlobReader(parts, blob, start, end, chunks)


async def _look_again(parts: Parts, digest: Digest, blob: Blob, error: KeyUnknown) -> Blob:
    """The bytes were not where the index said: it was collected, or pushed anew, since we looked; or it is lost."""
    found = await parts.index.find_blob(digest)
    if found is None:
        raise BlobUnknown(f"no blob {digest}; it was collected just now") from error
    if found.generation == blob.generation:
        text = f"the bytes of {digest} are missing; `blobstore check` marks it, a push heals it"
        parts.events(PromiseBroken(digest))
        parts.events(Alarm(text))
        raise BlobDamaged(text) from error
    return found
