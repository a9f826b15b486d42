"""How long does it take to free small blobs, end to end, beside unlinking as many files?"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import floors
from _gc_store import add_garbage
from _harness import OURS, SEED, opened, race, report, run, sized

from blobstore.app import make_collector
from blobstore.gc import GcPolicy

BLOBS = sized(10_000, 500)
SIZE_BYTES = 4096


def _make_files(paths: list[Path]) -> None:
    noise = hashlib.shake_128(str(SEED).encode()).digest(SIZE_BYTES)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise)


def bench_collect(benchmark: Any, tmp_path: Path) -> None:
    root = tmp_path / "store"
    plain = [tmp_path / "plain" / f"{at % 256:02x}" / f"{at:064x}" for at in range(BLOBS)]
    with opened(root) as (runner, store):

        def prepare(number: int, name: str) -> None:
            """Files, and for the store the rows that an earlier push left."""
            if name == OURS:
                keys = runner.run(add_garbage(store, BLOBS, f"round {number}", SIZE_BYTES))
                _make_files([root / key for key in keys])
            else:
                _make_files(plain)

        def collect(_: int) -> None:
            # A new one each time: what it keeps between runs is not part of the work.
            collector = make_collector(store, GcPolicy(grace_s=0, quarantine_s=0, max_share=1))
            freed = run(runner, collector.run()).freed_blobs
            assert freed == BLOBS, freed

        ours, timed = race(
            benchmark,
            collect,
            {"unlink + fsync of directories": lambda _: floors.unlink_all(plain)},
            rounds=sized(5, 1),
            before=prepare,
        )
    report(f"free {BLOBS:,} blobs of {SIZE_BYTES // 1024} KiB", ours, timed, target=None, work=BLOBS, unit="blobs")
