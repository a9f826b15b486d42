"""The long profile of interleavings: `python -m tests.simulation.long_interleavings` goes on where it was stopped.

Seeds that failed are kept by number, and played again at each start until they pass.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from tests.ledger import Ledger
from tests.simulation.interleaving import Outcome, play
from tests.simulation.schedule_index import INDEXES, Tables, make_tables

GOAL_SEEDS = 10_000
SAVED_EVERY_SEEDS = 50
FIRST_SEED = 100_000
THREADED_EVERY_SEEDS = 20
"""How often the writer has a thread of its own: slow, and the same steps by all that is known."""


def index_of(seed: int) -> str:
    """Memory and LMDB in turns."""
    if seed % THREADED_EVERY_SEEDS == THREADED_EVERY_SEEDS - 1:
        return "lmdb-threaded"
    return "lmdb" if seed % 2 else "memory"


def replay_command(seed: int, index: str) -> str:
    """What plays one seed again and prints its log."""
    return f"python -m tests.simulation.long_interleavings --seed {seed} --index {index}"


def main() -> int:
    """Play one seed, or all that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play one seed and print its log")
    parser.add_argument(
        "--index", choices=INDEXES, help="on this index; of the long profile's, that which it was played on"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time, to be resumed")
    asked = parser.parse_args()
    if asked.seed is not None:
        return _replay(asked.seed, asked.index or index_of(asked.seed))
    until = _Until(time.monotonic() + asked.seconds)
    ledger = Ledger("interleavings", goal=GOAL_SEEDS, unit="seeds")
    with _all_tables() as tables:
        play_failed(ledger, tables)
        play_missing(ledger, tables, until)
    print(ledger if ledger.is_complete else f"{ledger}\nstopped; the same command goes on")
    failed = failed_seeds(ledger)
    for seed in failed:
        print(f"failed: {replay_command(seed, index_of(seed))}")
    return 1 if failed else 0


def failed_seeds(ledger: Ledger) -> list[int]:
    """Those that failed when they were last played."""
    return [int(seed) for seed in str(ledger.figures.get("failed_seeds", "")).split()]


def play_failed(ledger: Ledger, tables: dict[str, Tables]) -> None:
    """Play what failed once more: after a mend it passes, and counts."""
    for seed in failed_seeds(ledger):
        outcome = _try(seed, tables)
        if outcome is not None:
            ledger.add(0, mended=1, **_counts(outcome))
            _note_failed(ledger, [each for each in failed_seeds(ledger) if each != seed])
            ledger.save()


def play_missing(ledger: Ledger, tables: dict[str, Tables], is_over: Callable[[], bool] = lambda: False) -> None:
    """Play what was never played, whatever fails."""
    seen: set[int] = set()
    while not ledger.is_complete and not is_over():
        counted: Counter[str] = Counter()
        failed: list[int] = []
        count = 0
        while count < min(SAVED_EVERY_SEEDS, ledger.goal - ledger.done) and not is_over():
            seed = FIRST_SEED + ledger.done + count
            count += 1
            outcome = _try(seed, tables)
            if outcome is None:
                failed.append(seed)
                continue
            counted.update(_counts(outcome), distinct_schedules=int(outcome.signature not in seen))
            seen.add(outcome.signature)
        ledger.add(count, **counted)
        _note_failed(ledger, [*failed_seeds(ledger), *failed])
        ledger.save()
        print(f"{ledger.done:,} of {ledger.goal:,} seeds, {len(failed)} of the last {count} failed", flush=True)


class _Until:
    """Over at a time, or when a signal asks for it: then after the seed that is being played, which takes no second."""

    def __init__(self, end_s: float) -> None:
        self._end_s = end_s
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def __call__(self) -> bool:
        return time.monotonic() >= self._end_s

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._end_s = 0


def _note_failed(ledger: Ledger, seeds: Sequence[int]) -> None:
    ledger.note(failed=len(seeds), failed_seeds=" ".join(map(str, seeds)))


def _counts(outcome: Outcome) -> dict[str, int]:
    return {
        **outcome.figures,
        "late_requests": outcome.late,
        "switches": outcome.switches,
        "steps": outcome.steps,
    }


@contextmanager
def _all_tables() -> Iterator[dict[str, Tables]]:
    tables = {index: make_tables(index) for index in INDEXES}
    try:
        yield tables
    finally:
        for each in tables.values():
            each.close()


def _try(seed: int, tables: dict[str, Tables]) -> Outcome | None:
    index = index_of(seed)
    try:
        return play(seed, tables[index])
    except Exception as error:  # noqa: BLE001 - whatever it is, it has a seed
        print(
            f"seed {seed} on {index}: {_innermost(error)!r}\nreplay it with: {replay_command(seed, index)}", flush=True
        )
        return None


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _replay(seed: int, index: str) -> int:
    tables = make_tables(index)
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


if __name__ == "__main__":
    sys.exit(main())
