"""The collector: plans from the index alone, then carries the plan out in small transactions that re-check every line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeVar

import msgspec

from blobstore.abc.backend import Backend, read_all
from blobstore.abc.index import Index
from blobstore.abc.paging import every, every_repository
from blobstore.abc.records import (
    BlobState,
    Drop,
    IndexIdentity,
    Intent,
    ManifestKey,
    RunRecord,
    Totals,
    Trash,
)
from blobstore.clock import Clock, SystemClock, boot_id, iso_utc, random_hex
from blobstore.digest import Digest
from blobstore.errors import CollectionRefused, ForeignStore, KeyUnknown, RunUnknown, StorageFull, StoreFrozen
from blobstore.events import Alarm, BlobFreed, EventSink, Progress, discard
from blobstore.gc.incremental import mark_loose
from blobstore.gc.mark import Marked, mark
from blobstore.gc.plan import Abandoned, Due, Plan, Seconds
from blobstore.gc.policy import GcPolicy
from blobstore.gc.report import RunReport, UndoReport
from blobstore.gc.sweep import sweep_all, sweep_lapsed
from blobstore.journal import Journal, check_not_ahead
from blobstore.layout import UPLOADS_PREFIX
from blobstore.manifest import parse_manifest
from blobstore.marker import check_marker
from blobstore.parts import delete_trash

Item = TypeVar("Item")

runs_listed_max = 1000


class FindsOrphans(Protocol):
    """Lists the backend for bytes that no row of the index knows, and puts them into the trash."""

    async def __call__(self) -> int:
        """How many there were."""


class Collector:
    """Collects one store; may run in several processes at once, while others push.

    Keep it between runs: it notices when the wall clock runs away from the monotonic one.
    """

    def __init__(
        self,
        index: Index,
        backend: Backend,
        policy: GcPolicy | None = None,
        *,
        clock: Clock | None = None,
        events: EventSink = discard,
        find_orphans: FindsOrphans | None = None,
    ) -> None:
        self._index, self._backend = index, backend
        self._policy = policy or GcPolicy()
        self._clock: Clock = clock or SystemClock()
        self._events, self._find_orphans = events, find_orphans
        self._journal = Journal(index, backend, self._clock, events)
        self._clock_start_ms = self._clock.now_ms(), self._clock.monotonic_ms()

    # Planning

    async def plan(self, *, is_full: bool = True, run: str | None = None) -> Plan:
        """What a run at this moment would do; changes nothing. `run` names it where it had to have a name before; see
        `new_run`.

        Raises:
            StoreFrozen: the index is an older copy, or not alone with its backend.
            IndexDamaged: the edges contradict each other.
            ForeignStore: the backend belongs to another index.
        """
        identity = await self._check_alone()
        now_ms = self._clock.now_ms()
        seconds = Seconds()
        totals = await self._index.totals()
        with _Stopwatch(self._clock, seconds, "mark"):
            marked = await (self._mark_all(now_ms) if is_full else mark_loose(self._index, self._policy, now_ms))
        with _Stopwatch(self._clock, seconds, "plan"):
            if is_full:
                await self._check_edges()
            sweep = sweep_all if is_full else sweep_lapsed
            swept = await sweep(self._index, marked, self._policy, now_ms)
            due = [_due(trash) async for trash in self._due(now_ms, self._policy)]
            abandoned = await self._abandoned(now_ms)
        return Plan(
            run=run or new_run(),
            store_id=identity.store_id,
            now_ms=now_ms,
            is_full=is_full,
            policy=self._policy,
            totals=totals,
            groups=marked.groups,
            candidates=tuple(swept.candidates),
            due=tuple(due),
            later=swept.later,
            abandoned=abandoned,
            untagged_kept=self._untagged_kept(marked, totals, is_full=is_full),
            untagged_kept_bytes=swept.spared_bytes if is_full else None,
            seconds=seconds,
        )

    def _untagged_kept(self, marked: Marked, totals: Totals, *, is_full: bool) -> int:
        if self._policy.delete_untagged:
            return 0
        return len(marked.spared) if is_full else totals.loose_manifests - marked.loose_dropped

    async def dry_run(self, *, is_full: bool = True, run: str | None = None) -> RunReport:
        """The plan, reported as the run would report it; if the run would be refused, it says so."""
        plan = await self.plan(is_full=is_full, run=run)
        doubt = await self._doubt_of_time(self._policy)
        return predict(plan, (doubt.refusal if doubt is not None else None) or self._too_much(plan))

    async def _mark_all(self, now_ms: int) -> Marked:
        """Mark one repository after the other; holds the records of one in memory."""
        groups: list[tuple[Drop, ...]] = []
        dead: set[bytes] = set()
        spared: set[bytes] = set()
        seen = 0
        async for nodes in every_repository(self._index, self._policy.slice_max):
            seen += len(nodes)
            self._events(Progress("mark", seen, 0))
            found = mark(nodes, self._policy, now_ms)
            groups += found.groups
            dead |= found.dead
            spared |= found.spared
        return Marked(tuple(groups), frozenset(dead), frozenset(spared))

    async def _check_edges(self) -> None:
        after = await self._index.check_edges(None, self._policy.slice_max)
        while after is not None:
            after = await self._index.check_edges(after, self._policy.slice_max)

    def _due(self, now_ms: int, policy: GcPolicy) -> AsyncIterator[Trash]:
        return every(lambda after: self._index.list_due_trash(now_ms, policy.terms, after, policy.batch_max))

    async def _abandoned(self, now_ms: int) -> tuple[Abandoned, ...]:
        before_ms = now_ms - int(self._policy.upload_idle_s * 1000)
        found = await self._index.list_uploads(before_ms, self._policy.slice_max)
        if not self._backend.properties.lists_faster_than_stats:
            return tuple([Abandoned(intent.upload, await self._staged_bytes(intent)) for intent in found])
        # One request for a thousand, and none where nothing was abandoned.
        staged = {info.key: info.size_bytes async for info in self._backend.list(UPLOADS_PREFIX)} if found else {}
        return tuple([Abandoned(intent.upload, staged.get(intent.names[0], intent.offset)) for intent in found])

    async def _staged_bytes(self, intent: Intent) -> int:
        """What lies on the backend; the index knows only what its process said when it closed the upload."""
        try:
            return (await self._backend.stat(intent.names[0])).size_bytes
        except KeyUnknown:
            return intent.offset

    # Acting

    async def run(self, *, is_full: bool = True, run: str | None = None) -> RunReport:
        """Plan and carry out.

        Raises:
            CollectionRefused: the clock jumped, or the plan would let go of more than the policy's share.
            StoreFrozen, IndexDamaged, ForeignStore: see `plan`.
        """
        await self._check_clock(self._policy)
        report = await self.carry_out(await self.plan(is_full=is_full, run=run))
        # A removal of a repository that was killed half way. Not before planning, as a dry run could not foresee it.
        while await self._index.continue_removals(self._policy.batch_max, self._clock.now_ms()):
            pass
        return report

    async def carry_out(self, plan: Plan) -> RunReport:
        """Do what a plan says, as far as each line still holds. A run that dies on the way has done whole steps; the next one
        goes on.

        Raises:
            CollectionRefused: the plan is another store's, or see `run`.
        """
        identity = await self._check_alone()
        if identity.store_id != plan.store_id:
            raise CollectionRefused(f"the plan is for store {plan.store_id}; this is store {identity.store_id}")
        await self._check_clock(plan.policy)
        if plan.now_ms > self._clock.now_ms() + int(plan.policy.clock_jump_max_s * 1000):
            raise CollectionRefused(f"the plan was made at {iso_utc(plan.now_ms)}, which is still to come")
        self._check_share(plan)
        report = RunReport(plan, dry_run=False)
        # Before anything goes, so that a run that dies half way can be undone.
        await self._save(report)
        try:
            with _Stopwatch(self._clock, plan.seconds, "condemn"):
                await self._expire(plan, report)
                await self._drop(plan, report)
                await self._condemn(plan, report)
                await self._sweep_holds(plan)
            with _Stopwatch(self._clock, plan.seconds, "retire"):
                await self._collect_orphans(plan, report)
                await self._retire(plan, report)
        finally:
            report.finished_at_ms = self._clock.now_ms()
            await self._save(report)
        await self._journal.checkpoint_if_long()
        return report

    async def undo(self, run: str) -> UndoReport:
        """Bring back what a run condemned and is still in quarantine, and the manifests it dropped, as far as all they need is
        there.

        Raises:
            RunUnknown: no such run is remembered.
        """
        # Not more than that: what only brings back may also be done in a store that is frozen.
        await self._check_ours()
        if run not in [record.run for record in await self._index.list_runs(runs_listed_max)]:
            raise RunUnknown(f"no run {run} is remembered; `blobstore gc runs` lists them")
        undone = await self._index.undo_condemned(run, self._clock.now_ms())
        dropped = await self._index.list_dropped(run)
        restored: list[ManifestKey] = []
        waiting = [each.key for each in dropped if await self._index.find_node(each.key) is None]
        # Children first: a pass puts back what needs nothing that is still missing, until one changes nothing.
        while waiting:
            put_back = [key for key in waiting if await self._reinstate(key)]
            restored += put_back
            waiting = [key for key in waiting if key not in put_back]
            if not put_back:
                break
        await self._journal.flush()
        await self._journal.aclose()
        return UndoReport(undone.blobs, undone.too_late, tuple(restored), tuple(waiting))

    async def _reinstate(self, key: ManifestKey) -> bool:
        blob = await self._index.find_blob(key.digest)
        if blob is None or blob.state is BlobState.SUSPECT:
            return False
        try:
            data = await read_all(self._backend, blob.names[0])
        except KeyUnknown:
            return False
        if Digest.of(data) != key.digest:
            return False
        manifest = parse_manifest(data)
        return await self._index.reinstate_manifest(key.repository, manifest, self._clock.now_ms()) is not None

    async def _check_ours(self) -> IndexIdentity:
        identity = await self._index.identity()
        if identity is None:
            raise ForeignStore("the index is not that of any store")
        await check_marker(self._backend, identity)
        return identity

    async def _check_alone(self) -> IndexIdentity:
        identity = await self._check_ours()
        frozen = (await self._index.guards()).frozen
        if frozen is not None:
            raise StoreFrozen(f"{frozen}; nothing is collected until `blobstore index rebuild`")
        return identity

    async def _check_clock(self, policy: GcPolicy) -> None:
        """Refuse while the time is in doubt: a wrong clock must cost a retry, never a blob."""
        now_ms = self._clock.now_ms()
        doubt = await self._doubt_of_time(policy)
        is_jump = doubt is not None and doubt.is_jump
        if is_jump:
            self._clock_start_ms = now_ms, self._clock.monotonic_ms()
            self._events(Alarm(f"the clock jumped; it says {iso_utc(now_ms)} now"))
        if is_jump or now_ms > (await self._index.guards()).clock_high_ms:
            await self._index.note_clock(now_ms, is_jump=is_jump)
        if doubt is not None and doubt.refusal is not None:
            raise CollectionRefused(doubt.refusal)

    async def _doubt_of_time(self, policy: GcPolicy) -> _Doubt | None:
        # The index first, then the clock: else, to one that stood still in between, time would seem to have gone back.
        guards = await self._index.guards()
        now_ms = self._clock.now_ms()
        drift_ms = (now_ms - self._clock_start_ms[0]) - (self._clock.monotonic_ms() - self._clock_start_ms[1])
        limit_ms = int(policy.clock_jump_max_s * 1000)
        is_jump = abs(drift_ms) > limit_ms or now_ms < guards.clock_high_ms - limit_ms
        quiet_since_ms = now_ms if is_jump else guards.quiet_since_ms
        quiet_until_ms = quiet_since_ms + policy.terms.term_ms
        if not quiet_since_ms or now_ms >= quiet_until_ms:
            return _Doubt(is_jump, None) if is_jump else None
        return _Doubt(
            is_jump,
            "the clock jumped or the index was rebuilt; nothing is condemned for one grace, "
            f"until {iso_utc(quiet_until_ms)}",
        )

    def _check_share(self, plan: Plan) -> None:
        text = self._too_much(plan)
        if text is not None:
            self._events(Alarm(text))
            raise CollectionRefused(text)

    @staticmethod
    def _too_much(plan: Plan) -> str | None:
        policy = plan.policy
        total = plan.totals.present_blobs + plan.totals.suspect_blobs
        going = len(plan.candidates) + plan.later.blobs
        if total <= policy.max_share_floor_blobs or going <= policy.max_share * total:
            return None
        return (
            f"the plan lets go of {going} of {total} blobs, more than the share of {policy.max_share:g} that "
            "--max-share allows; look at the dry run, and raise it if that is meant"
        )

    async def _expire(self, plan: Plan, report: RunReport) -> None:
        now_ms = self._clock.now_ms()
        before_ms = plan.now_ms - int(plan.policy.upload_idle_s * 1000)
        for abandoned in plan.abandoned:
            if await self._index.expire_upload(abandoned.upload, before_ms, now_ms) is not None:
                report.expired_uploads += 1

    async def _drop(self, plan: Plan, report: RunReport) -> None:
        """Records go group by group, keepers first; the journal knows of it before any byte goes."""
        batch: list[Drop] = []
        for at, group in enumerate(plan.groups):
            batch += group
            if len(batch) >= plan.policy.batch_max or at == len(plan.groups) - 1:
                dropped = await self._index.drop_manifests(
                    batch, self._judged_at_ms(plan), self._clock.now_ms(), plan.policy.terms, plan.run
                )
                report.dropped_manifests += len(dropped.drops)
                self._events(Progress("drop", report.dropped_manifests, len(plan.drops)))
                batch = []
        if plan.groups:
            await self._journal.flush()

    def _judged_at_ms(self, plan: Plan) -> int:
        """As of when the lines of a plan are re-checked: what was promised since it was made is owed. Without a grace nothing is,
        and the holds that this run's own drops leave are lapsed as they are made."""
        return plan.now_ms if plan.policy.terms.term_ms else max(plan.now_ms, self._clock.now_ms())

    async def _condemn(self, plan: Plan, report: RunReport) -> None:
        if not plan.candidates:
            return
        await self._check_alone()
        await check_not_ahead(self._index, self._backend)
        not_before_ms = self._clock.now_ms() + plan.policy.quarantine_ms
        for batch in _batches(plan.candidates, plan.policy.batch_max):
            condemned = await self._index.condemn(
                [candidate.digest for candidate in batch],
                self._judged_at_ms(plan),
                plan.policy.terms,
                not_before_ms,
                plan.run,
            )
            report.condemned_blobs += len(condemned.blobs)
            report.condemned_bytes += sum(blob.size_bytes for blob in condemned.blobs)
            self._events(Progress("condemn", report.condemned_blobs, len(plan.candidates)))

    async def _sweep_holds(self, plan: Plan) -> None:
        after = await self._index.sweep_holds(plan.now_ms, plan.policy.terms, None, plan.policy.batch_max)
        while after is not None:
            after = await self._index.sweep_holds(plan.now_ms, plan.policy.terms, after, plan.policy.batch_max)

    async def _collect_orphans(self, plan: Plan, report: RunReport) -> None:
        """Where an upload was abandoned, its process may have died with its bytes published but not committed."""
        if not plan.is_full or self._find_orphans is None:
            return
        every_ms = int(plan.policy.orphan_scan_every_s * 1000)
        await self._index.ask_orphan_scan(boot_id(), self._clock.now_ms(), every_ms)
        guards = await self._index.guards()
        if guards.is_orphan_scan_due:
            report.orphans = await self._find_orphans()
            # Only now, since a run that is killed before has not looked. An upload that expired meanwhile asked for the next one.
            await self._index.note_orphan_scan(is_due=False, token=guards.orphan_scan_token)

    async def _retire(self, plan: Plan, report: RunReport) -> None:
        """Free what the plan says is due, what this run condemned without a quarantine, and what never became a blob."""
        wanted = {due.generation for due in plan.due}
        now_ms = max(plan.now_ms, self._clock.now_ms())
        generations = [
            trash.generation
            async for trash in self._due(now_ms, plan.policy)
            if trash.generation in wanted or trash.run == plan.run or trash.digest is None
        ]
        for batch in _batches(generations, plan.policy.batch_max):
            # A reference's end must be in the journal before its bytes go, or a rebuilt index would bring it back.
            await self._journal.flush()
            await self._check_alone()
            await check_not_ahead(self._index, self._backend)
            retired = await self._index.retire(batch, now_ms, plan.policy.terms)
            is_told = await self._tell_of_freed()
            deleted = await delete_trash(self._index, self._backend, retired.retiring)
            if not is_told:
                await self._journal.flush()
            self._count_freed(deleted.removed, report)
            await self._note_undeleted(deleted.unconfirmed, report)
            self._events(Progress("free", report.freed_blobs, len(generations)))
        await self._journal.aclose()

    async def _tell_of_freed(self) -> bool:
        """An index that is put back to a copy of before must find that it is old. On a full disk only the deletes make the room
        to say so: until then an older copy could go unnoticed."""
        try:
            await self._journal.flush()
        except StorageFull:
            return False
        return True

    async def _note_undeleted(self, unconfirmed: Sequence[Trash], report: RunReport) -> None:
        """Bytes that the backend would not delete stay in the trash, and the next run tries again."""
        # What another collector, or the process that left it, deleted at the same time has no row any more.
        left = [trash for trash in unconfirmed if await self._index.find_trash(trash.generation) is not None]
        report.undeleted += len(left)
        for trash in left[:1]:
            self._events(
                Alarm(f"{trash.names[-1]} could not be deleted; look at its permissions and the log of the storage")
            )

    def _count_freed(self, freed: Sequence[Trash], report: RunReport) -> None:
        for trash in freed:
            if trash.digest is not None:
                report.freed_blobs += 1
                report.freed_bytes += trash.size_bytes
                self._events(BlobFreed(trash.digest, trash.size_bytes))

    async def _save(self, report: RunReport) -> None:
        document = report.to_json()
        # What is kept of a run is its summary; the lists can be as long as the store.
        for key in ("drops", "candidates", "due", "abandoned_uploads"):
            document[key] = len(document[key])
        encoded = msgspec.json.encode(document)
        plan = report.plan
        await self._index.save_run(RunRecord(plan.run, plan.now_ms, report.finished_at_ms, encoded))


