"""A store under a fake clock on which a flow is tried, and what can be seen of one from outside."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from blobstore.abc.paging import every
from blobstore.abc.records import BlobState
from blobstore.backends import _file_backend
from blobstore.backends.filesystem import FilesystemBackend
from blobstore.digest import Digest
from blobstore.gc import GcPolicy
from blobstore.index.lmdb import LmdbIndex
from blobstore.names import RepositoryName
from blobstore.pool import WorkerPool
from blobstore.promises import HoldTerms
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.gc.scene import DAY_MS, Bench

REPOSITORIES = ("app", "other", "new")
BEYOND_EACH_GRACE_MS = 8 * DAY_MS
"""Longer than a hold lasts while bytes keep arriving, than uploads may idle, and than the quarantine."""
UNTAGGED_GO = GcPolicy(delete_untagged=True)

View = dict[str, list[str]]
"""What can be seen of a store, a sorted list of texts for each kind of thing."""

# So that an upload of few bytes also asks for writeback.
_file_backend._WRITEBACK_BYTES = 256 * 1024


class _NoThreads(WorkerPool):
    """Does all work where it is asked for: looking at a store is three times as fast so."""

    async def run(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    finish = run

    async def obtain(self, work: Callable[[], Any], release: Callable[[Any], object]) -> Any:
        del release
        return work()

    def start(self, work: Callable[[], None]) -> None:
        work()


class Stage:
    """A directory with a store in it, or without one yet, and beside it the sources of imports; `now_ms` is its time. With
    `is_hurried`, files are read and written without threads."""

    def __init__(self, root: Path, now_ms: int, *, is_hurried: bool = False) -> None:
        self.root, self._is_hurried = root, is_hurried
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
        index = LmdbIndex(str(self.place / "index"), ballast_bytes=65536)
        backend = FilesystemBackend(str(self.place))
        if self._is_hurried:
            backend._pool = _NoThreads("files", 1)
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


def copy_stage(template: str, root: str) -> None:
    """A stage as a template has it. The ballast is left out: the store takes it again."""
    os.mkdir(root)
    for entry in os.scandir(template):
        if entry.is_dir():
            copy_stage(entry.path, f"{root}/{entry.name}")
        elif entry.name != "ballast":
            shutil.copyfile(entry.path, f"{root}/{entry.name}")


def clear(root: Path) -> None:
    """Remove a stage."""
    shutil.rmtree(root, ignore_errors=True)
    assert not os.path.exists(root), root


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
