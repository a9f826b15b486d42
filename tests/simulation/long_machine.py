"""The long profile of the state machine: `python -m tests.simulation.long_machine` goes on where it was stopped."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from types import FrameType

from tests.ledger import Ledger
from tests.simulation.machine import MACHINES, run_machine
from tests.simulation.machine_base import OUTCOMES, Interruption

GOAL_STEPS = 100_000
EXAMPLES, STEPS = 20, 60
LMDB_EVERY = 5
"""One seed in so many is on LMDB and files; the others are in memory, which is cheaper, and the same above its tables."""
FAILURES_MAX = 5
"""After so many new ones a profile gives up, until somebody has looked."""


def main() -> int:
    """Run one seed, or as many as are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone, and count nothing")
    parser.add_argument("--index", choices=[*MACHINES], help="with --seed: on this index alone")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--no-shrink", action="store_true", help="with --seed: tell the first failure as it is")
    asked = parser.parse_args()
    if asked.seed is None:
        return Profile().run()
    for kind in [asked.index] if asked.index else [*MACHINES]:
        run_machine(kind, asked.seed, examples=asked.examples, steps=asked.steps, shrinks=not asked.no_shrink)
    print({**OUTCOMES})
    return 0


class Profile:
    """One seed after the other, until all of them together have made enough steps. What a stopped or failed seed did is not
    counted; those that failed are tried again whenever the profile is started, before any other."""

    def __init__(self) -> None:
        self._ledger = Ledger("machine", goal=GOAL_STEPS, unit="steps")
        self._failed = {int(seed) for seed in str(self._ledger.figures.get("failed_seeds", "")).split()}

    def run(self) -> int:
        """Returns 0 if the goal is reached and no seed fails."""
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
        try:
            self._run_all()
        except KeyboardInterrupt:
            print("stopped; the same command goes on")
            return 130
        finally:
            print(self._ledger)
        return 1 if self._failed else 0

    def _run_all(self) -> None:
        for seed in sorted(self._failed):
            self._try(seed)
        failed_before = len(self._failed)
        while not self._ledger.is_complete and len(self._failed) < failed_before + FAILURES_MAX:
            seed = int(self._ledger.figures.get("seeds", 0))
            self._try(seed, new=1)

    def _try(self, seed: int, new: int = 0) -> None:
        kind = "lmdb" if seed % LMDB_EVERY == LMDB_EVERY - 1 else "memory"
        OUTCOMES.clear()
        try:
            run_machine(kind, seed, examples=EXAMPLES, steps=STEPS, shrinks=False)
        except Exception:  # noqa: BLE001 - whatever it is, it has a seed
            traceback.print_exc()
            self._failed.add(seed)
        else:
            self._failed.discard(seed)
            counted = {name.replace(" ", "_").replace(":", ""): count for name, count in OUTCOMES.items()}
            steps = counted.pop("steps")
            self._ledger.add(steps, **{f"{kind}_steps": steps}, **counted)
        self._ledger.add(seeds=new)
        self._ledger.note(failed=len(self._failed), failed_seeds=" ".join(str(seed) for seed in sorted(self._failed)))
        self._ledger.save()
        print(
            f"seed {seed} on {kind}: {self._ledger.done:,} of {GOAL_STEPS:,} steps, {len(self._failed)} seeds fail",
            flush=True,
        )


def _stop(number: int, _frame: FrameType | None) -> None:
    """After the step under way; at the second time at once."""
    Interruption.is_asked_for = True
    signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
