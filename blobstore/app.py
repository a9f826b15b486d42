"""The composition root: from where a store is to an open one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from blobstore.abc.backend import Backend
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends.filesystem import FilesystemBackend
from blobstore.clock import Clock, SystemClock, iso_utc, random_hex
from blobstore.config import Config, GcConfig
from blobstore.durable import is_there, make_directories, storage_errors, sync_directory
from blobstore.errors import ForeignStore, FormatUnsupported, StoreUnknown
from blobstore.events import Event, EventSink, Waiting, discard
from blobstore.gc import Collector, GcPolicy
from blobstore.index.lmdb import LmdbIndex, exclusive_lock
from blobstore.layout import MARKER_KEY
from blobstore.locations import (
    FilesystemLocation,
    LmdbLocation,
    NasLocation,
    StoreLocation,
    parse_index_url,
    parse_store_url,
)
from blobstore.marker import read_marker
from blobstore.promises import GRACE_S_DEFAULT, HoldTerms
from blobstore.rebuild import RebuildReport, finish, rebuild
from blobstore.reconcile import find_orphans
from blobstore.remote import make_nas_backend, make_object_store, naming_endpoint, state_home
from blobstore.store import Store
from blobstore.units import parse_duration_s

_STORE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


@asynccontextmanager
async def open_store(
    url: str,
    *,
    index: str | None = None,
    create: bool = False,
    config: Config | None = None,
    clock: Clock | None = None,
    terms: HoldTerms | None = None,
    events: EventSink = discard,
    wrap: Callable[[Backend], Backend] | None = None,
) -> AsyncIterator[Store]:
    """An open store, for the length of an `async with`.

    Args:
        url: a path, file:///path, nas:///path, s3://bucket/prefix or oss://bucket/prefix.
        index: lmdb:///path; by default beside the data where that is a local disk, else below `blobstore.remote.state_home`.
        create: make a store where none is.
        config: how object stores and shares are reached; see `blobstore.config`.
        clock: for tests.
        terms: how long answers of this process are promises.
        events: is told what happens.
        wrap: makes another backend of the store's own, one that measures.

    Raises:
        ConfigInvalid: a URL or the configuration can't be used.
        StoreUnknown, IndexMissing, ForeignStore, …: see `Store.open`.
    """
    location = parse_store_url(url)
    store = await _open(location, index or None, config or Config(), clock, terms, events, wrap, create=create)
    try:
        yield store
    finally:
        await store.aclose()


async def _open(
    location: StoreLocation,
    index: str | None,
    config: Config,
    clock: Clock | None,
    terms: HoldTerms | None,
    events: EventSink,
    wrap: Callable[[Backend], Backend] | None,
    *,
    create: bool,
) -> Store:
    for is_last_try in (False, True):
        place = await _find(location, index, config, events, is_new_wanted=create)
        new = place.store_id if place.is_new else None
        backend = wrap(place.backend) if wrap is not None else place.backend
        store = Store(backend, LmdbIndex(place.index_path), clock=clock, terms=terms, events=events, new_store_id=new)
        try:
            await store.open(create=create)
        except ForeignStore:
            if is_last_try or not place.is_new:
                raise
            # Somebody made it in the same moment: it is theirs. An index that we made in a place of its own is nobody's.
            if index is None:
                await asyncio.to_thread(shutil.rmtree, os.path.dirname(place.index_path), ignore_errors=True)
            continue
        return store
    raise AssertionError("unreachable")


class _Place(msgspec.Struct, frozen=True):
    """Where the parts of a store are. `is_new` if the id is one that a store would get, as there is none."""

    backend: Backend
    index_path: str
    store_id: str | None = None
    is_new: bool = False


async def _find(
    location: StoreLocation, index: str | None, config: Config, events: EventSink, *, is_new_wanted: bool = False
) -> _Place:
    """On a local disk the index is beside the data. Elsewhere it is found by the id in the marker, which is read for that; the
    backend of a bucket is open then.

    Raises:
        StoreUnknown: there is none, and none is wanted.
    """
    path = parse_index_url(index).path if index else None
    if isinstance(location, FilesystemLocation):
        return _Place(FilesystemBackend(location.path), path or location.default_index_path)
    # Beside the index, wherever that is and however it is spelled: who shares the one shares the other.
    state = f"{await asyncio.to_thread(os.path.realpath, path)}.state" if path else state_home()
    if isinstance(location, NasLocation):
        backend: Backend = make_nas_backend(location, config, state, _only_waiting(events))
    else:
        backend = make_object_store(location, config)
    with contextlib.nullcontext() if isinstance(location, NasLocation) else naming_endpoint(location, config):
        store_id = await _look_for_store(backend, is_new_wanted=is_new_wanted)
    is_new = store_id is None
    store_id = store_id or random_hex(16)
    if path is None:
        state = os.path.join(state, store_id)
    if isinstance(backend, ObjectStoreBackend):
        backend.use_spool(os.path.join(state, "spool"))
    else:
        await backend.aclose()
        assert isinstance(location, NasLocation)
        backend = make_nas_backend(location, config, state, events)
    return _Place(backend, path or os.path.join(state, "index"), store_id, is_new)


def _only_waiting(events: EventSink) -> EventSink:
    """What else is to be told of the storage is told when the store is opened."""

    def tell(event: Event, /) -> None:
        if isinstance(event, Waiting):
            events(event)

    return tell


async def _look_for_store(backend: Backend, *, is_new_wanted: bool) -> str | None:
    """The id in the marker. The backend stays open, unless this raises."""
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(backend.aclose)
        await backend.open()
        marker = await read_marker(backend)
        if marker is None and not is_new_wanted:
            raise StoreUnknown(f"there is no store at {backend.location}; `blobstore init` makes one")
        if marker is not None and _STORE_ID.fullmatch(marker.store_id) is None:
            # A directory is named after it.
            raise FormatUnsupported(
                f"{MARKER_KEY} in {backend.location} is not a marker of a store: {marker.store_id!r:.80} is no id"
            )
        stack.pop_all()
    return marker.store_id if marker is not None else None


def index_location(url: str, index: str | None) -> LmdbLocation:
    """Where the index of a store on a local disk is."""
    location = parse_store_url(url)
    if index:
        return parse_index_url(index)
    assert isinstance(location, FilesystemLocation), "only its marker tells where the index is"
    return LmdbLocation(location.default_index_path)


def hold_terms(config: GcConfig) -> HoldTerms:
    """Promises last as long as the collector waits. No shorter than usual: with a grace of 0 an import would lose its own
    blobs before their manifest comes."""
    grace_s = parse_duration_s(config.grace) if config.grace is not None else GRACE_S_DEFAULT
    return HoldTerms(grace_s=max(grace_s, GRACE_S_DEFAULT))


def policy_of(
    config: GcConfig,
    *,
    grace: str | None = None,
    quarantine: str | None = None,
    delete_untagged: bool | None = None,
    max_share: float | None = None,
    upload_idle: str | None = None,
) -> GcPolicy:
    """The policy of a collection: the command line's words, then the file's, then the defaults.

    Raises:
        ConfigInvalid: a duration or a share is none.
    """
    policy = GcPolicy()
    grace = config.grace if grace is None else grace
    quarantine = config.quarantine if quarantine is None else quarantine
    upload_idle = config.upload_idle if upload_idle is None else upload_idle
    wanted = {
        "grace_s": parse_duration_s(grace) if grace is not None else None,
        "quarantine_s": parse_duration_s(quarantine) if quarantine is not None else None,
        "delete_untagged": config.delete_untagged if delete_untagged is None else delete_untagged,
        "upload_idle_s": parse_duration_s(upload_idle) if upload_idle is not None else None,
        "max_share": config.max_share if max_share is None else max_share,
    }
    return msgspec.structs.replace(policy, **{key: value for key, value in wanted.items() if value is not None})


def make_collector(store: Store, policy: GcPolicy | None = None, *, events: EventSink = discard) -> Collector:
    """A collector of an open store, which also looks for what crashes left behind when there is reason to."""

    async def find() -> int:
        return (await find_orphans(store.index, store.backend, store.parts.clock, events)).orphans

    return Collector(store.index, store.backend, policy, clock=store.parts.clock, events=events, find_orphans=find)


async def rebuild_index(
    url: str,
    *,
    index: str | None = None,
    config: Config | None = None,
    wait_s: float | None = None,
    clock: Clock | None = None,
    events: EventSink = discard,
) -> RebuildReport:
    """Make a new index from what lies on the backend. The old one, if there is any, is moved aside; one on another host can't
    be used any more.

    Args:
        url: see `open_store`.
        index: see `open_store`.
        config: see `open_store`.
        wait_s: how long requests of processes that died may still take effect; by default what the backend says. 0 where
            nobody has written for that long.
        clock: for tests.
        events: is told what happens.

    Raises:
        StoreBusy: a process has the old index open.
        StoreUnknown: no store lies there.
    """
    clock = clock or SystemClock()
    place = await _find(parse_store_url(url), index, config or Config(), events)
    backend, path = place.backend, place.index_path
    fresh = f"{path}.rebuild"
    await backend.open()
    try:
        if await read_marker(backend) is None:
            raise StoreUnknown(f"there is no store at {backend.location}; `blobstore init` makes one")
        with storage_errors(f"make a directory for the index {path}"):
            await asyncio.to_thread(make_directories, os.path.dirname(path))
        async with exclusive_lock(path):
            # What an earlier rebuild left when it died.
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
            new = LmdbIndex(fresh)
            await new.open(create=True)
            try:
                report, identity = await rebuild(backend, new, clock, events, wait_s=wait_s)
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
