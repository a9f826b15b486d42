"""The composition root: from where a store is to an open one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from blobstore.backends.filesystem import FilesystemBackend
from blobstore.clock import Clock
from blobstore.events import EventSink, discard
from blobstore.index.lmdb import LmdbIndex
from blobstore.locations import FilesystemLocation, LmdbLocation, parse_index_url, parse_store_url
from blobstore.promises import HoldTerms
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
