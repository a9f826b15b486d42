"""A backend that measures another: how long each verb took, and what it failed with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Protocol

from blobstore.abc.backend import Backend, BackendProperties, BackendUpload, HandsOutPaths, ObjectInfo, Presigns
from blobstore.clock import stopwatch_s
from blobstore.errors import KeyUnknown, RangeInvalid, StorageFailed, UploadBusy

# Answers, not failures.
_ANSWERS = (KeyUnknown, RangeInvalid, UploadBusy)


class BackendMeter(Protocol):
    """Is told what a backend did."""

    def backend_done(self, verb: str, seconds: float) -> None:
        """It did what it was asked for, or failed at it."""

    def backend_failed(self, verb: str, error: BaseException) -> None:
        """And it was this."""


def measured(backend: Backend, meter: BackendMeter) -> Backend:
    """The same backend, measured; it still hands out paths or signs URLs if it did."""
    if isinstance(backend, HandsOutPaths):
        return _WithPaths(backend, meter)
    if isinstance(backend, Presigns):
        return _WithSigning(backend, meter)
    return _Measured(backend, meter)


class _Measured(Backend):
    def __init__(self, inner: Backend, meter: BackendMeter) -> None:
        self._inner, self._meter = inner, meter

    @contextmanager
    def timed(self, verb: str) -> Iterator[None]:
        start_s = stopwatch_s()
        try:
            yield
        except _ANSWERS:
            raise
        except Exception as error:
            self._meter.backend_failed(verb, error)
            raise
        finally:
            self._meter.backend_done(verb, stopwatch_s() - start_s)

    @property
    def properties(self) -> BackendProperties:
        """See `Backend.properties`."""
        return self._inner.properties

    @property
    def location(self) -> str:
        """See `Backend.location`."""
        return self._inner.location

    async def open(self) -> None:
        """See `Backend.open`."""
        await self._inner.open()

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        await self._inner.aclose()

    async def prepare(self) -> None:
        """See `Backend.prepare`."""
        await self._inner.prepare()

    async def put(self, key: str, data: bytes) -> None:
        """See `Backend.put`."""
        with self.timed("put"):
            await self._inner.put(key, data)

    async def put_new(self, key: str, data: bytes) -> bool:
        """See `Backend.put_new`."""
        with self.timed("put"):
            return await self._inner.put_new(key, data)

    async def open_upload(self, upload_id: str, *, key: str | None = None, resume: bool = False) -> BackendUpload:
        """See `Backend.open_upload`."""
        with self.timed("open_upload"):
            upload = await self._inner.open_upload(upload_id, key=key, resume=resume)
        return _MeasuredUpload(upload, self)

    def read(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See `Backend.read`."""
        return self._read(key, start, stop)

    @asynccontextmanager
    async def _read(self, key: str, start: int, stop: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        async with AsyncExitStack() as stack:
            # Not longer: how fast the bytes are taken is the client's affair.
            with self.timed("read"):
                chunks = await stack.enter_async_context(self._inner.read(key, start, stop))
            try:
                yield chunks
            except StorageFailed as error:
                self._meter.backend_failed("read", error)
                raise

    async def stat(self, key: str) -> ObjectInfo:
        """See `Backend.stat`."""
        with self.timed("stat"):
            return await self._inner.stat(key)

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `Backend.delete`."""
        with self.timed("delete"):
            return await self._inner.delete(keys)

    async def _list(self, prefix: str, after: str | None) -> AsyncIterator[ObjectInfo]:
        found = self._inner.list(prefix, after)
        try:
            with self.timed("list"):
                first = await anext(found, None)
            if first is not None:
                yield first
            async for info in found:
                yield info
        finally:
            closes = getattr(found, "aclose", None)
            if closes is not None:
                await closes()

    def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `Backend.list`."""
        return self._list(prefix, after)


class _WithPaths(_Measured):
    def path_of(self, key: str) -> str:
        """See `HandsOutPaths.path_of`."""
        assert isinstance(self._inner, HandsOutPaths)
        return self._inner.path_of(key)


class _WithSigning(_Measured):
    async def presign(self, key: str, valid_s: int) -> str:
        """See `Presigns.presign`."""
        assert isinstance(self._inner, Presigns)
        with self.timed("presign"):
            return await self._inner.presign(key, valid_s)


class _MeasuredUpload(BackendUpload):
    """Only what waits for the storage is measured: a write may only queue."""

    def __init__(self, inner: BackendUpload, backend: _Measured) -> None:
        self._inner, self._backend = inner, backend

    @property
    def offset(self) -> int:
        """See `BackendUpload.offset`."""
        return self._inner.offset

    async def write(self, data: bytes) -> None:
        """See `BackendUpload.write`."""
        await self._inner.write(data)

    async def drain(self) -> None:
        """See `BackendUpload.drain`."""
        with self._backend.timed("drain"):
            await self._inner.drain()

    def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `BackendUpload.read`."""
        return self._inner.read(start, stop)

    async def truncate(self, offset: int) -> None:
        """See `BackendUpload.truncate`."""
        await self._inner.truncate(offset)

    async def commit(self, key: str) -> tuple[str, ...]:
        """See `BackendUpload.commit`."""
        with self._backend.timed("commit"):
            return await self._inner.commit(key)

    async def abort(self) -> None:
        """See `BackendUpload.abort`."""
        with self._backend.timed("abort"):
            await self._inner.abort()

    async def aclose(self) -> None:
        """See `BackendUpload.aclose`."""
        await self._inner.aclose()
