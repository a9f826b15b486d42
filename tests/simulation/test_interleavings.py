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

from tests.ledger import Ledger
from tests.simulation import long_interleavings
from tests.simulation.interleaving import Outcome, play
from tests.simulation.long_interleavings import FIRST_SEED, replay_command
from tests.simulation.schedule import Life, Schedule, Stuck
from tests.simulation.schedule_index import INDEXES, Tables, make_tables

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
def index(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tables(index: str) -> Iterator[Tables]:
    made = make_tables(index)
    yield made
    made.close()


@pytest.mark.timeout(900)
def test_no_interleaving_loses_anything(tables: Tables, index: str) -> None:
    """Whatever the order of their steps, processes that push, delete, collect and die break no image and no promise."""
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


def test_a_thread_of_its_own_changes_nothing() -> None:
    """The writer takes the same steps whether its thread is one or is only played."""
    logs = []
    for index in ("lmdb", "lmdb-threaded"):
        tables = make_tables(index)
        logs.append([play(seed, tables, keeps_log=True).log for seed in (3, 5, 7)])
        tables.close()
    assert logs[0] == logs[1]


def test_a_failed_seed_is_kept_until_it_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The long profile goes on behind it, and plays it again at the next start."""
    monkeypatch.setattr("tests.ledger.FOLDER", tmp_path)
    broken = FIRST_SEED + 2

    def play_until_broken(seed: int, tables: Tables) -> Outcome:
        assert seed != broken
        return Outcome(seed, steps=10)

    monkeypatch.setattr(long_interleavings, "play", play_until_broken)
    tables = dict.fromkeys(INDEXES, make_tables("memory"))
    ledger = Ledger("interleavings", goal=5, unit="seeds")
    long_interleavings.play_missing(ledger, tables)
    ledger = Ledger("interleavings", goal=5, unit="seeds")
    assert (ledger.done, ledger.figures["steps"], long_interleavings.failed_seeds(ledger)) == (5, 40, [broken])
    long_interleavings.play_failed(ledger, tables)
    assert long_interleavings.failed_seeds(ledger) == [broken]
    broken = 0
    long_interleavings.play_failed(ledger, tables)
    ledger = Ledger("interleavings", goal=5, unit="seeds")
    assert (ledger.done, ledger.figures["steps"], ledger.figures["failed"]) == (5, 50, 0)
    assert long_interleavings.failed_seeds(ledger) == []


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
