"""The long profile: a million executions of each target. `python -m tests.fuzz.long`; stopped, it goes on where it was."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import time
from pathlib import Path

from tests.fuzz.running import describe, run
from tests.fuzz.targets import TARGETS, lower_limits
from tests.ledger import FOLDER, Ledger

EXECUTIONS_EACH = 1_000_000
# What a kill loses at most.
_ROUND = 50_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.long", description=__doc__)
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"), help="run one target on the bytes of a file")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31 - 1) + 1)
    parser.add_argument("--only", choices=sorted(TARGETS), action="append", help="this target; may be given again")
    arguments = parser.parse_args()
    if arguments.replay:
        name, path = arguments.replay
        lower_limits()
        TARGETS[name].check(Path(path).read_bytes())
        print(f"{name} holds for {path}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {arguments.seed}", flush=True)
    ledger = Ledger("fuzz", goal=EXECUTIONS_EACH * len(TARGETS), unit="executions")
    waiting, broken = list(arguments.only or TARGETS), list[str]()
    try:
        # In turns, so that a run that is stopped has tried all of them.
        while waiting := [name for name in waiting if name not in broken and _left(name, ledger) > 0]:
            broken += [name for name in waiting if not _fuzz(name, ledger, arguments.seed)]
    except KeyboardInterrupt:
        print("stopped; run it again to go on")
    print(ledger)
    return 1 if broken else 0


def _left(name: str, ledger: Ledger) -> int:
    return EXECUTIONS_EACH - int(ledger.figures.get(name, 0))


def _fuzz(name: str, ledger: Ledger, seed: int) -> bool:
    """One round of a target; False if an input broke it."""
    began, left = time.monotonic(), _left(name, ledger)
    outcome = run(name, min(left, _ROUND), seed + left // _ROUND, FOLDER / "fuzz" / name)
    if outcome.broken_by is not None:
        print(describe(name, outcome), flush=True)
        return False
    counted = min(outcome.executions, left)
    ledger.add(counted, **{name: counted})
    ledger.save()
    speed = outcome.executions / (time.monotonic() - began)
    print(f"{name}: {ledger.figures[name]:,} of {EXECUTIONS_EACH:,}, {speed:,.0f} a second", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
