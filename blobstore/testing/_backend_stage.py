"""What the tests of a backend stand on: a new one for each test, and short ways to look into it."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest_asyncio

from blobstore.abc.backend import Backend, BackendUpload, read_all
from blobstore.digest import Digest
from blobstore.errors import KeyUnknown
from blobstore.generation import Generation
from blobstore.layout import blob_key, data_key, record_key

MIB = 1024 * 1024


class BackendTests(abc.ABC):
    """A new and empty backend for each test. The sizes may be made smaller for a slow server, and must be made larger where more
    bytes are needed for several parts."""

    LISTED_KEYS: ClassVar[int] = 10_000
    """Keys of the long listing, more than two pages of the server; they are all put and deleted once."""
    BIG_BYTES: ClassVar[int] = 128 * MIB
    """The largest object."""
    SEVERAL_PARTS_BYTES: ClassVar[int] = 3 * MIB
    """Enough for at least three parts of an upload, the last one not full."""
    UPLOADS_AT_ONCE: ClassVar[int] = 32
    CANCELLED_AWAITS: ClassVar[int] = 30
    """At how many of a verb's awaits it is cancelled, evenly spread if it has more."""
    KEPT_DESCRIPTORS: ClassVar[int] = 0
    """How many connections a client may keep for later."""

    TRICKY_KEYS: ClassVar[Sequence[str]] = tuple(
        f"blobs/sha256/{name}" for name in ("ab+1", "ab-c", "ab.x", "ab/a", "ab/a-b", "ab/b", "ab0", "ac/a", "b")
    )
    """In byte order, which is not the order of a tree: "-" and "." sort before "/", digits and letters behind. For a server that
    sorts by directories, some on which both orders agree, as they do on all names of a store."""

    TRICKY_AFTERS: ClassVar[Sequence[str]] = (
        "a",
        "blobs/",
        "blobs/sha256/ab",
        "blobs/sha256/ab/",
        "blobs/sha256/ab/aa",
        "c",
    )
    """Behind which listings begin, beside those keys. A server that sorts by directories takes `ab` for all that is in it."""

    @abc.abstractmethod
    def make_backend(self, directory: Path) -> Backend:
        """A backend, not yet opened, without any bytes; `directory` is the test's own, and empty. Made again with the same one,
        it is on the bytes of the first."""

    def make_another(self, backend: Backend, directory: Path) -> Backend:
        """A second one on the bytes of `backend`, as another process of this host has it."""
        del backend
        return self.make_backend(directory)

    @pytest_asyncio.fixture
    async def backend(self, tmp_path: Path) -> AsyncIterator[Backend]:
        """Opened and prepared; closed after the test."""
        backend = self.make_backend(tmp_path)
        await backend.open()
        await backend.prepare()
        try:
            yield backend
        finally:
            await backend.aclose()

    @pytest_asyncio.fixture
    async def another(self, backend: Backend, tmp_path: Path) -> AsyncIterator[Backend]:
        """A second one on the same bytes, opened."""
        another = self.make_another(backend, tmp_path)
        await another.open()
        try:
            yield another
        finally:
            await another.aclose()


def key_of(number: int) -> str:
    """The key of some blob; its generation is that of `upload_id_of(number)`."""
    return blob_key(Digest.of(str(number).encode()), Generation(1, number))


def upload_id_of(number: int) -> str:
    """The id of some upload."""
    return str(Generation(1, number))


def possible_names(number: int) -> tuple[str, ...]:
    """Every name that upload `number` may have given its bytes when it was committed to `key_of(number)`."""
    return (key_of(number), data_key(Generation(1, number)), record_key(key_of(number)))


async def found_keys(backend: Backend, prefix: str, after: str | None = None) -> list[str]:
    """The keys of a listing."""
    return [info.key async for info in backend.list(prefix, after)]


async def content(backend: Backend, key: str) -> bytes | None:
    """What lies under a key, if anything does."""
    try:
        return await read_all(backend, key)
    except KeyUnknown:
        return None


async def published(backend: Backend, number: int) -> bytes | None:
    """The bytes that upload `number` published, under whichever name it may have given them."""
    for name in possible_names(number)[:2]:
        found = await content(backend, name)
        if found is not None:
            return found
    return None


async def read_range(backend: Backend, key: str, start: int, stop: int | None = None) -> bytes:
    """A part of what lies under a key."""
    async with backend.read(key, start, stop) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def write_pieces(upload: BackendUpload, data: bytes, piece_bytes: int) -> None:
    """Write in pieces of one size."""
    for at in range(0, len(data), piece_bytes):
        await upload.write(data[at : at + piece_bytes])


async def read_taken(upload: BackendUpload, start: int, stop: int) -> bytes:
    """What an upload took."""
    return b"".join([chunk async for chunk in upload.read(start, stop)])
