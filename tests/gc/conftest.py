"""A store under a fake clock: on memory, on memory with an object store's names, and on LMDB with files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blobstore.backends.filesystem import FilesystemBackend
from blobstore.backends.memory import MemoryBackend
from blobstore.index.lmdb import LmdbIndex
from blobstore.index.memory import MemoryIndex
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.gc.scene import Bench


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "objects", "lmdb"])
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    if request.param == "memory":
        store = Store(MemoryBackend(), MemoryIndex(), clock=clock)
    elif request.param == "objects":
        # So that every blob is sent before its digest is known, and has a commit record.
        monkeypatch.setattr("blobstore.uploads.CHUNK_BYTES", 1)
        store = Store(MemoryBackend(renames=False), MemoryIndex(), clock=clock)
    else:
        backend = FilesystemBackend(str(tmp_path / "store"))
        store = Store(backend, LmdbIndex(str(tmp_path / "index"), ballast_bytes=4096), clock=clock)
    await store.open(create=True)
    yield Bench(store, clock)
    await store.aclose()
