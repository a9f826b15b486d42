"""Indexes whose every verb waits for its turn, several of them over the same tables, as several processes share one."""

from __future__ import annotations

import inspect
import os
import queue
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import lmdb

from blobstore.abc.index import Index
from blobstore.index._ballast import Ballast
from blobstore.index._key_value import KeyValueIndex
from blobstore.index._lmdb_transaction import LmdbTransaction
from blobstore.index._tables import Table, Transaction
from blobstore.index._writer import GroupWriter, _Job
from blobstore.index.lmdb import LmdbIndex
from blobstore.index.memory import MemoryIndex
from tests.simulation.schedule import Died, Life, Schedule

THREAD_WAIT_MAX_S = 60
TAKE_EDGES = frozenset({"delete_manifest", "drop_manifests", "continue_removals"})
"""Verbs that put holds in the place of edges, as of the time they are told."""


class Observer(Protocol):
    """Is told what happens to the tables."""

    def committed(self) -> None:
        """A transaction became durable."""

    def edges_go(self, now_ms: int, *, is_over: bool) -> None:
        """A verb that takes edges away begins, or is over; its holds count from `now_ms`."""


class _GatedVerbs(KeyValueIndex):
    """Every verb waits for its turn before it begins."""

    _schedule: Schedule
    _life: Life
    _observer: Observer


def _gated(name: str) -> Callable[..., Any]:
    async def verb(self: _GatedVerbs, *args: Any, **kwargs: Any) -> Any:
        inner = getattr(super(_GatedVerbs, self), name)
        if name not in TAKE_EDGES:
            await self._schedule.turn(self._life, name, *args[:2])
            return await inner(*args, **kwargs)
        now_ms = inspect.signature(inner).bind(*args, **kwargs).arguments["now_ms"]
        self._observer.edges_go(now_ms, is_over=False)
        await self._schedule.turn(self._life, name, *args[:2])
        result = await inner(*args, **kwargs)
        self._observer.edges_go(now_ms, is_over=True)
        return result

    return verb


for _name in Index.__abstractmethods__ - {"open", "aclose"}:
    if inspect.iscoroutinefunction(getattr(Index, _name)):
        setattr(_GatedVerbs, _name, _gated(_name))


