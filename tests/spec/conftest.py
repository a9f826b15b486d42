"""Registries over stores in memory and on a disk, and a client of each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from blobstore.backends.filesystem import FilesystemBackend
from blobstore.backends.memory import MemoryBackend
from blobstore.index.lmdb import LmdbIndex
from blobstore.index.memory import MemoryIndex
from blobstore.promises import HoldTerms
from blobstore.server.protocol.registry import Registry
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.spec.client import Client


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """In memory where the machine has such a place: hundreds of stores are made here, and what is synced is asked elsewhere."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


def store_of_files(place: Path) -> Store:
    """With next to no ballast."""
    path = str(place / "store")
    return Store(FilesystemBackend(path), LmdbIndex(f"{path}/index", ballast_bytes=4096))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> AsyncIterator[Store]:
    """In memory: most of the protocol asks no more of it."""
    opened = Store(MemoryBackend(), MemoryIndex(), clock=clock, terms=HoldTerms(grace_s=3600))
    await opened.open(create=True)
    yield opened
    await opened.aclose()


@pytest.fixture(params=["memory", "object-names", "files"])
async def any_store(request: pytest.FixtureRequest, place: Path, clock: FakeClock) -> AsyncIterator[Store]:
    """Each kind of backend: with files and LMDB, with the names of an object store, and in memory."""
    if request.param == "files":
        made = store_of_files(place)
    else:
        made = Store(MemoryBackend(renames=request.param == "memory"), MemoryIndex(), clock=clock)
    await made.open(create=True)
    yield made
    await made.aclose()


@pytest.fixture
async def files(place: Path) -> AsyncIterator[Store]:
    made = store_of_files(place)
    await made.open(create=True)
    yield made
    await made.aclose()


@pytest.fixture
def client(store: Store) -> Client:
    return Client(Registry(store))


@pytest.fixture
def any_client(any_store: Store) -> Client:
    return Client(Registry(any_store))
