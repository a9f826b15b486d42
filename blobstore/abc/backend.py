"""Backend: durable bytes under names that are used once.

A backend knows no digests, no repositories, no reachability. What is asked of every one, and checked by
`blobstore.testing.BackendSuite`: a commit is all or nothing; what was committed is readable at once and survives power
loss; a listing shows all that was committed before it began; a delete of what is absent is no error.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import msgspec

from blobstore.errors import StorageFailed

CHUNK_BYTES = 1024 * 1024
"""How much one read or write hop moves."""


class BackendProperties(msgspec.Struct, frozen=True):
    """Facts about a kind of storage."""

    name: str
    delete_batch_max: int = 1000
    late_requests_s: int = 0
    """How long after its sender died a request may still take effect; 0 on a file system of this machine."""
    recheck_s: float = 60
    """How long to wait before what seemed missing is looked at again."""
    lists_faster_than_stats: bool = False
    """Whether one listing is cheaper than a `stat` for each of its keys: on object stores, where each is a request."""
    renames_uploads: bool = True
    """Whether bytes that were sent before their key was known get it when they are committed; see `BackendUpload.commit`."""
    is_shared: bool = False
    """Whether other hosts reach the same bytes, and so may try to open the store with an index of their own."""


class ObjectInfo(msgspec.Struct, frozen=True):
    """A key and the size of the bytes under it."""

    key: str
    size_bytes: int


class BackendUpload(abc.ABC):
    """Bytes on their way to a key; belongs to one task at a time."""

    @property
    @abc.abstractmethod
    def offset(self) -> int:
        """How many bytes were taken so far."""

    @abc.abstractmethod
    async def write(self, data: bytes) -> None:
        """Append `data`. May only queue it: an error of earlier bytes may be raised here."""

    @abc.abstractmethod
    async def drain(self) -> None:
        """Wait until all bytes taken are written, not yet synced; raises what failed."""

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes taken earlier, after `drain`; for hashing them again."""

    @abc.abstractmethod
    async def truncate(self, offset: int) -> None:
        """Forget the bytes from `offset` on."""

    @abc.abstractmethod
    async def commit(self, key: str) -> tuple[str, ...]:
        """Make all bytes durable and visible, at once and whole. The upload is over, also if this raises.

        Returns the names that are the blob's from now on, the one with the bytes first: `key` alone, or, where bytes can't be
        renamed and were sent before `key` was known, `data_key` of the upload and `record_key` of `key` (`blobstore.layout`).
        No name, and nothing was changed there, if another session of this upload published before: two owners of a name can lose
        a blob.

        Raises:
            StorageFull: no space; nothing is visible.
        """

    @abc.abstractmethod
    async def abort(self) -> None:
        """Drop the bytes. Repeatable."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Make what was taken durable and let go of it; another process may resume. Repeatable; nothing after commit or
        abort."""


class Backend(abc.ABC):
    """Where bytes are. `__init__` only stores; `open` connects, `aclose` releases."""

    @property
    @abc.abstractmethod
    def properties(self) -> BackendProperties:
        """Facts about this storage."""

    @property
    @abc.abstractmethod
    def location(self) -> str:
        """Where this is, for messages to people; never with a secret."""

    @abc.abstractmethod
    async def open(self) -> None:
        """Connect. Makes nothing: see `prepare`."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Release all. Repeatable."""

    @abc.abstractmethod
    async def prepare(self) -> None:
        """Make what an empty store needs (directories, durably). Repeatable."""

    @abc.abstractmethod
    async def put(self, key: str, data: bytes) -> None:
        """Write a small value, replacing what was there; all or nothing, durable on return. Only the marker is put twice."""

    @abc.abstractmethod
    async def put_new(self, key: str, data: bytes) -> bool:
        """Write a small value where none is; False, and nothing changed, if one is. Durable on return."""

    @abc.abstractmethod
    async def open_upload(self, upload_id: str, *, key: str | None = None, resume: bool = False) -> BackendUpload:
        """Begin an upload, or take up one that was closed or whose process died.

        Args:
            upload_id: the generation of its bytes, as text.
            key: where it will be committed, if that is known; it is committed there or nowhere.
            resume: go on where it was closed.

        Raises:
            KeyUnknown: `resume`, and there is none.
            UploadBusy: another session holds it.
        """

    @abc.abstractmethod
    def read(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes from `start` up to `stop` (the end without), in chunks of up to `CHUNK_BYTES`.

        Raises:
            KeyUnknown: on entering.
            RangeInvalid: `start` is negative or beyond the end, or `stop` lies before it. `start` at the end: no bytes.
        """

    @abc.abstractmethod
    async def stat(self, key: str) -> ObjectInfo:
        """Size of what is under a key.

        Raises:
            KeyUnknown: nothing is.
        """

    @abc.abstractmethod
    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """Delete; returns the keys that are confirmed gone, the absent ones among them. Repeatable."""

    @abc.abstractmethod
    def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """All that was committed under `prefix` before the call, sorted by key, beginning behind `after`."""


@runtime_checkable
class HandsOutPaths(Protocol):
    """A backend whose objects are files of this machine, for sendfile."""

    def path_of(self, key: str) -> str:
        """Where the file of a key lies; it may be gone by the time it is opened."""


@runtime_checkable
class Presigns(Protocol):
    """A backend whose objects anybody may get for a while by a URL that it signs."""

    async def presign(self, key: str, valid_s: int) -> str:
        """A URL for a GET of what is under a key; sends nothing. It can't be taken back."""


async def read_all(backend: Backend, key: str) -> bytes:
    """The whole of a small value.

    Raises:
        KeyUnknown: there is none.
    """
    async with backend.read(key) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def put_once(backend: Backend, key: str, data: bytes) -> None:
    """Write a small value under a name that nobody else draws. That it is there already means that the request came there twice:
    proxies send again what is not answered in time.

    Raises:
        StorageFailed: what is there are other bytes.
    """
    if not await backend.put_new(key, data) and await read_all(backend, key) != data:
        raise StorageFailed(f"{key} in {backend.location} holds other bytes than were just written to it")