class GatedMemoryIndex(_GatedVerbs, MemoryIndex):
    """One process's view of tables in memory that several share."""

    def __init__(self, tables: Any, schedule: Schedule, life: Life, observer: Observer) -> None:
        super().__init__()
        self._tables = tables
        self._schedule, self._life, self._observer = schedule, life, observer

    async def _write(self, verb: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = await super()._write(verb, *args, **kwargs)
        self._observer.committed()
        await self._schedule.turn(self._life, "answer")
        return result

    def stop(self) -> None:
        """A killed process leaves nothing behind here."""


class GatedLmdbIndex(_GatedVerbs, LmdbIndex):
    """One process's view of an environment that several share: with a writer thread, a minter and an epoch of its own."""

    def __init__(self, shared: LmdbTables, schedule: Schedule, life: Life, observer: Observer) -> None:
        super().__init__(shared.path)
        self._shared, self._schedule, self._life, self._observer = shared, schedule, life, observer
        self.is_threaded = shared.is_threaded

    def _open(self, create: bool) -> None:
        del create
        self._env, self._databases = self._shared.env, self._shared.databases
        self._ballast = Ballast(os.path.join(self._shared.path, "ballast"), 4096)
        self._writer = GatedWriter(self)
        self._writer.start()

    def _close(self) -> None:
        self.stop()

    def stop(self) -> None:
        """End the thread; of what waits for it, nothing happens."""
        if self._writer is not None:
            assert isinstance(self._writer, GatedWriter)
            self._writer.end()
        self._env, self._writer = None, None


class GatedWriter(GroupWriter):
    """The real writer, which the schedule lets run: it decides when a batch is taken, how many of the waiting verbs share its
    commit, and when their answers arrive. While the writer runs, nothing else does; so what it does is the same in a thread of
    its own and, far quicker, without one."""

    def __init__(self, index: GatedLmdbIndex) -> None:
        assert index._env is not None
        assert index._ballast is not None
        super().__init__(index._env, index._databases, index._minter, index._ballast)
        self._schedule, self._life, self._observer = index._schedule, index._life, index._observer
        self._gate = _Gate() if index.is_threaded else _ThreadlessGate(self._run)
        self._jobs = self._gate  # type: ignore[assignment]
        self._queued: list[_Job] = []
        self._answers: deque[Callable[[], object]] = deque()
        self._unanswered: list[_Job] = []
        self._who = f"writer of {self._life.name}"

    def start(self) -> None:
        if isinstance(self._gate, _Gate):
            super().start()
            self._gate.wait_until_idle()

    def end(self) -> None:
        """End the thread and whatever waits for it."""
        if isinstance(self._gate, _Gate):
            self.stop()
        for job in self._unanswered:
            if not job.future.done():
                job.future.set_exception(Died(self._life.name))

    def _hand_over(self, loop: Any) -> None:
        if self._life.is_dead:
            return
        if not self._queued:
            self._schedule.add(self._life, "batch", (), self._take, who=self._who)
        jobs = self._gathered.pop(loop)
        self._queued += jobs
        self._unanswered += jobs

    def _take(self) -> None:
        chance = self._schedule.random
        count = len(self._queued) if chance.random() < 0.6 else chance.randint(1, len(self._queued))
        batch, self._queued = self._queued[:count], self._queued[count:]
        self._schedule.tell(f"      {count} verbs in one commit, {len(self._queued)} wait")
        loop = self._schedule.loop
        loop.caught = answers = []
        self._gate.run(batch)
        loop.caught = None
        self._observer.committed()
        if not self._answers:
            self._schedule.add(self._life, "answers", (), self._answer, who=self._who)
        self._answers.extend(answers)
        if self._queued:
            self._schedule.add(self._life, "batch", (), self._take, who=self._who)

    def _answer(self) -> None:
        self._answers.popleft()()
        self._unanswered = [job for job in self._unanswered if not job.future.done()]
        if self._answers:
            self._schedule.add(self._life, "answers", (), self._answer, who=self._who)


class _Gate:
    """Stands for the queue of the writer thread: the loop hands a batch through and waits until the thread asks for more."""

    def __init__(self) -> None:
        self._turns: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def get(self, *, block: bool) -> list[_Job] | None:
        """What the thread calls."""
        if not block:
            raise queue.Empty
        self._idle.release()
        return self._turns.get()

    def put(self, jobs: list[_Job] | None) -> None:
        """What `stop` calls."""
        self._turns.put(jobs)

    def run(self, jobs: list[_Job]) -> None:
        """Let the thread carry out a batch."""
        self._turns.put(jobs)
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until the thread asks for more."""
        assert self._idle.acquire(timeout=THREAD_WAIT_MAX_S), "the writer thread is gone"


class _ThreadlessGate:
    """Runs what the writer thread runs, for one batch, where it is called."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._turns: deque[list[_Job]] = deque()

    def get(self, *, block: bool) -> list[_Job] | None:
        """What the writer calls; None ends it."""
        if not block:
            raise queue.Empty
        return self._turns.popleft() if self._turns else None

    def run(self, jobs: list[_Job]) -> None:
        """Carry out a batch."""
        self._turns.append(jobs)
        self._run()


class MemoryTables:
    """Tables in memory, shared by the processes of one scene."""

    def __init__(self) -> None:
        self._outside = MemoryIndex()

    def clear(self) -> None:
        """Begin anew."""
        self._outside = MemoryIndex()

    def make_index(self, schedule: Schedule, life: Life, observer: Observer) -> GatedMemoryIndex:
        """One process's index over them."""
        return GatedMemoryIndex(self._outside._tables, schedule, life, observer)

    def read(self, look: Callable[[Transaction], Any]) -> Any:
        """Look at the tables from outside, whatever waits."""
        return self._outside._read(look)

    def close(self) -> None:
        """Release all."""


class LmdbTables:
    """One LMDB environment, used for one scene after the other. Nothing is synced: here the order counts, not the power."""

    def __init__(self, *, is_threaded: bool = False) -> None:
        self.is_threaded = is_threaded
        """Whether each index has the thread that it has outside of tests."""
        fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.path = tempfile.mkdtemp(prefix="blobstore-interleavings-", dir=fast)
        self.env = lmdb.open(self.path, map_size=1 << 26, max_dbs=len(Table), sync=False)
        self.databases: Sequence[Any] = [self.env.open_db(table.name.encode()) for table in Table]

    def clear(self) -> None:
        """Begin anew."""
        with self.env.begin(write=True) as txn:
            for database in self.databases:
                txn.drop(database, delete=False)

    def make_index(self, schedule: Schedule, life: Life, observer: Observer) -> GatedLmdbIndex:
        """One process's index over them."""
        return GatedLmdbIndex(self, schedule, life, observer)

    def read(self, look: Callable[[Transaction], Any]) -> Any:
        """Look at the tables from outside, whatever waits."""
        with self.env.begin() as txn:
            return look(LmdbTransaction(txn, list(self.databases)))

    def close(self) -> None:
        """Release all."""
        self.env.close()
        shutil.rmtree(self.path, ignore_errors=True)


Tables = MemoryTables | LmdbTables
INDEXES = ("memory", "lmdb", "lmdb-threaded")


def make_tables(index: str) -> Tables:
    """Tables of one of `INDEXES`; to be closed."""
    return MemoryTables() if index == "memory" else LmdbTables(is_threaded=index == "lmdb-threaded")
