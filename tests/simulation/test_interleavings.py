"""Some hundreds of seeds, each an interleaving of several processes over the real engine; and that a seed says all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.interleaving import play
from tests.simulation.long_interleavings import replay_command
from tests.simulation.schedule import Life, Schedule, Stuck
from tests.simulation.schedule_index import LmdbTables, MemoryTables, Tables

SEEDS = {"memory": range(200), "lmdb": range(1000, 1110)}
HAPPENS = (
    "pushes",
    "collections",
    "blobs_freed",
    "deletes",
    "tags_moved",
    "repositories_removed",
    "runs_undone",
    "reconciliations",
    "uploads_resumed",
    "pulls",
    "killed",
    "cancelled",
    "verbs_refused_late",
    "late",
)


@pytest.fixture(params=["memory", "lmdb"])
def tables(request: pytest.FixtureRequest) -> Iterator[Tables]:
    made = MemoryTables() if request.param == "memory" else LmdbTables()
    yield made
    made.close()


@pytest.mark.timeout(900)
def test_no_interleaving_loses_anything(tables: Tables) -> None:
    """Whatever the order of their steps, processes that push, delete, collect and die break no image and no promise."""
    index = "memory" if isinstance(tables, MemoryTables) else "lmdb"
    happened: Counter[str] = Counter()
    signatures = set()
    for seed in SEEDS[index]:
        try:
            outcome = play(seed, tables)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}\nreplay it with: {replay_command(seed, index)}") from error
        happened.update(outcome.figures, late=outcome.late)
        signatures.add(outcome.signature)
    assert len(signatures) == len(SEEDS[index]), "some seeds made the same schedule"
    assert [each for each in HAPPENS if not happened[each]] == [], f"scenes in which too little happens: {happened}"


def test_a_seed_says_all(tables: Tables) -> None:
    """Two runs of one seed have the same log, event by event."""
    for seed in (1, 7, 11):
        first, second = (play(seed, tables, keeps_log=True).log for _ in range(2))
        assert len(first) > 100
        assert first == second


def test_a_seed_says_all_in_another_process() -> None:
    """A replay prints the same log whatever Python salts its hashes with."""
    logs = []
    for salt in ("1", "2"):
        command = [sys.executable, *replay_command(11, "lmdb").split()[1:]]
        root = Path(__file__).parent.parent.parent
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=root, env={**os.environ, "PYTHONHASHSEED": salt}
        )
        logs.append(done.stdout)
    assert "collector" in logs[0]
    assert logs[0] == logs[1]


def test_what_can_never_go_on_is_told() -> None:
    """A task that waits for nobody is an error, not a hang."""
    schedule = Schedule(0)

    async def wait_for_nobody() -> None:
        await schedule.turn(Life("one"), "a step")
        await schedule.loop.create_future()

    with schedule.running() as loop:
        task = loop.create_task(wait_for_nobody())
        with pytest.raises(Stuck, match="wait_for_nobody"):
            loop.run_until_complete(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
