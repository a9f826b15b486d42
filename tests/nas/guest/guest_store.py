"""A whole store on the share: pushed to and collected by one host, read from another. Run inside the guest."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import blobstore
from blobstore.abc.backend import read_all
from blobstore.abc.paging import every
from blobstore.app import make_collector
from blobstore.backends.nas import NasBackend
from blobstore.errors import (
    BlobstoreError,
    CollectionRefused,
    ConfigInvalid,
    ForeignStore,
    IndexMissing,
    KeyUnknown,
    StorageFailed,
)
from blobstore.gc import GcPolicy
from blobstore.index.lmdb import LmdbIndex
from blobstore.layout import BLOBS_PREFIX, parse_blob_key
from blobstore.store import Store
from blobstore.testing.fakes import image
from blobstore.testing.invariants import find_broken, find_garbage
from tests.nas.guest.server import IS_LONG, local_place, new_place, place_of

AT_ONCE = GcPolicy(grace_s=0, quarantine_s=0, delete_untagged=True, max_share=1)
IMAGES = 24 if IS_LONG else 8
LARGE = 3 * 1024 * 1024
MAP_BYTES = 1024**3
"""A process of the guest has addresses for one index of the usual size, and some tests open two."""


class Share:
    """A store on the share, and ways to it from both hosts."""

    def __init__(self, version: int) -> None:
        self._version, self._place = version, new_place()
        self._index = str(local_place() / "index")

    def backend(self, client: str) -> NasBackend:
        return NasBackend(str(place_of(client, self._version) / self._place), str(local_place()))

    def store(self, client: str = "one", index: str | None = None) -> Store:
        return Store(
            self.backend(client), LmdbIndex(index or self._index, map_size_bytes=MAP_BYTES, ballast_bytes=65536)
        )


@pytest_asyncio.fixture
async def share(version: int) -> Share:
    return Share(version)


@pytest_asyncio.fixture
async def store(share: Share) -> AsyncIterator[Store]:
    opened = share.store()
    await opened.open(create=True)
    yield opened
    await opened.aclose()


async def push(store: Store, number: int) -> None:
    """An image of two layers; every other image shares the larger one."""
    repository = store.repository("app")
    layers = [b"%d" % number * 1000, b"%d" % (number // 2) * (LARGE if number % 8 == 0 else 2000)]
    config = b'{"number": %d}' % number
    for data in (config, *layers):
        async with repository.open_upload() as upload:
            await upload.write(data)
            await upload.commit()
    await repository.put_manifest(image(config, layers).body, tag=f"t{number}")


async def test_collecting_while_another_host_reads(share: Share, store: Store) -> None:
    """Every second image goes. The reader finds a blob whole or not at all; in the end what is left is whole, and the rest is
    gone."""
    for number in range(IMAGES):
        await push(store, number)
    for number in range(0, IMAGES, 2):
        await store.repository("app").untag(f"t{number}")
    reader = share.backend("two")
    await reader.open()
    ended, read = asyncio.Event(), itertools.count()

    async def read_on() -> None:
        while not ended.is_set():
            async for info in reader.list(BLOBS_PREFIX):
                name = parse_blob_key(info.key)
                assert name is not None, info.key
                try:
                    data = await read_all(reader, info.key)
                except (KeyUnknown, StorageFailed):
                    # It was collected since it was listed, or while it was read.
                    continue
                assert hashlib.sha256(data).digest() == name.digest.value
                next(read)

    reading = asyncio.create_task(read_on())
    collector = make_collector(store, AT_ONCE)
    freed = 0
    for number in range(3):
        await push(store, IMAGES + number)
        freed += (await collector.run()).freed_blobs
    ended.set()
    await reading
    await reader.aclose()
    assert freed >= IMAGES
    assert next(read) > 0
    assert await find_broken(store) == []
    assert await find_garbage(store) == []
    assert reader.silly_names_seen == 0
    kept = [each async for each in every(lambda after: store.index.scan_references(after, 1000))]
    assert len(kept) == await _count(store)


async def _count(store: Store) -> int:
    return len([info async for info in store.backend.list(BLOBS_PREFIX)])


async def test_a_store_is_opened_again(share: Share) -> None:
    """By the next process of the host, which finds all and takes away what a dead one left in the staging."""
    first = share.store()
    await first.open(create=True)
    await push(first, 1)
    await first.aclose()
    staging = share.backend("one").path_of("x").removesuffix("x") + ".staging"
    with open(f"{staging}/{'0' * 16}-dead", "wb") as file:
        file.write(b"left")
    second = share.store()
    await second.open()
    await push(second, 2)
    assert await find_broken(second) == []
    assert (await make_collector(second, AT_ONCE).run()).freed_blobs == 0
    await second.aclose()
    with pytest.raises(FileNotFoundError):
        open(f"{staging}/{'0' * 16}-dead", "rb").close()


async def test_a_store_by_its_url(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is on a disk of this host, where the marker's store says; another host has none."""
    monkeypatch.setenv("XDG_STATE_HOME", str(local_place()))
    place = new_place()
    async with blobstore.open(f"nas://{place_of('one', version)}/{place}", create=True) as store:
        await push(store, 1)
    async with blobstore.open(f"nas://{place_of('one', version)}/{place}") as store:
        assert await find_broken(store) == []
        await store.repository("app").find_manifest("t1")
    for state, index in (
        (str(place_of("one", version) / "state"), None),
        (local_place(), str(place_of("one", version) / "index")),
    ):
        monkeypatch.setenv("XDG_STATE_HOME", str(state))
        with pytest.raises(ConfigInvalid, match="the index and the locks beside it are never on a share"):
            async with blobstore.open(f"nas://{place_of('one', version)}/{place}", index=index):
                pass
    monkeypatch.setenv("XDG_STATE_HOME", str(local_place()))
    with pytest.raises(IndexMissing, match="PostgreSQL"):
        async with blobstore.open(f"nas://{place_of('two', version)}/{place}"):
            pass


async def test_a_second_hosts_index_is_refused(share: Share, store: Store) -> None:
    """Whether it has none or another store's: it is told that another host may have it, and what several would need."""
    await push(store, 1)
    empty = share.store("two", str(local_place() / "index"))
    with pytest.raises(IndexMissing, match="PostgreSQL"):
        await empty.open()
    other = Share(3)
    mine = str(local_place() / "index")
    theirs = other.store("two", mine)
    await theirs.open(create=True)
    await theirs.aclose()
    with pytest.raises(ForeignStore, match="PostgreSQL"):
        await share.store("two", mine).open()
    await push(store, 2)
    assert await find_broken(store) == []


async def test_pushes_while_collecting(store: Store) -> None:
    """With the collector at it all the time, no push fails and no image is broken."""
    ended = asyncio.Event()
    failures: list[BlobstoreError] = []

    async def collect() -> None:
        collector = make_collector(store, GcPolicy(grace_s=3600, quarantine_s=0, delete_untagged=True, max_share=1))
        while not ended.is_set():
            try:
                await collector.run()
            except CollectionRefused as error:
                failures.append(error)

    collecting = asyncio.create_task(collect())
    for number in range(IMAGES):
        await push(store, number)
        if number % 3 == 0:
            await store.repository("app").untag(f"t{number}")
    ended.set()
    await collecting
    assert failures == []
    assert await find_broken(store) == []
