"""The long profile of the state machine: `python -m tests.simulation.long_machine` goes on where it was stopped."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.ledger import Ledger
from tests.simulation.machine import MACHINES, run_machine
from tests.simulation.machine_base import OUTCOMES

GOAL_STEPS = 100_000
EXAMPLES, STEPS = 20, 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone, and count nothing")
    parser.add_argument("--index", choices=[*MACHINES], help="of this index alone")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--steps", type=int, default=STEPS)
    asked = parser.parse_args()
    kinds = [asked.index] if asked.index else [*MACHINES]
    if asked.seed is not None:
        for kind in kinds:
            run_machine(kind, asked.seed, examples=asked.examples, steps=asked.steps)
        print({**OUTCOMES})
        return 0
    return run_until_complete(Ledger("machine", goal=GOAL_STEPS, unit="steps"), asked)


def run_until_complete(ledger: Ledger, asked: argparse.Namespace) -> int:
    """One seed after the other, of each index in turn; what a stopped one did is not counted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    while not ledger.is_complete:
        seeds = int(ledger.figures.get("seeds", 0))
        kind = [*MACHINES][seeds % len(MACHINES)]
        OUTCOMES.clear()
        print(f"seed {seeds} on {kind} …", flush=True)
        try:
            run_machine(kind, seeds, examples=asked.examples, steps=asked.steps)
        except KeyboardInterrupt:
            return 130
        counted = {name.replace(" ", "_").replace(":", ""): count for name, count in OUTCOMES.items()}
        steps = counted.pop("steps")
        ledger.add(steps, seeds=1, **{f"{kind}_steps": steps}, **counted)
        ledger.save()
        print(ledger, flush=True)
    print(ledger)
    return 0


if __name__ == "__main__":
    sys.exit(main())
