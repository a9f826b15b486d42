"""Every system call of every flow fails once with each error; a kill before each: `python -m tests.faults.long`.

Stop it when you like: it goes on where it was, and first tries again what had failed. `--only FLOW[:FAULT[:N]]` tries a part
again and counts nothing.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from tests.faults.crew import Crew, scratch, told
from tests.faults.flows import FLOWS
from tests.faults.points import Point, Result
from tests.faults.shim import FAULTS
from tests.ledger import Ledger

_BATCH = 64
_MORE_MAX = 50
"""How many calls a run may make beyond those that were counted: threads don't always share a commit alike."""
_TRIES = 3
"""How often a point that failed must pass to count as right: where the flow has threads, it is not the same each time."""

Sweeps = dict[tuple[str, str], int]
"""How many calls there are for each flow and each fault."""


def main() -> int:
    """Try what is left; 1 if any point failed and was not right since."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.long", description=__doc__)
    parser.add_argument("--only", default="", help="a flow, a flow:fault, or one point flow:fault:n[:call:path]")
    only = parser.parse_args().only
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with scratch() as base, Crew(base) as crew:
            return _try_only(crew, only) if only else _sweep_all(crew)
    except KeyboardInterrupt:
        print("stopped; the next run goes on here", flush=True)
        return 130


def _try_only(crew: Crew, only: str) -> int:
    flow, _, rest = only.partition(":")
    fault, _, at = rest.partition(":")
    counts = crew.learn([flow])[flow]
    if at:
        return _report(crew.attempt([Point.parse(only)]))
    return max(_report(_attempt(crew, flow, each, 1, counts[each])) for each in counts if fault in {"", each})


def _sweep_all(crew: Crew) -> int:
    sweeps: Sweeps = {
        (flow, fault): count for flow, faults in crew.learn(FLOWS).items() for fault, count in faults.items()
    }
    ledger = Ledger("faults", goal=sum(sweeps.values()), unit="fault points")
    ledger.note(flows=len(FLOWS), faults=len(FAULTS))
    _retry(ledger, crew)
    for (flow, fault), count in sweeps.items():
        key = f"{flow}:{fault}"
        before = int(ledger.figures.get(key, 0))
        for first in range(before + 1, count + 1, _BATCH):
            last = min(first + _BATCH - 1, count)
            _count(ledger, key, fault, _attempt(crew, flow, fault, first, last), last)
        if before < count:
            _count(ledger, key, fault, _to_the_end(crew, flow, fault, count), count)
            print(ledger_line(ledger), flush=True)
    # Only now is it known how many points there are: threads make the number vary by a few.
    ledger.goal = ledger.done
    ledger.save()
    print(ledger_line(ledger), flush=True)
    return 1 if _wrong(ledger) else 0


def _wrong(ledger: Ledger) -> list[str]:
    """The points that failed when they were tried last."""
    return str(ledger.figures.get("wrong_points", "")).split()


def _note_wrong(ledger: Ledger, results: list[Result]) -> None:
    tried = {result.point for result in results}
    failed = {result.point for result in results if result.problems}
    wrong = [point for point in _wrong(ledger) if point not in tried] + sorted(failed)
    ledger.note(wrong=len(wrong), wrong_points=" ".join(wrong))
    ledger.save()


def _retry(ledger: Ledger, crew: Crew) -> None:
    """What failed before comes first."""
    results = crew.attempt(Point.parse(point) for point in _wrong(ledger) for _ in range(_TRIES))
    _report(results)
    _note_wrong(ledger, results)


def _attempt(crew: Crew, flow: str, fault: str, first: int, last: int) -> list[Result]:
    return crew.attempt(Point(flow, fault, at) for at in range(first, last + 1))


def _to_the_end(crew: Crew, flow: str, fault: str, count: int) -> list[Result]:
    """The calls beyond those counted, until one number hits nothing: only then all were hit."""
    results: list[Result] = []
    for at in range(count + 1, count + _MORE_MAX + 1):
        results += crew.attempt([Point(flow, fault, at)])
        if not results[-1].hit:
            break
    return results


def _count(ledger: Ledger, key: str, fault: str, results: list[Result], last: int) -> None:
    hits = sum(bool(result.hit) for result in results)
    ledger.add(hits, **{"kills" if fault == "kill" else "errors": hits, f"points_{fault}": hits})
    ledger.note(**{key: last})
    _report(results)
    _note_wrong(ledger, results)


def _report(results: list[Result]) -> int:
    bad = [result for result in results if result.problems]
    for result in bad:
        print(told(result), flush=True)
    return int(bool(bad))


def ledger_line(ledger: Ledger) -> str:
    """How far it has come, without the figures of each sweep."""
    shown = {name: count for name, count in ledger.figures.items() if ":" not in name}
    counts = ", ".join(f"{name} {count}" for name, count in shown.items())
    return (
        f"{time.strftime('%H:%M:%S')} {ledger.name}: {ledger.done:,} of about {ledger.goal:,} {ledger.unit} ({counts})"
    )


if __name__ == "__main__":
    sys.exit(main())
