"""The composition root: from where a store is to an open one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from blobstore.backends.filesystem import FilesystemBackend
from blobstore.clock import Clock, SystemClock, iso_utc, random_hex
from blobstore.durable import is_there, make_directories, storage_errors, sync_directory
from blobstore.errors import StoreUnknown
from blobstore.events import EventSink, discard
from blobstore.gc import Collector, GcPolicy
from blobstore.index.lmdb import LmdbIndex, exclusive_lock
from blobstore.locations import FilesystemLocation, LmdbLocation, parse_index_url, parse_store_url
from blobstore.marker import read_marker
from blobstore.promises import HoldTerms
from blobstore.rebuild import RebuildReport, finish, rebuild
from blobstore.reconcile import find_orphans
from blobstore.store import Store


@asynccontextmanager
async def open_store(
    url: str,
    *,
    index: str | None = None,
    create: bool = False,
    clock: Clock | None = None,
    terms: HoldTerms | None = None,
    events: EventSink = discard,
) -> AsyncIterator[Store]:
    """An open store, for the length of an `async with`.

    Args:
        url: a path, or file:///path.
        index: lmdb:///path; by default beside the data, where that is a local disk.
        create: make a store where none is.
        clock: for tests.
        terms: how long answers of this process are promises.
        events: is told what happens.

    Raises:
        ConfigInvalid: a URL can't be used.
        StoreUnknown, IndexMissing, ForeignStore, …: see `Store.open`.
    """
    store = Store(
        make_backend(parse_store_url(url)),
        LmdbIndex(index_location(url, index).path),
        clock=clock,
        terms=terms,
        events=events,
    )
    await store.open(create=create)
    try:
        yield store
    finally:
        await store.aclose()


def make_backend(location: FilesystemLocation) -> FilesystemBackend:
    """The backend of a location, not yet opened."""
    return FilesystemBackend(location.path)


def index_location(url: str, index: str | None) -> LmdbLocation:
    """Where the index of a store is."""
    return parse_index_url(index) if index else LmdbLocation(parse_store_url(url).default_index_path)


def make_collector(store: Store, policy: GcPolicy | None = None, *, events: EventSink = discard) -> Collector:
    """A collector of an open store, which also looks for what crashes left behind when there is reason to."""

    async def find() -> int:
        return (await find_orphans(store.index, store.backend, store.parts.clock, events)).orphans

    return Collector(store.index, store.backend, policy, clock=store.parts.clock, events=events, find_orphans=find)


async def rebuild_index(
    url: str, *, index: str | None = None, clock: Clock | None = None, events: EventSink = discard
) -> RebuildReport:
    """Make a new index from what lies on the backend. The old one, if there is any, is moved aside.

    Raises:
        StoreBusy: a process has the old index open.
        StoreUnknown: no store lies there.
    """
    clock = clock or SystemClock()
    path = index_location(url, index).path
    backend = make_backend(parse_store_url(url))
    fresh = f"{path}.rebuild"
    await backend.open()
    try:
        if await read_marker(backend) is None:
            raise StoreUnknown(f"there is no store at {backend.location}")
        with storage_errors(f"make a directory for the index {path}"):
            await asyncio.to_thread(make_directories, os.path.dirname(path))
        async with exclusive_lock(path):
            # What an earlier rebuild left when it died.
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
            new = LmdbIndex(fresh)
            await new.open(create=True)
            try:
                report, identity = await rebuild(backend, new, clock, events)
            finally:
                await new.aclose()
            when = iso_utc(clock.now_ms()).replace(":", "")
            with storage_errors(f"put the new index in its place at {path}"):
                await asyncio.to_thread(_swap, path, fresh, f"{when}-{random_hex(4)}")
            await finish(backend, identity)
    finally:
        await backend.aclose()
    return report


def _swap(path: str, fresh: str, when: str) -> None:
    if is_there(path):
        aside = f"{path}.old-{when}"
        os.rename(path, aside)
        with contextlib.suppress(FileNotFoundError):
            # It is kept to be looked at, not to be written to.
            os.unlink(os.path.join(aside, "ballast"))
    os.rename(fresh, path)
    os.unlink(f"{fresh}.lock")
    sync_directory(os.path.dirname(path))
