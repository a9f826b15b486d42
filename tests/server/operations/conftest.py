"""A store in memory under a fake clock, whose events are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from blobstore.backends.memory import MemoryBackend
from blobstore.events import Event
from blobstore.index.memory import MemoryIndex
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.gc.scene import Bench


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def bench(clock: FakeClock, events: list[Event]) -> AsyncIterator[Bench]:
    store = Store(MemoryBackend(), MemoryIndex(), clock=clock, events=events.append)
    await store.open(create=True)
    yield Bench(store, clock)
    await store.aclose()
