"""A full source and an empty target, each on several kinds of storage, under clocks of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blobstore.backends.filesystem import FilesystemBackend
from blobstore.backends.memory import MemoryBackend
from blobstore.index.lmdb import LmdbIndex
from blobstore.index.memory import MemoryIndex
from blobstore.store import Store
from blobstore.testing.fakes import START_MS, FakeClock
from tests.replication.scene import Scene, make_scene

KINDS = ("memory to memory", "files to objects", "objects to files")


def _store(kind: str, directory: Path, clock: FakeClock) -> Store:
    if kind == "files":
        index = LmdbIndex(str(directory / "index"), ballast_bytes=4096)
        return Store(FilesystemBackend(str(directory / "store")), index, clock=clock)
    return Store(MemoryBackend(renames=kind == "memory"), MemoryIndex(), clock=clock)


@pytest.fixture(params=KINDS)
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    kinds = request.param.split(" to ")
    clocks = FakeClock(), FakeClock(START_MS + 1_000_000)
    stores = [_store(kind, tmp_path / name, clock) for kind, name, clock in zip(kinds, "ab", clocks, strict=True)]
    for store in stores:
        await store.open(create=True)
    yield await make_scene(*stores, *clocks)
    for store in stores:
        await store.aclose()
