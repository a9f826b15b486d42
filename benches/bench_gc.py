"""What does it cost to plan a collection: in a small and a big store, whole, and after a single deletion?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from _gc_store import build, manifest_of, repository_of
from _harness import (
    IS_QUICK,
    MIB,
    LaterClock,
    Timed,
    opened,
    quieten,
    race,
    report,
    report_value,
    run,
    sized,
    stopwatch,
)
from floors import RawLmdb

from blobstore.app import make_collector
from blobstore.gc import GcPolicy
from blobstore.index._tables import Table
from blobstore.index.lmdb import MAP_SIZE_BYTES

SIZES = [10_000] if IS_QUICK else [10_000, 100_000, 1_000_000]
_LISTED = [Table.MANIFESTS, Table.EDGES_FROM, Table.EDGES_TO, Table.BLOBS]


@dataclass
class Built:
    """A store of this session, and how long its parts took."""

    path: Path
    blobs: int
    manifests: int
    planned: list[float] = field(default_factory=list)


_built: dict[int, Built] = {}


@pytest.fixture(scope="session")
def build_once(session_path: Path) -> Any:
    """Builds a store of a size the first time it is asked for."""

    def get(blobs: int) -> Built:
        if blobs not in _built:
            path = session_path / f"store-{blobs}"
            with opened(path) as (runner, store):
                _built[blobs] = Built(path, blobs, runner.run(build(store, blobs)))
        return _built[blobs]

    return get


@pytest.mark.parametrize("blobs", SIZES)
def bench_full_plan(benchmark: Any, build_once: Any, blobs: int) -> None:
    built: Built = build_once(blobs)
    floor = _list_raw(built.path)
    with opened(built.path) as (runner, store):
        collector = make_collector(store)
        plans: list[Any] = []

        def plan(_: int) -> None:
            plans.append(run(runner, collector.plan()))

        plan(0)
        ours, _ = race(benchmark, plan, {}, rounds=sized(5, 1))
    last = plans[-1]
    assert len(last.candidates) == blobs // 10, len(last.candidates)
    built.planned = ours.seconds
    each = 1e6 * ours.median / blobs
    note = f"{each:.2f} us per blob (mark {last.seconds.mark:.2f} s, the rest {last.seconds.plan:.2f} s)"
    case = f"full plan, {blobs:,} blobs"
    report(case, ours, [floor], target=None, work=blobs, unit="blobs", note=note)
    report_value(f"{case}, us per blob", f"{each:.2f}", target="<= 5.00")


def _list_raw(path: Path) -> Timed:
    """Stepping through the same rows once, with nothing done about them. Apart from ours, as an environment is opened once a
    process."""
    raw = RawLmdb(Path(f"{path}/index"), [table.name for table in Table], MAP_SIZE_BYTES)
    timed = Timed("raw listing")
    try:
        for number in range(sized(5, 1)):
            timed.seconds.append(stopwatch(lambda _: raw.scan([int(table) for table in _LISTED]), number))
    finally:
        raw.close()
    return timed


def bench_plan_memory(benchmark: Any, build_once: Any) -> None:
    built: Built = build_once(SIZES[-1])
    found: dict[str, float] = {}

    def measure() -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        program = str(Path(__file__).with_name("_gc_store.py"))
        done = subprocess.run(
            [sys.executable, program, str(built.path)], check=True, capture_output=True, text=True, env=environment
        )
        found.update(json.loads(done.stdout))

    benchmark.pedantic(measure, rounds=1, iterations=1)
    case = f"full plan, {built.blobs:,} blobs, peak anonymous memory"
    report_value(case, f"+{found['grown_bytes'] / MIB:.0f} MiB", target="<= 150 MiB", note="in a process of its own")


def bench_linearity(benchmark: Any, build_once: Any) -> None:
    small, big = build_once(SIZES[0]), build_once(SIZES[-1])
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
    if small is big or not small.planned or not big.planned:
        pytest.skip("needs two sizes that were planned")
    each = [1e6 * sorted(one.planned)[len(one.planned) // 2] / one.blobs for one in (small, big)]
    text = f"{each[0]:.2f} to {each[1]:.2f} us per blob (x {each[1] / each[0]:.2f})"
    report_value(f"full plan, from {small.blobs:,} to {big.blobs:,} blobs", text, target="linear: x 1")


@pytest.mark.parametrize("blobs", SIZES)
def bench_incremental(benchmark: Any, build_once: Any, blobs: int) -> None:
    """Last, as it changes the store: the garbage goes first, then one image a round."""
    built: Built = build_once(blobs)
    policy = GcPolicy(quarantine_s=0)
    with opened(built.path) as (runner, store):
        cleaned = stopwatch(lambda _: run(runner, make_collector(store, policy).run()), 0)
    days = iter(range(2, 1000, 2))
    timed = Timed("blobstore")
    freed: list[int] = []

    def delete_and_collect() -> None:
        day = next(days)
        with opened(built.path, clock=LaterClock(day)) as (runner, store):
            number = built.manifests - day
            repository = store.repository(repository_of(number))
            runner.run(repository.delete_manifest(manifest_of(number).digest))
        with opened(built.path, clock=LaterClock(day + 1.5)) as (runner, store):
            collector = make_collector(store, policy)
            reports: list[Any] = []
            quieten()
            timed.seconds.append(stopwatch(lambda _: reports.append(run(runner, collector.run(is_full=False))), 0))
            freed.append(reports[0].freed_blobs)

    benchmark.pedantic(delete_and_collect, rounds=sized(5, 1), iterations=1)
    text = f"{timed.median * 1000:.1f} ms ({min(timed.seconds) * 1000:.1f} to {max(timed.seconds) * 1000:.1f})"
    note = f"freed {freed[-1]} blobs a run; the full run before freed {blobs // 10:,} in {cleaned:.2f} s"
    report_value(
        f"incremental run after one deletion, {blobs:,} blobs", text, target="the same at every size", note=note
    )
