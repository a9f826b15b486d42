"""Registries over stores in memory and on a disk, and a client of each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import blobstore
from blobstore.backends.memory import MemoryBackend
from blobstore.index.memory import MemoryIndex
from blobstore.promises import HoldTerms
from blobstore.server.registry import Registry
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.spec.client import Client


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
async def any_store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    """Each kind of backend: with files and LMDB, with the names of an object store, and in memory."""
    if request.param == "files":
        async with blobstore.open(str(tmp_path / "store"), create=True) as opened:
            yield opened
        return
    made = Store(MemoryBackend(renames=request.param == "memory"), MemoryIndex(), clock=clock)
    await made.open(create=True)
    yield made
    await made.aclose()


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Store]:
    async with blobstore.open(str(tmp_path / "store"), create=True) as opened:
        yield opened


@pytest.fixture
def client(store: Store) -> Client:
    return Client(Registry(store))


@pytest.fixture
def any_client(any_store: Store) -> Client:
    return Client(Registry(any_store))
