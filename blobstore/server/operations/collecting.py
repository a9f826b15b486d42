"""Collecting inside the daemon: on a schedule and on demand, one run at a time, beside those who push."""

from __future__ import annotations

import asyncio
import enum
import fcntl
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from blobstore.clock import iso_utc, stopwatch_s
from blobstore.durable import storage_errors
from blobstore.errors import BlobstoreError, CollectionRefused, IndexPoisoned, Refused
from blobstore.events import Alarm, BlobFreed, Event, EventSink, Progress, discard
from blobstore.gc import Collector, GcPolicy
from blobstore.gc.collector import new_run, runs_listed_max
from blobstore.gc.report import RunReport, UndoReport, run_document
from blobstore.reconcile import find_orphans
from blobstore.server.operations.config import CollectConfig
from blobstore.server.operations.logs import Log, no_log
from blobstore.server.operations.pacing import Pacer, paced
from blobstore.server.operations.schedule import Schedule
from blobstore.store import Store

DOCUMENTS_MAX_BYTES = 64 * 1024 * 1024
"""Of reports that are kept with all their lists; the newest is kept whatever its length."""
_RUNS_KEPT_MAX = 100
_LOOK_EVERY_S = 30.0
"""So that a clock that is set is noticed."""
_BUSY_S = 10.0
# What is only read takes about a tenth of the time, row by row, of what is written.
_SLICE_PER_BATCH = 10


class CollectionRunning(Refused):
    """Another collection is under way, here or in another process."""


class RunState(enum.StrEnum):
    """How far a run has come. refused: nothing was changed. stopped: with the daemon, after whole steps."""

    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    STOPPED = "stopped"


class Run(msgspec.Struct, kw_only=True):
    """A run that was begun here. `document` is its report as JSON, of a kept one."""

    run: str
    is_full: bool
    is_dry: bool
    is_scheduled: bool
    policy: GcPolicy
    started_at_ms: int
    state: RunState = RunState.RUNNING
    phase: str = ""
    done: int = 0
    total: int = 0
    finished_at_ms: int | None = None
    error: str | None = None
    document: bytes | None = None

    @property
    def kind(self) -> str:
        """A label: "full", "incremental" or "dry-run"."""
        return "dry-run" if self.is_dry else "full" if self.is_full else "incremental"

    def to_json(self) -> dict[str, Any]:
        """How far it has come, as one JSON document."""
        return {
            "run": self.run,
            "state": self.state.value,
            "full": self.is_full,
            "dry_run": self.is_dry,
            "scheduled": self.is_scheduled,
            "started_at": iso_utc(self.started_at_ms),
            "finished_at": iso_utc(self.finished_at_ms) if self.finished_at_ms is not None else None,
            "phase": self.phase,
            "done": self.done,
            "total": self.total,
            "error": self.error,
        }


class CollectionTally(Protocol):
    """Counts collections."""

    def collection_began(self) -> None:
        """One began."""

    def collection_ended(self, kind: str, outcome: str, seconds: float) -> None:
        """It ended."""


