"""A store under a fake clock on which a flow is tried, and what can be seen of one from outside."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from blobstore.abc.paging import every
from blobstore.abc.records import BlobState
from blobstore.backends import _file_backend
from blobstore.backends.filesystem import FilesystemBackend
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.gc import GcPolicy
from blobstore.index.lmdb import LmdbIndex
from blobstore.index.memory import MemoryIndex
from blobstore.names import RepositoryName
from blobstore.promises import HoldTerms
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from blobstore.testing.invariants import find_broken
from tests.gc.scene import AT_ONCE, DAY_MS, Bench

REPOSITORIES = ("app", "other", "new")
BEYOND_EACH_GRACE_MS = 8 * DAY_MS
"""Longer than a hold lasts while bytes keep arriving, than uploads may idle, and than the quarantine."""
UNTAGGED_GO = GcPolicy(delete_untagged=True)
ONLY_ON_REQUEST = GcPolicy(delete_untagged=True, orphan_scan_every_s=10 * 365 * 86400)
"""Lists the backend only if a crash asked for it: the listing once a week would hide what nobody asked for."""

View = dict[str, list[str]]
"""What can be seen of a store, a sorted list of texts for each kind of thing."""

Contents = dict[str, bytes | None]
"""The bytes of each file by its path from the stage, None for a directory; parents first."""

# So that an upload of few bytes also asks for writeback.
_file_backend._WRITEBACK_BYTES = 256 * 1024
_BALLAST_BYTES = 64 * 1024
# Also where the engine makes the index itself, for a rebuild: there is enough to copy as it is.
assert LmdbIndex.__init__.__kwdefaults__ is not None
LmdbIndex.__init__.__kwdefaults__["ballast_bytes"] = _BALLAST_BYTES


async def warm_up() -> None:
    """Use what is made at first use, so that it is there in every child."""
    clock = FakeClock()
    store = Store(MemoryBackend(), MemoryIndex(), clock=clock)
    await store.open(create=True)
    bench = Bench(store, clock)
    await bench.push_image(b"{}", [b"a layer"], "tag")
    await bench.push_blob(b"garbage")
    await bench.collector(AT_ONCE).run()
    assert await find_broken(store) == []
    await store.aclose()


class Stage:
    """A directory with a store in it, or without one yet, and beside it the sources of imports; `now_ms` is its time."""

    def __init__(self, root: Path, now_ms: int) -> None:
        self.root = root
        self.clock = FakeClock(now_ms)
        self._bench: Bench | None = None

    @property
    def place(self) -> Path:
        """Where the store is."""
        return self.root / "store"

    @property
    def source(self) -> Path:
        """Where what is imported lies; calls on it fail too."""
        return self.root / "source"

    @property
    def bench(self) -> Bench:
        """The open store."""
        assert self._bench is not None, "the store is not open"
        return self._bench

    @property
    def is_open(self) -> bool:
        """Whether the store is open."""
        return self._bench is not None

    @property
    def store(self) -> Store:
        """The open store itself."""
        return self.bench.store

    async def open(self, *, create: bool = False) -> None:
        """Open the store as a new process does."""
        index = LmdbIndex(str(self.place / "index"))
        backend = FilesystemBackend(str(self.place))
        store = Store(backend, index, clock=self.clock)
        await store.open(create=create)
        self._bench = Bench(store, self.clock)

    async def close(self) -> None:
        """Close it, if it is open."""
        bench, self._bench = self._bench, None
        if bench is not None:
            await bench.store.aclose()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        """The open store, for the length of a block."""
        await self.open()
        try:
            yield self.store
        finally:
            await self.close()


def contents(root: Path) -> Contents:
    """What lies in a stage now; of the ballast, which is zeros, only the size."""
    found: Contents = {}
    _read_all(str(root), "", found)
    return found


def _read_all(root: str, directory: str, found: Contents) -> None:
    with os.scandir(root + directory) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            path = f"{directory}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                found[path] = None
                _read_all(root, path, found)
            elif entry.name == "ballast":
                found[path] = b"%d" % entry.stat().st_size
            else:
                with open(entry.path, "rb", buffering=0) as file:
                    found[path] = file.read()


def restage(root: Path, found: Contents, wanted: Contents) -> None:
    """Make a stage that has what was found as it was before; only what differs is touched."""
    for path in list(reversed(found)):
        if path not in wanted or found[path] != wanted[path]:
            # Files that differ go too, as they may have a second name.
            (os.rmdir if found[path] is None else os.unlink)(f"{root}{path}")
            del found[path]
    for path, data in wanted.items():
        if path in found:
            continue
        if data is None:
            os.mkdir(f"{root}{path}")
        else:
            with open(f"{root}{path}", "xb", buffering=0) as file:
                file.write(data)


def fingerprint(found: Contents) -> str:
    """A hash of all; without LMDB's reader table, which names the process that had it open."""
    hashed = hashlib.sha256()
    for path, data in found.items():
        hashed.update(f"{path}\0".encode())
        if data is not None and not path.endswith("/lock.mdb"):
            hashed.update(b"%d\0" % len(data))
            hashed.update(data)
    return hashed.hexdigest()


async def look(store: Store, now_ms: int) -> View:
    """All that clients can see of a store, and the state of each blob. Promises nothing, changes nothing."""
    index = store.index
    blobs = [each.blob async for each in every(lambda after: index.scan_references(after, 1000))]
    seen: list[str] = []
    for name in map(RepositoryName.parse, REPOSITORIES):
        views = [await index.view_blob(name, blob.digest, now_ms, HoldTerms()) for blob in blobs]
        seen += [f"{name} {blob.digest}" for blob in views if blob is not None]
    tags = []
    async for name in store.repositories():
        tags += [f"{name}:{entry.tag} {entry.digest}" async for entry in store.repository(name).tags()]
    manifests = [str(node.record.key) async for node in every(lambda after: index.scan_manifests(after, 1000))]
    pins = [str(digest) for digest in await index.list_pins(None, 1000)]
    states = [f"{blob.digest} {blob.state.value}" for blob in blobs]
    return {"tags": tags, "manifests": manifests, "pins": pins, "blobs": states, "seen": sorted(seen)}


async def unreadable(store: Store) -> list[str]:
    """Every tag, and all below it, is read as a client reads it, and every blob that somebody sees; what can't be."""
    problems = []
    async for name in store.repositories():
        repository = store.repository(name)
        problems += [
            f"{name}:{entry.tag} names other bytes"
            async for entry in repository.tags()
            if (await repository.get_manifest(str(entry.tag))).digest != entry.digest
        ]
    async for each in every(lambda after: store.index.scan_references(after, 1000)):
        if each.blob.state is not BlobState.SUSPECT:
            async with store.open_blob(each.blob.digest) as blob:
                if Digest.of(await blob.read()) != each.blob.digest:
                    problems.append(f"{each.blob.digest} reads as other bytes")
    return problems
