"""The long profile of interleavings: `python -m tests.simulation.long_interleavings` goes on where it was stopped."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections import Counter
from types import FrameType

from tests.ledger import Ledger
from tests.simulation.interleaving import Outcome, play
from tests.simulation.schedule_index import LmdbTables, MemoryTables, Tables

GOAL_SEEDS = 10_000
SAVED_EVERY_SEEDS = 50
FIRST_SEED = 100_000
INDEXES = ("memory", "lmdb")


def replay_command(seed: int, index: str) -> str:
    """What plays one seed again and prints its log."""
    return f"python -m tests.simulation.long_interleavings --seed {seed} --index {index}"


def main() -> int:
    """Play one seed, or all that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play one seed and print its log")
    parser.add_argument("--index", choices=INDEXES, default="memory")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time, to be resumed")
    asked = parser.parse_args()
    if asked.seed is not None:
        return _replay(asked.seed, asked.index)
    signal.signal(signal.SIGTERM, _stop)
    ledger = Ledger("interleavings", goal=GOAL_SEEDS, unit="seeds")
    is_right = True
    try:
        is_right = _play_all(ledger, time.monotonic() + asked.seconds)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
    print(ledger)
    return 0 if is_right and not ledger.figures.get("failed") else 1


def _play_all(ledger: Ledger, until_s: float) -> bool:
    tables: dict[str, Tables] = {"memory": MemoryTables(), "lmdb": LmdbTables()}
    seen: set[int] = set()
    is_right = True
    try:
        while not ledger.is_complete and time.monotonic() < until_s:
            counted: Counter[str] = Counter()
            first, count = ledger.done, min(SAVED_EVERY_SEEDS, ledger.goal - ledger.done)
            for at in range(first, first + count):
                index = INDEXES[at % len(INDEXES)]
                outcome = _try(FIRST_SEED + at, index, tables[index])
                if outcome is None:
                    counted["failed"] += 1
                    is_right = False
                    continue
                counted.update(outcome.figures, late_requests=outcome.late, switches=outcome.switches)
                counted.update(steps=outcome.steps, distinct_schedules=int(outcome.signature not in seen))
                seen.add(outcome.signature)
            ledger.add(count, **counted)
            ledger.save()
            print(
                f"{ledger.done:,} of {ledger.goal:,} seeds, {counted['failed']} of the last {count} failed", flush=True
            )
    finally:
        for each in tables.values():
            each.close()
    return is_right


def _try(seed: int, index: str, tables: Tables) -> Outcome | None:
    try:
        return play(seed, tables)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has a seed
        print(f"seed {seed} on {index}: {type(error).__name__}: {error}\nreplay it with: {replay_command(seed, index)}")
        return None


def _replay(seed: int, index: str) -> int:
    tables = MemoryTables() if index == "memory" else LmdbTables()
    try:
        outcome = play(seed, tables, keeps_log=True)
    except Exception as error:  # noqa: BLE001 - the log says how it came to it
        print("\n".join(getattr(error, "log", [])))
        traceback.print_exception(error)
        return 1
    finally:
        tables.close()
    print("\n".join(outcome.log))
    print(f"seed {seed} on {index}: {outcome.steps} steps, {outcome.switches} switches, {outcome.late} late requests")
    return 0


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