class Collecting:
    """Runs collections of an open store.

    Args:
        store: the store; whoever closes it closes this first.
        policy: what a run may let go, unless its starter says something else.
        config: when, and how gently.
        lock_path: a file that only one collecting process of this host has locked at a time; None for tests.
        log: is told of runs and alarms.
        audit: is told of every blob that was freed.
        events: is told what the collector tells.
        tally: counts.
        on_poisoned: is called when the index refuses everything: this process must end.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        store: Store,
        policy: GcPolicy | None = None,
        config: CollectConfig | None = None,
        *,
        lock_path: str | None = None,
        log: Log | None = None,
        audit: Log | None = None,
        events: EventSink = discard,
        tally: CollectionTally | None = None,
        on_poisoned: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._store, self._config = store, config or CollectConfig()
        batch = self._config.batch
        self.policy = msgspec.structs.replace(policy or GcPolicy(), batch_max=batch, slice_max=batch * _SLICE_PER_BATCH)
        self._schedule = Schedule(self._config.incremental, self._config.full, self._config.time_zone)
        self._lock_path, self._log, self._audit = lock_path, log or no_log(), audit or no_log()
        self._events, self._tally, self._on_poisoned, self._sleep = events, tally, on_poisoned, sleep
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._running: tuple[Run, asyncio.Task[None]] | None = None
        self._keeping: asyncio.Task[None] | None = None
        # Kept between runs, as it notices a clock that jumps.
        self._collector = self._make(self.policy)

    async def open(self) -> None:
        """Begin to keep the schedule, if one is wanted."""
        if self._config.enabled:
            self._keeping = asyncio.create_task(self._keep())

    async def aclose(self) -> None:
        """Stop; a run under way ends between two of its steps, and the next one goes on. Repeatable."""
        tasks = [self._keeping] if self._keeping is not None else []
        if self._running is not None:
            tasks.append(self._running[1])
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._keeping = None

    # Asking

    @property
    def running(self) -> Run | None:
        """The run under way here."""
        return self._running[0] if self._running is not None else None

    @property
    def latest(self) -> Run | None:
        """The newest run that was begun here."""
        return next(reversed(self._runs.values()), None)

    def find(self, run: str) -> Run | None:
        """A run that was begun here, and not too long ago."""
        return self._runs.get(run)

    def next_at_ms(self, *, is_full: bool) -> int | None:
        """When the schedule has the next run of a kind."""
        if not self._config.enabled:
            return None
        return self._schedule.next_at(self._store.parts.clock.now_ms(), is_full=is_full)

    # Acting

    def start(
        self, *, is_full: bool = True, is_dry: bool = False, policy: GcPolicy | None = None, is_scheduled: bool = False
    ) -> Run:
        """Begin a run, which goes on by itself.

        Raises:
            CollectionRunning: one is under way.
            StorageFailed: the lock can't be used.
        """
        if self._running is not None:
            raise CollectionRunning(f"run {self._running[0].run} is under way; one at a time")
        lock = _take_lock(self._lock_path)
        run = Run(
            run=new_run(),
            is_full=is_full,
            is_dry=is_dry,
            is_scheduled=is_scheduled,
            policy=policy or self.policy,
            started_at_ms=self._store.parts.clock.now_ms(),
        )
        self._remember(run)
        task = asyncio.create_task(self._carry_out(run, lock))
        self._running = run, task
        return run

    async def wait(self) -> None:
        """Wait for the run under way to end, if there is one."""
        if self._running is not None:
            await asyncio.wait([self._running[1]])

    async def undo(self, run: str) -> UndoReport:
        """See `Collector.undo`. Also while another run is under way."""
        report = await self._make(self.policy, is_paced=False).undo(run)
        self._log.info("undone", run=run, blobs=len(report.blobs), manifests=len(report.manifests))
        return report

    def _make(self, policy: GcPolicy, *, is_paced: bool = True) -> Collector:
        index, backend, clock = self._store.index, self._store.backend, self._store.parts.clock
        if is_paced and self._config.share < 1:
            # One for both: what the run does, it does one after the other.
            pacer = Pacer(self._config.share)
            index, backend = paced(index, pacer), paced(backend, pacer)

        async def find() -> int:
            return (await find_orphans(index, backend, clock, self._note)).orphans

        return Collector(index, backend, policy, clock=clock, events=self._note, find_orphans=find)

    async def _carry_out(self, run: Run, lock: int | None) -> None:
        self._log.info("collection begins", run=run.run, kind=run.kind, scheduled=run.is_scheduled)
        start_s = stopwatch_s()
        if self._tally is not None:
            self._tally.collection_began()
        try:
            report = await self._collect(run)
            run.document = await asyncio.to_thread(lambda: msgspec.json.encode(report.to_json(), enc_hook=str))
            run.state = RunState.DONE
            self._tell(run, report)
        except asyncio.CancelledError:
            run.state, run.error = RunState.STOPPED, "the daemon was stopped; the next run goes on"
            raise
        except BlobstoreError as error:
            self._fail(run, error)
        except Exception as error:  # noqa: BLE001 - one run's bug must not end the schedule
            run.state, run.error = RunState.FAILED, "this is a bug; the log says more"
            self._log.error("collection failed", run=run.run, exc_info=error)
        finally:
            if lock is not None:
                os.close(lock)
            run.finished_at_ms = self._store.parts.clock.now_ms()
            self._running = None
            self._forget()
            if self._tally is not None:
                self._tally.collection_ended(run.kind, run.state.value, stopwatch_s() - start_s)

    async def _collect(self, run: Run) -> RunReport:
        collector = self._collector if run.policy == self.policy else self._make(run.policy)
        if run.is_dry:
            return await collector.dry_run(is_full=run.is_full, run=run.run)
        return await collector.run(is_full=run.is_full, run=run.run)

    def _tell(self, run: Run, report: RunReport) -> None:
        self._log.info(
            "collection ended",
            run=run.run,
            kind=run.kind,
            dropped_manifests=report.dropped_manifests,
            condemned_blobs=report.condemned_blobs,
            freed_blobs=report.freed_blobs,
            freed_bytes=report.freed_bytes,
            undeleted=report.undeleted,
            refusal=report.refusal,
        )

    def _fail(self, run: Run, error: BlobstoreError) -> None:
        is_refusal = isinstance(error, Refused)
        run.state, run.error = RunState.REFUSED if is_refusal else RunState.FAILED, str(error)
        self._log.error(
            "collection refused" if is_refusal else "collection failed",
            run=run.run,
            kind=run.kind,
            error=f"{type(error).__name__}: {error}",
        )
        if not isinstance(error, CollectionRefused):
            # Of its guards the collector has told itself.
            self._note(Alarm(str(error)))
        if isinstance(error, IndexPoisoned):
            self._on_poisoned()

    def _note(self, event: Event) -> None:
        run = self.running
        if isinstance(event, Progress) and run is not None:
            run.phase, run.done, run.total = event.phase, event.done, event.total
        elif isinstance(event, BlobFreed):
            self._audit.info(
                "audit",
                action="collect",
                kind="blob",
                user=None,
                peer=None,
                run=run.run if run is not None else None,
                digest=event.digest,
                size_bytes=event.size_bytes,
            )
        elif isinstance(event, Alarm):
            self._log.error("alarm", text=event.text, run=run.run if run is not None else None)
        self._events(event)

    # Remembering

    def _remember(self, run: Run) -> None:
        self._runs[run.run] = run
        while len(self._runs) > _RUNS_KEPT_MAX:
            self._runs.popitem(last=False)

    def _forget(self) -> None:
        """Long reports go, the oldest first; the index keeps their summaries."""
        kept_bytes = 0
        for at, run in enumerate(reversed(self._runs.values())):
            kept_bytes += len(run.document or b"")
            if at and kept_bytes > DOCUMENTS_MAX_BYTES:
                run.document = None

    # The schedule

    async def _keep(self) -> None:
        """Keep the schedule, whatever fails: garbage that nobody collects any more is noticed when the disk is full."""
        while True:
            try:
                await self._keep_schedule()
            except BlobstoreError as error:
                self._note(Alarm(f"no collection could be begun, which is tried again: {error}"))
                if isinstance(error, IndexPoisoned):
                    self._on_poisoned()
            else:
                return
            await self._sleep(_LOOK_EVERY_S)

    async def _keep_schedule(self) -> None:
        clock = self._store.parts.clock
        last_any_ms, last_full_ms = await self._last_runs()
        while True:
            now_ms = clock.now_ms()
            # A clock that was set back: what it said before is no time to wait for.
            last_any_ms, last_full_ms = min(last_any_ms, now_ms), min(last_full_ms, now_ms)
            due = self._schedule.next_due(last_any_ms, last_full_ms, now_ms)
            if due is None:
                return
            if due.at_ms > now_ms:
                await self._sleep(min(_LOOK_EVERY_S, (due.at_ms - now_ms) / 1000))
                continue
            try:
                run = self.start(is_full=due.is_full, is_scheduled=True)
            except CollectionRunning:
                await self._sleep(_BUSY_S)
                continue
            await self.wait()
            # Also after one that failed: it is not tried again before its time.
            last_any_ms = run.started_at_ms
            last_full_ms = run.started_at_ms if due.is_full else last_full_ms

    async def _last_runs(self) -> tuple[int, int]:
        """When the last ones began, whoever began them; now where there was none."""
        last_any_ms: int | None = None
        for record in await self._store.index.list_runs(runs_listed_max):
            last_any_ms = last_any_ms or record.started_at_ms
            if run_document(record)["full"]:
                return last_any_ms, record.started_at_ms
        now_ms = self._store.parts.clock.now_ms()
        return last_any_ms or now_ms, now_ms


def _take_lock(path: str | None) -> int | None:
    if path is None:
        return None
    with storage_errors(f"lock {path}"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise CollectionRunning("another process is collecting; one at a time") from error
        except OSError:
            os.close(handle)
            raise
    return handle
