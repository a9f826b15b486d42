"""The machine a simulated process runs on: its disk outlives it, may rot, and may lose the index or get an older one back."""

from __future__ import annotations

import abc
import asyncio
import copy
import os
import shutil
import tempfile
from pathlib import Path

from blobstore import clock as real_clock
from blobstore.abc.backend import Backend
from blobstore.app import index_location, rebuild_index
from blobstore.backends.filesystem import FilesystemBackend
from blobstore.backends.memory import MemoryBackend
from blobstore.events import Alarm, Event
from blobstore.index._key_value import KeyValueIndex
from blobstore.rebuild import RebuildReport, finish, rebuild
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.model.recording import Recorder
from tests.simulation.crashing import Crash, Fuse, FusedBackend, FusedLmdbIndex, FusedMemoryIndex

_BALLAST_BYTES = 4096


class SeededSecrets:
    """Stands in for `secrets` in blobstore.clock, so that a run can be replayed."""

    def __init__(self, seed: int) -> None:
        import random  # noqa: TID251 - from a printed seed

        self._random = random.Random(seed)

    def token_hex(self, size_bytes: int) -> str:
        return self._random.randbytes(size_bytes).hex()

    def randbits(self, bits: int) -> int:
        return self._random.getrandbits(bits)


class World(abc.ABC):
    """A disk, a clock, and at most one live process with the store open."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fuse = Fuse()
        self.alarms: list[str] = []
        self._backend: FusedBackend | None = None
        self._store: Store | None = None
        self._recorder = Recorder()
        self._real_secrets, real_clock.secrets = real_clock.secrets, SeededSecrets(0)  # type: ignore[assignment]

    @property
    def store(self) -> Store:
        """The store of the live process."""
        assert self._store is not None, "no process lives"
        return self._store

    async def start(self, *, create: bool = False) -> Store:
        """A new process opens the store."""
        self.fuse = Fuse()
        self._backend = FusedBackend(self._make_backend(), self.fuse)
        index = self._make_index(self.fuse)
        self._recorder = Recorder()
        self._recorder.attach(index)
        store = Store(self._backend, index, clock=self.clock, events=self._hear)
        await store.open(create=create)
        self._store = store
        return store

    async def stop(self) -> None:
        """The process ends in peace."""
        store, self._store = self.store, None
        await store.parts.cleaner.aclose()
        self._check_verbs()
        await store.aclose()

    async def kill(self) -> None:
        """The process dies: nothing it had under way is finished, nothing is flushed."""
        self.fuse.is_blown = True
        store, self._store = self.store, None
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        if under_way:
            await asyncio.wait(under_way)
        assert self._backend is not None
        self._check_verbs()
        for upload in self._backend.open_uploads:
            # The system closes its files, and so gives up its locks.
            await upload.aclose()
        for part in (store.backend, store.index, store.parts.hash_pool):
            await part.aclose()

    def _check_verbs(self) -> None:
        """All that this process did to its index is what the model allows (tests/model)."""
        assert not (problems := self._recorder.check()), problems

    def _hear(self, event: Event) -> None:
        if isinstance(event, Alarm):
            self.alarms.append(event.text)

    async def close(self) -> None:
        """The end of this world."""
        if self._store is not None:
            await self.kill()
        real_clock.secrets = self._real_secrets

    @abc.abstractmethod
    def _make_backend(self) -> Backend:
        """What a new process opens."""

    @abc.abstractmethod
    def _make_index(self, fuse: Fuse) -> KeyValueIndex:
        """What a new process opens."""

    # While no process lives

    @abc.abstractmethod
    def copy_index(self) -> None:
        """Keep a copy of the index as it lies on the disk, also beside a live process that is at rest."""

    @abc.abstractmethod
    def restore_index(self) -> None:
        """Put the copy in the place of the index."""

    @abc.abstractmethod
    def lose_index(self) -> None:
        """The index is gone."""

    @abc.abstractmethod
    async def rebuild(self) -> RebuildReport:
        """As `blobstore index rebuild` does."""

    async def begin_rebuild(self, ticks: int) -> None:
        """A rebuild that dies, or is stopped just before its end."""
        fuse = Fuse()
        fuse.arm(ticks)
        backend, index = FusedBackend(self._make_backend(), fuse), self._make_fresh_index(fuse)
        await backend.open()
        await index.open(create=True)
        try:
            await rebuild(backend, index, self.clock)
        except (Crash, ExceptionGroup):
            if not fuse.is_blown:
                raise
        for part in (*backend.open_uploads, backend, index):
            await part.aclose()

    @abc.abstractmethod
    def _make_fresh_index(self, fuse: Fuse) -> KeyValueIndex:
        """What a rebuild fills."""

    # The disk, past the backend

    @abc.abstractmethod
    def read_raw(self, key: str) -> bytes:
        """What lies under a key."""

    @abc.abstractmethod
    def write_raw(self, key: str, data: bytes | None) -> None:
        """Change what lies under a key; None removes it."""


class MemoryWorld(World):
    """Memory outlives the processes here."""

    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self._objects: dict[str, bytes] = {}
        self._uploads: dict[str, bytearray] = {}
        self._tables = FusedMemoryIndex()._tables
        self._copy = self._tables

    def _make_backend(self) -> Backend:
        backend = MemoryBackend()
        backend._objects, backend._uploads = self._objects, self._uploads
        return backend

    def _make_index(self, fuse: Fuse) -> KeyValueIndex:
        index = self._make_fresh_index(fuse)
        index._tables = self._tables  # type: ignore[attr-defined]
        return index

    def _make_fresh_index(self, fuse: Fuse) -> KeyValueIndex:
        index = FusedMemoryIndex()
        index.fuse = fuse
        return index

    def copy_index(self) -> None:
        self._copy = copy.deepcopy(self._tables)

    def restore_index(self) -> None:
        self._tables = copy.deepcopy(self._copy)

    def lose_index(self) -> None:
        self._tables = FusedMemoryIndex()._tables

    async def rebuild(self) -> RebuildReport:
        backend, index = self._make_backend(), FusedMemoryIndex()
        index.fuse = Fuse()
        report, identity = await rebuild(backend, index, self.clock)
        self._tables = index._tables
        await finish(backend, identity)
        return report

    def read_raw(self, key: str) -> bytes:
        return self._objects[key]

    def write_raw(self, key: str, data: bytes | None) -> None:
        if data is None:
            del self._objects[key]
        else:
            self._objects[key] = data


class LmdbWorld(World):
    """Files and LMDB, in memory where the machine has a tmpfs: what syncs cost is nothing to this test."""

    name = "lmdb"

    def __init__(self) -> None:
        super().__init__()
        shared = "/dev/shm"
        self._folder = Path(tempfile.mkdtemp(prefix="machine-", dir=shared if os.access(shared, os.W_OK) else None))
        self._root = self._folder / "store"
        self._index = Path(index_location(str(self._root), None).path)
        self._copy = self._folder / "copy.mdb"

    def _make_backend(self) -> Backend:
        return FilesystemBackend(str(self._root), threads=2)

    def _make_index(self, fuse: Fuse) -> KeyValueIndex:
        return self._open_at(self._index, fuse)

    def _make_fresh_index(self, fuse: Fuse) -> KeyValueIndex:
        return self._open_at(Path(f"{self._index}.rebuild"), fuse)

    def _open_at(self, path: Path, fuse: Fuse) -> KeyValueIndex:
        index = FusedLmdbIndex(str(path), ballast_bytes=_BALLAST_BYTES)
        index.fuse = fuse
        return index

    def copy_index(self) -> None:
        shutil.copyfile(self._index / "data.mdb", self._copy)

    def restore_index(self) -> None:
        shutil.copyfile(self._copy, self._index / "data.mdb")

    def lose_index(self) -> None:
        shutil.rmtree(self._index)

    async def rebuild(self) -> RebuildReport:
        return await rebuild_index(str(self._root), clock=self.clock)

    def read_raw(self, key: str) -> bytes:
        return (self._root / key).read_bytes()

    def write_raw(self, key: str, data: bytes | None) -> None:
        if data is None:
            (self._root / key).unlink()
        else:
            (self._root / key).write_bytes(data)

    async def close(self) -> None:
        await super().close()
        shutil.rmtree(self._folder)
