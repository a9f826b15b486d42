"""A fuse: it ends a simulated process at its n-th step towards the backend or the index; nothing gets through after that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from blobstore.abc.backend import Backend, BackendProperties, BackendUpload, ObjectInfo
from blobstore.index.lmdb import LmdbIndex
from blobstore.index.memory import MemoryIndex


class Crash(Exception):
    """The process died here."""


class Fuse:
    """One process's life. `ticks` counts the ends of its steps: before and after each write, so that it may die in between."""

    def __init__(self) -> None:
        self.ticks = 0
        self.is_blown = False
        self._left: int | None = None

    def arm(self, ticks: int) -> None:
        """Die at the `ticks`-th tick from now on, the first is 1."""
        self._left = ticks

    def disarm(self) -> None:
        """Live on."""
        self._left = None

    def tick(self) -> None:
        """A step begins or ends.

        Raises:
            Crash: the process is dead, since now or before.
        """
        self.ticks += 1
        if self._left is not None:
            self._left -= 1
            self.is_blown = self.is_blown or self._left <= 0
        if self.is_blown:
            raise Crash


class _FusedIndex:
    fuse: Fuse

    async def _write(self, verb: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.fuse.tick()
        result = await super()._write(verb, *args, **kwargs)  # type: ignore[misc]
        self.fuse.tick()
        return result


class FusedMemoryIndex(_FusedIndex, MemoryIndex):
    """A memory index that a crash cuts off."""


class FusedLmdbIndex(_FusedIndex, LmdbIndex):
    """An LMDB index that a crash cuts off."""


class FusedBackend(Backend):
    """A backend that a crash cuts off; what reads passes."""

    def __init__(self, inner: Backend, fuse: Fuse) -> None:
        self.inner, self.fuse = inner, fuse
        self.open_uploads: list[BackendUpload] = []

    @property
    def properties(self) -> BackendProperties:
        return self.inner.properties

    @property
    def location(self) -> str:
        return self.inner.location

    async def open(self) -> None:
        await self.inner.open()

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def prepare(self) -> None:
        await self.inner.prepare()

    async def put(self, key: str, data: bytes) -> None:
        self.fuse.tick()
        await self.inner.put(key, data)
        self.fuse.tick()

    async def put_new(self, key: str, data: bytes) -> bool:
        self.fuse.tick()
        is_new = await self.inner.put_new(key, data)
        self.fuse.tick()
        return is_new

    async def open_upload(self, upload_id: str, *, resume: bool = False) -> BackendUpload:
        self.fuse.tick()
        upload = await self.inner.open_upload(upload_id, resume=resume)
        self.open_uploads.append(upload)
        self.fuse.tick()
        return _FusedUpload(upload, self.fuse)

    def read(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self.inner.read(key, start, stop)

    async def stat(self, key: str) -> ObjectInfo:
        return await self.inner.stat(key)

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """One by one: a crash may come between two of them."""
        gone: set[str] = set()
        for key in keys:
            self.fuse.tick()
            gone |= await self.inner.delete([key])
        self.fuse.tick()
        return frozenset(gone)

    def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        return self.inner.list(prefix, after)


class _FusedUpload(BackendUpload):
    def __init__(self, inner: BackendUpload, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse

    @property
    def offset(self) -> int:
        return self._inner.offset

    async def write(self, data: bytes) -> None:
        self._fuse.tick()
        await self._inner.write(data)

    async def drain(self) -> None:
        await self._inner.drain()
        self._fuse.tick()

    def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        return self._inner.read(start, stop)

    async def truncate(self, offset: int) -> None:
        self._fuse.tick()
        await self._inner.truncate(offset)

    async def commit(self, key: str) -> bool:
        self._fuse.tick()
        is_new = await self._inner.commit(key)
        self._fuse.tick()
        return is_new

    async def abort(self) -> None:
        self._fuse.tick()
        await self._inner.abort()

    async def aclose(self) -> None:
        self._fuse.tick()
        await self._inner.aclose()
        self._fuse.tick()