class _Doubt(msgspec.Struct, frozen=True):
    """Why the time can't be trusted just now; `refusal` is None where no promise hangs on it."""

    is_jump: bool
    refusal: str | None


def new_run() -> str:
    """What a run is called: random, so that two collectors never choose the same."""
    return random_hex(8)


def predict(plan: Plan, refusal: str | None = None) -> RunReport:
    """What the run would report if nothing changed before it acts; a refused one does nothing."""
    if refusal is not None:
        return RunReport(plan, dry_run=True, refusal=refusal)
    frees_at_once = plan.policy.quarantine_ms == 0
    gone = [candidate for candidate in plan.candidates if frees_at_once or candidate.reason == "damaged"]
    due = [each for each in plan.due if each.digest is not None]
    return RunReport(
        plan,
        dry_run=True,
        condemned_blobs=len(plan.candidates),
        condemned_bytes=sum(candidate.size_bytes for candidate in plan.candidates),
        freed_blobs=len(gone) + len(due),
        freed_bytes=sum(candidate.size_bytes for candidate in gone) + sum(each.size_bytes for each in due),
        dropped_manifests=len(plan.drops),
        expired_uploads=len(plan.abandoned),
    )


def _due(trash: Trash) -> Due:
    return Due(trash.digest, trash.generation, trash.size_bytes)


def _batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


class _Stopwatch:
    """Adds the time of a block to one field of `Seconds`."""

    def __init__(self, clock: Clock, seconds: Seconds, field: str) -> None:
        self._clock, self._seconds, self._field = clock, seconds, field
        self._start_ms = 0

    def __enter__(self) -> None:
        self._start_ms = self._clock.monotonic_ms()

    def __exit__(self, *_: object) -> None:
        spent = (self._clock.monotonic_ms() - self._start_ms) / 1000
        setattr(self._seconds, self._field, getattr(self._seconds, self._field) + spent)
