"""Bytes in memory: for tests, and for stores that need not outlive their process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from blobstore.abc.backend import CHUNK_BYTES, Backend, BackendProperties, BackendUpload, ObjectInfo
from blobstore.backends._keys import checked_key
from blobstore.errors import KeyUnknown, RangeInvalid, UploadBusy
from blobstore.layout import UPLOADS_PREFIX


class MemoryBackend(Backend):
    """A dict of committed bytes and one of open uploads; one event loop."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._uploads: dict[str, bytearray] = {}
        self._busy: set[str] = set()

    @property
    def properties(self) -> BackendProperties:
        """See `Backend.properties`."""
        return BackendProperties(name="memory", recheck_s=0)

    @property
    def location(self) -> str:
        """See `Backend.location`."""
        return "memory"

    async def open(self) -> None:
        """See `Backend.open`."""

    async def aclose(self) -> None:
        """See `Backend.aclose`."""

    async def prepare(self) -> None:
        """See `Backend.prepare`."""

    async def put(self, key: str, data: bytes) -> None:
        """See `Backend.put`."""
        self._objects[checked_key(key)] = bytes(data)

    async def put_new(self, key: str, data: bytes) -> bool:
        """See `Backend.put_new`."""
        if checked_key(key) in self._objects:
            return False
        self._objects[key] = bytes(data)
        return True

    async def open_upload(self, upload_id: str, *, resume: bool = False) -> BackendUpload:
        """See `Backend.open_upload`."""
        key = checked_key(UPLOADS_PREFIX + upload_id)
        if resume and key not in self._uploads:
            raise KeyUnknown(f"no upload {upload_id}")
        if key in self._busy or (not resume and key in self._uploads):
            raise UploadBusy("another session is writing to this upload")
        self._uploads.setdefault(key, bytearray())
        self._busy.add(key)
        return _MemoryUpload(self._objects, self._uploads, self._busy, key)

    @asynccontextmanager
    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Backend.read`."""
        found = self._objects.get(checked_key(key))
        if found is None:
            raise KeyUnknown(f"nothing under {key}")
        if not 0 <= start <= len(found) or (stop is not None and stop < start):
            raise RangeInvalid(f"bytes {start} to {'the end' if stop is None else stop} of {len(found)}")
        yield _chunks(found[start:stop])

    async def stat(self, key: str) -> ObjectInfo:
        """See `Backend.stat`."""
        if checked_key(key) not in self._objects:
            raise KeyUnknown(f"nothing under {key}")
        return ObjectInfo(key, len(self._objects[key]))

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `Backend.delete`."""
        for key in map(checked_key, keys):
            self._objects.pop(key, None)
            self._uploads.pop(key, None)
        return frozenset(keys)

    async def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `Backend.list`."""
        if "/" in prefix:
            checked_key(prefix.rpartition("/")[0])
        present = {**self._objects, **self._uploads}
        for key in sorted(present):
            if key.startswith(prefix) and (after is None or key > after):
                yield ObjectInfo(key, len(present[key]))


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), CHUNK_BYTES):
        yield data[at : at + CHUNK_BYTES]


class _MemoryUpload(BackendUpload):
    def __init__(self, objects: dict[str, bytes], uploads: dict[str, bytearray], busy: set[str], key: str) -> None:
        self._objects, self._uploads, self._busy, self._key = objects, uploads, busy, key
        self._data: bytearray | None = uploads[key]

    @property
    def offset(self) -> int:
        return len(self._bytes())

    async def write(self, data: bytes) -> None:
        self._bytes().extend(data)

    async def drain(self) -> None:
        pass

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        async for chunk in _chunks(bytes(self._bytes()[start:stop])):
            yield chunk

    async def truncate(self, offset: int) -> None:
        del self._bytes()[offset:]

    async def commit(self, key: str) -> bool:
        try:
            is_new = checked_key(key) not in self._objects
            self._objects.setdefault(key, bytes(self._bytes()))
            return is_new
        finally:
            await self.abort()

    async def abort(self) -> None:
        if self._data is not None:
            self._uploads.pop(self._key, None)
            await self.aclose()

    async def aclose(self) -> None:
        if self._data is not None:
            self._busy.discard(self._key)
            self._data = None

    def _bytes(self) -> bytearray:
        assert self._data is not None, "this upload is over"
        return self._data
