"""Collections inside the daemon: on time, on demand, one at a time, and gentle."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blobstore.errors import IndexPoisoned, RunUnknown, StorageFailed
from blobstore.events import Alarm, Event, Progress
from blobstore.gc import Collector, GcPolicy
from blobstore.server.operations.collecting import Collecting, CollectionRunning, RunState
from blobstore.server.operations.config import CollectConfig
from blobstore.server.operations.logs import make_log
from blobstore.server.operations.pacing import Pacer, paced
from tests.gc.scene import AT_ONCE, HOUR_MS, Bench

MANUAL = CollectConfig(enabled=False)


class Tallied:
    """Counts as metrics do."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()
        self.under_way = 0

    def collection_began(self) -> None:
        self.under_way += 1

    def collection_ended(self, kind: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.under_way -= 1
        self.ended[kind, outcome] += 1


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def schedules(bench: Bench) -> AsyncIterator[Callable[..., Collecting]]:
    """Makes a `Collecting` whose sleep advances the clock, and stops it at the end."""
    made: list[Collecting] = []

    def make(config: CollectConfig, policy: GcPolicy = AT_ONCE, **more: Any) -> Collecting:
        async def sleep(seconds: float) -> None:
            bench.clock.advance(int(seconds * 1000) or 1)
            await asyncio.sleep(0)

        made.append(Collecting(bench.store, policy, config, sleep=sleep, **more))
        return made[-1]

    yield make
    for collecting in made:
        await collecting.aclose()


async def test_a_run_on_demand_is_the_collectors_and_tells_what_it_freed(bench: Bench) -> None:
    """Its report is that of `gc --json`; every blob it freed has an audit line with the run."""
    await bench.push_image(b"config", [b"layer"], "1")
    await bench.push_blob(b"garbage")
    events: list[Event] = []
    stream, tally = io.StringIO(), Tallied()
    log = make_log(None, stream)
    collecting = Collecting(bench.store, AT_ONCE, MANUAL, log=log, audit=log, events=events.append, tally=tally)
    foreseen = await bench.collector().dry_run()
    run = collecting.start()
    assert run.state is RunState.RUNNING
    assert collecting.running is run
    assert tally.under_way == 0
    await collecting.wait()
    assert collecting.running is None
    assert run.state is RunState.DONE
    assert run.document is not None
    document = msgspec.json.decode(run.document)
    assert document["run"] == run.run
    assert document["candidates"] == foreseen.to_json()["candidates"]
    assert document["blobs"]["freed"] == 1
    assert not await bench.is_there(b"garbage")
    assert [record.run for record in await bench.store.index.list_runs(5)] == [run.run]
    (audit,) = [line for line in lines(stream) if line["event"] == "audit"]
    assert (audit["action"], audit["run"], audit["digest"]) == ("collect", run.run, document["candidates"][0]["digest"])
    assert tally.ended == {("full", "done"): 1}
    assert tally.under_way == 0
    await collecting.aclose()


async def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    """And is remembered here alone."""
    await bench.push_blob(b"garbage")
    collecting = Collecting(bench.store, AT_ONCE, MANUAL)
    run = collecting.start(is_dry=True)
    await collecting.wait()
    assert run.document is not None
    assert len(msgspec.json.decode(run.document)["candidates"]) == 1
    assert await bench.is_there(b"garbage")
    assert not await bench.store.index.list_runs(5)
    assert collecting.find(run.run) is run
    await collecting.aclose()


async def test_one_at_a_time_here_and_on_this_host(bench: Bench, tmp_path: Path) -> None:
    """Another process has the lock as long as its run goes on, and not longer."""
    lock = str(tmp_path / "lock")
    one = Collecting(bench.store, AT_ONCE, MANUAL, lock_path=lock)
    other = Collecting(bench.store, AT_ONCE, MANUAL, lock_path=lock)
    run = one.start()
    with pytest.raises(CollectionRunning, match=run.run):
        one.start(is_dry=True)
    with pytest.raises(CollectionRunning, match="another process"):
        other.start()
    await one.wait()
    assert other.start().run != run.run
    await other.wait()
    await one.aclose()
    await other.aclose()


async def test_the_schedule_is_kept(bench: Bench, schedules: Callable[..., Collecting]) -> None:
    """Two days of hourly runs, a full one every night; what was pushed meanwhile and let go is gone."""
    tally = Tallied()
    await bench.push_blob(b"garbage")
    collecting = schedules(CollectConfig(incremental="0 * * * *", full="30 3 * * *"), tally=tally)
    await collecting.open()
    start_ms = bench.clock.now_ms()
    await until(lambda: bench.clock.now_ms() >= start_ms + 48 * HOUR_MS)
    await collecting.aclose()
    assert tally.ended["full", "done"] == 2
    assert 47 <= tally.ended["incremental", "done"] <= 49
    assert not await bench.is_there(b"garbage")


async def test_runs_that_were_missed_come_once(bench: Bench, schedules: Callable[..., Collecting]) -> None:
    """A daemon that was down for a week: one full run at once, then the usual times."""
    first = Collecting(bench.store, AT_ONCE, MANUAL)
    first.start()
    await first.wait()
    await first.aclose()
    bench.clock.advance(7 * 24 * HOUR_MS)
    tally = Tallied()
    collecting = schedules(CollectConfig(incremental="0 * * * *", full="30 3 * * *"), tally=tally)
    start_ms = bench.clock.now_ms()
    await collecting.open()
    await until(lambda: sum(tally.ended.values()) == 1)
    assert tally.ended == {("full", "done"): 1}
    assert bench.clock.now_ms() == start_ms
    await until(lambda: sum(tally.ended.values()) == 2)
    assert bench.clock.now_ms() > start_ms
    assert tally.ended["incremental", "done"] == 1


async def test_without_a_schedule_nothing_runs_by_itself(bench: Bench) -> None:
    """And nothing is announced."""
    for config in (MANUAL, CollectConfig(incremental="", full="")):
        collecting = Collecting(bench.store, AT_ONCE, config)
        await collecting.open()
        await asyncio.sleep(0)
        assert collecting.next_at_ms(is_full=True) is None
        await collecting.aclose()
    assert Collecting(bench.store, AT_ONCE, CollectConfig()).next_at_ms(is_full=False) is not None


async def test_a_frozen_store_is_an_alarm_and_the_schedule_goes_on(
    bench: Bench, schedules: Callable[..., Collecting], events: list[Event]
) -> None:
    """It is told again each time, and collected once the index is whole."""
    stream, tally = io.StringIO(), Tallied()
    await bench.store.index.freeze("an older copy")
    collecting = schedules(
        CollectConfig(incremental="0 * * * *", full=""), log=make_log(None, stream), events=events.append, tally=tally
    )
    await collecting.open()
    await until(lambda: tally.ended["incremental", "refused"] == 3)
    assert collecting.latest is not None
    assert "an older copy" in (collecting.latest.error or "")
    found = lines(stream)
    assert [line["level"] for line in found if line["event"] == "collection refused"] == ["error"] * 3
    assert len([event for event in events if isinstance(event, Alarm)]) == 3


async def test_a_guard_that_stops_a_run_is_told_once(bench: Bench) -> None:
    """A run that would let go of nearly all is refused, and changes nothing."""
    for number in range(5):
        await bench.push_blob(b"%d" % number)
    stream, events = io.StringIO(), list[Event]()
    policy = GcPolicy(grace_s=0, quarantine_s=0, max_share_floor_blobs=2)
    collecting = Collecting(bench.store, policy, MANUAL, log=make_log(None, stream), events=events.append)
    run = collecting.start()
    await collecting.wait()
    assert run.state is RunState.REFUSED
    assert "max-share" in (run.error or "")
    assert len([event for event in events if isinstance(event, Alarm)]) == 1
    assert await bench.is_there(b"1")
    await collecting.aclose()


async def test_a_stop_ends_a_run_between_two_steps_and_the_next_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was condemned is freed by the run after it."""
    await bench.push_blob(b"garbage")
    waiting = asyncio.Event()

    async def hang(_: object) -> frozenset[str]:
        waiting.set()
        await asyncio.Event().wait()
        return frozenset()

    with monkeypatch.context() as patched:
        patched.setattr(bench.store.backend, "delete", hang)
        collecting = Collecting(bench.store, AT_ONCE, MANUAL)
        run = collecting.start()
        await waiting.wait()
        await collecting.aclose()
        assert run.state is RunState.STOPPED
        assert collecting.running is None
    await bench.collector().run()
    assert not await bench.is_there(b"garbage")
    await bench.check()


async def test_an_index_that_is_poisoned_ends_the_process(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs this is told."""
    told: list[bool] = []

    async def fail() -> None:
        raise IndexPoisoned("a sync failed")

    monkeypatch.setattr(bench.store.index, "totals", fail)
    collecting = Collecting(bench.store, AT_ONCE, MANUAL, on_poisoned=lambda: told.append(True))
    run = collecting.start()
    await collecting.wait()
    assert run.state is RunState.FAILED
    assert told == [True]


async def test_a_bug_in_a_run_does_not_end_the_schedule(
    bench: Bench, schedules: Callable[..., Collecting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged with where it was."""
    stream, tally = io.StringIO(), Tallied()
    with monkeypatch.context() as patched:
        patched.setattr(bench.store.index, "totals", None)
        collecting = schedules(
            CollectConfig(incremental="0 * * * *", full="", share=1), log=make_log(None, stream), tally=tally
        )
        await collecting.open()
        await until(lambda: tally.ended["incremental", "failed"] == 1)
    await until(lambda: tally.ended["incremental", "done"] == 1)
    assert "TypeError" in stream.getvalue()


async def test_what_fails_before_a_run_does_not_end_the_schedule(
    bench: Bench, schedules: Callable[..., Collecting], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An index that can't be asked for its runs, a lock that can't be made: an alarm, and then it goes on."""
    events, tally = list[Event](), Tallied()
    lock = tmp_path / "later" / "lock"
    with monkeypatch.context() as patched:

        async def fail(_: int) -> list[object]:
            raise StorageFailed("the index does not answer")

        patched.setattr(bench.store.index, "list_runs", fail)
        collecting = schedules(
            CollectConfig(incremental="0 * * * *", full=""), lock_path=str(lock), events=events.append, tally=tally
        )
        await collecting.open()
        await until(lambda: len(events) >= 2)
    await until(lambda: "lock" in str(events[-1]))
    assert not tally.ended
    lock.parent.mkdir()
    await until(lambda: tally.ended["incremental", "done"] == 1)
    assert all(isinstance(event, Alarm) for event in events if not isinstance(event, Progress))


async def test_a_clock_that_was_years_ahead_puts_nothing_off(
    bench: Bench, schedules: Callable[..., Collecting]
) -> None:
    """The times of the runs that were noted then are not waited for, nor after a restart."""
    first, tally = Collecting(bench.store, AT_ONCE, MANUAL), Tallied()
    bench.clock.jump(10 * 365 * 24 * HOUR_MS)
    first.start()
    await first.wait()
    await first.aclose()
    bench.clock.jump(-10 * 365 * 24 * HOUR_MS)
    collecting = schedules(CollectConfig(incremental="0 * * * *", full=""), tally=tally)
    await collecting.open()
    start_ms = bench.clock.now_ms()
    await until(lambda: bench.clock.now_ms() >= start_ms + 3 * HOUR_MS)
    assert sum(tally.ended.values()) >= 2


async def test_undo_brings_back_what_is_in_quarantine(bench: Bench) -> None:
    """As `gc undo` does."""
    await bench.push_blob(b"garbage")
    collecting = Collecting(bench.store, GcPolicy(grace_s=0), MANUAL)
    run = collecting.start()
    await collecting.wait()
    assert len((await collecting.undo(run.run)).blobs) == 1
    with pytest.raises(RunUnknown):
        await collecting.undo("0" * 16)


async def test_long_reports_are_not_kept_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest is, whatever its length; of the others the index has summaries."""
    monkeypatch.setattr("blobstore.server.operations.collecting.DOCUMENTS_MAX_BYTES", 2000)
    collecting = Collecting(bench.store, AT_ONCE, MANUAL)
    runs = []
    for _ in range(5):
        runs.append(collecting.start())
        await collecting.wait()
    assert runs[-1].document is not None
    assert sum(len(run.document or b"") for run in runs[:-1]) <= 2000
    assert runs[0].document is None


async def test_a_pacer_rests_for_its_share() -> None:
    """Short steps are added up, and no rest is endless."""
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    pacer = Pacer(0.25, sleep)
    await pacer.worked(0.1)
    assert rests == [pytest.approx(0.3)]
    for _ in range(20):
        await pacer.worked(0.0002)
    assert 1 < len(rests) < 10
    assert sum(rests) == pytest.approx(0.3 + 20 * 0.0006, rel=0.2)
    await pacer.worked(60)
    assert rests[-1] == 0.5


async def test_a_paced_collection_does_the_same(bench: Bench) -> None:
    """It rests between its transactions, and frees what any other would."""
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    for number in range(50):
        await bench.push_blob(b"%d" % number)
    pacer = Pacer(0.01, sleep)
    index, backend = paced(bench.store.index, pacer), paced(bench.store.backend, pacer)

    policy = GcPolicy(grace_s=0, quarantine_s=0, batch_max=5, slice_max=5)
    report = await Collector(index, backend, policy, clock=bench.clock).run()
    assert report.freed_blobs == 50
    assert len(rests) >= 10
    assert await index.identity() == await bench.store.index.identity()
    await bench.check()
