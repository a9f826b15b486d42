"""Rules of collectors and of time."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from blobstore.app import make_collector
from blobstore.errors import BlobstoreError, CollectionRefused, StoreFrozen
from blobstore.gc import Collector, GcPolicy, Plan, RunReport
from blobstore.gc.plan import decode_plan, encode_plan
from blobstore.gc.report import UndoReport
from blobstore.reconcile import find_missing, find_orphans
from blobstore.scrub import scrub
from tests.simulation.catalogue import BY_DIGEST, needs
from tests.simulation.machine_base import DIED, MachineBase
from tests.simulation.oracle import Change, Record

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
DAY_MS = 24 * HOUR_MS
POLICIES = {
    "default": GcPolicy(),
    "an hour, untagged": GcPolicy(grace_s=3600, quarantine_s=600, delete_untagged=True, upload_idle_s=7200),
    "an hour, one by one": GcPolicy(grace_s=3600, quarantine_s=0, batch_max=1, slice_max=2),
    "no grace, quarantine, untagged": GcPolicy(grace_s=0, quarantine_s=3600, delete_untagged=True),
    "at once, untagged": GcPolicy(grace_s=0, quarantine_s=0, delete_untagged=True, batch_max=2, slice_max=3),
    "at once": GcPolicy(grace_s=0, quarantine_s=0),
}
policies = st.sampled_from([*POLICIES])
_EXACT = ("condemned_blobs", "condemned_bytes", "freed_blobs", "freed_bytes", "dropped_manifests", "expired_uploads")
_DESCENT_MAX = 6
"""How many generations of manifests may keep each other here; each is dropped by a run of its own."""


class CollectingRules(MachineBase):
    """What collectors and their operators do, and the passing of time."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: list[Plan] = []
        self.runs: list[str] = []

    # Time

    @rule(
        ms=st.sampled_from([30_000, 2 * MINUTE_MS, 20 * MINUTE_MS, HOUR_MS + MINUTE_MS, 3 * HOUR_MS, DAY_MS + HOUR_MS])
    )
    def time_passes(self, ms: int) -> None:
        self.world.clock.advance(ms)

    @rule(ms=st.sampled_from([-40 * DAY_MS, -2 * HOUR_MS, -MINUTE_MS, MINUTE_MS, 2 * HOUR_MS, 40 * DAY_MS]))
    def clock_jumps(self, ms: int) -> None:
        self.world.clock.jump(ms)
        for session in self.sessions:
            # It may look idle now: that costs its client a retry.
            session.may_be_gone = True

    # Collections

    def collector(self, policy: GcPolicy) -> Collector:
        """One for each policy and process: between its runs it watches the clock."""
        if policy not in self.collectors:
            self.collectors[policy] = make_collector(self.store, policy)
        return self.collectors[policy]

    @rule(kind=policies, is_full=st.booleans())
    def collect(self, kind: str, is_full: bool) -> None:
        """The dry run names exactly what the run does, and does nothing itself."""
        policy = POLICIES[kind]
        ticks = self.world.fuse.ticks
        foreseen = self.attempt(self.collector(policy).dry_run(is_full=is_full))
        assert self.world.fuse.ticks == ticks, "a dry run wrote something"
        life = self.world.fuse
        report = self.carry_out(policy, self.now_ms, self.collector(policy).run(is_full=is_full))
        if isinstance(report, RunReport) and self.world.fuse is life:
            assert isinstance(foreseen, RunReport), foreseen
            assert foreseen.refusal is None, foreseen.refusal
            for field in _EXACT:
                told, done = getattr(foreseen, field), getattr(report, field)
                assert told == done, f"the dry run said {field} {told}, the run {done}"
            assert report.plan.drops == foreseen.plan.drops
            assert report.plan.candidates == foreseen.plan.candidates
        elif isinstance(report, CollectionRefused):
            assert isinstance(foreseen, RunReport), foreseen
            assert foreseen.refusal is not None, report
        elif isinstance(report, BlobstoreError):
            assert type(report) is type(foreseen), (report, foreseen)

    def carry_out(
        self, policy: GcPolicy, judged_at_ms: int, work: Coroutine[Any, Any, RunReport]
    ) -> RunReport | BlobstoreError | object:
        """A collection: the oracle hears what it may let go."""
        term_ms, idle_ms = int(policy.grace_s * 1000), int(policy.upload_idle_s * 1000)
        for session in self.sessions:
            session.may_be_gone = session.may_be_gone or judged_at_ms >= session.sent_at_ms + idle_ms - 2 * MINUTE_MS
        self.oracle.time_is(self.now_ms, 1 << 62)
        self.oracle.collecting(judged_at_ms, term_ms, keeps_untagged=not policy.delete_untagged)
        suspects = self.run(self.store.totals()).suspect_blobs
        report = self.attempt(work)
        if isinstance(report, RunReport):
            # A run that let nothing go had no reason to wait for the journal.
            self.is_journaled = self.is_journaled or bool(report.plan.groups)
            self.runs.append(report.plan.run)
            self.count("collections")
            self.count("condemned", report.condemned_blobs)
            self.count("retired", report.freed_blobs)
            self.count("dropped", report.dropped_manifests)
            self.count("expired", report.expired_uploads)
            self.count("orphans", report.orphans)
            self.count("damaged and let go", suspects - self.run(self.store.totals()).suspect_blobs)
        elif isinstance(report, BlobstoreError):
            assert isinstance(report, (CollectionRefused, StoreFrozen)), report
        return report

    @rule(kind=policies, is_full=st.booleans())
    def plan(self, kind: str, is_full: bool) -> None:
        plan = self.attempt(self.collector(POLICIES[kind]).plan(is_full=is_full))
        if isinstance(plan, Plan):
            self.plans.append(decode_plan(encode_plan(plan)))
        else:
            assert isinstance(plan, StoreFrozen), plan

    @precondition(lambda self: self.plans)
    @rule(data=st.data())
    def carry_out_an_old_plan(self, data: st.DataObject) -> None:
        plan = self.plans[data.draw(st.integers(0, len(self.plans) - 1))]
        judged_at_ms = plan.now_ms if plan.policy.grace_s else max(plan.now_ms, self.now_ms)
        report = self.carry_out(plan.policy, judged_at_ms, self.collector(plan.policy).carry_out(plan))
        self.count("old plan carried out", int(isinstance(report, RunReport)))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.runs))
        dropped = self.run(self.store.index.list_dropped(run))
        sees = {(each.key.repository, digest) for each in dropped for digest in needs(BY_DIGEST[each.key.digest])}
        for each in dropped:
            record = Record(each.key.repository, each.key.digest)
            self.oracle.facts[record] = self.oracle.values(record) | {True}
            self.oracle.kept_at.setdefault(record, self.now_ms)
        report = self.attempt(self.collector(POLICIES["default"]).undo(run), Change(sees=sees), is_journaled=True)
        assert not isinstance(report, BlobstoreError), report
        if isinstance(report, UndoReport):
            self.count("revived by undo", len(report.blobs))
            self.count("put back by undo", len(report.manifests))

    # Checks

    @rule()
    def find_orphans(self) -> None:
        report = self.attempt(
            find_orphans(self.store.index, self.store.backend, self.world.clock, self.store.parts.events)
        )
        if report is not DIED:
            assert not isinstance(report, BlobstoreError), report
            assert not report.aliens, f"{report.aliens} names that this index can't have minted"
            self.count("orphans", report.orphans)

    @rule(reads_data=st.booleans())
    def check(self, reads_data: bool) -> None:
        if reads_data:
            report = self.attempt(scrub(self.store.parts, recheck_s=0))
            found = [] if report is DIED else report.damaged
        else:
            report = self.attempt(find_missing(self.store.index, self.store.backend, recheck_s=0))
            found = [] if report is DIED else [*report.missing, *report.wrong_size]
            assert report is DIED or not report.index_problems, report.index_problems
        assert set(found) <= self.oracle.lost, f"{found} are said to be damaged"
        self.count("damage found", len(found))

    @rule()
    def checkpoint(self) -> None:
        answer = self.attempt(self.store.checkpoint(), is_journaled=True)
        assert not isinstance(answer, BlobstoreError), answer
