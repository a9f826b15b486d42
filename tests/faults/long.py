"""Every system call of every flow fails once with each error; a kill before each: `python -m tests.faults.long`.

Stop it when you like, it goes on where it was. `--only FLOW[:FAULT[:N]]` tries a part again and counts nothing.
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


def main() -> int:
    """Try what is left; 1 if any point failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a flow, a flow:fault, or one point flow:fault:n")
    only = parser.parse_args().only
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with scratch() as base, Crew(base) as crew:
        flow, _, rest = only.partition(":")
        fault, _, at = rest.partition(":")
        counts = crew.learn([flow] if flow else FLOWS)
        if at:
            return _report(crew.attempt([Point.parse(only)]))
        sweeps = {(name, each): count for name, faults in counts.items() for each, count in faults.items()}
        if only:
            wanted = {key: count for key, count in sweeps.items() if fault in {"", key[1]}}
            return max(_report(_attempt(crew, *key, 1, count)) for key, count in wanted.items())
        return _sweep(crew, sweeps)


def _sweep(crew: Crew, sweeps: dict[tuple[str, str], int]) -> int:
    ledger = Ledger("faults", goal=sum(sweeps.values()), unit="fault points")
    ledger.note(flows=len(FLOWS), faults=len(FAULTS))
    failed = 0
    try:
        for (flow, fault), count in sweeps.items():
            key = f"{flow}:{fault}"
            before = int(ledger.figures.get(key, 0))
            for first in range(before + 1, count + 1, _BATCH):
                last = min(first + _BATCH - 1, count)
                failed |= _count(ledger, key, fault, _attempt(crew, flow, fault, first, last), last)
            if before < count:
                failed |= _count(ledger, key, fault, _to_the_end(crew, flow, fault, count), count)
            print(ledger_line(ledger), flush=True)
    except KeyboardInterrupt:
        print("stopped; the next run goes on here", flush=True)
        return 130
    _note_end(ledger)
    return failed


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


def _count(ledger: Ledger, key: str, fault: str, results: list[Result], last: int) -> int:
    hits = sum(bool(result.hit) for result in results)
    failures = sum(bool(result.problems) for result in results)
    ledger.add(hits, **{"kills" if fault == "kill" else "errors": hits}, failures=failures)
    ledger.add(**{f"points_{fault}": hits})
    ledger.note(**{key: last})
    ledger.save()
    return _report(results)


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


def _note_end(ledger: Ledger) -> None:
    """All sweeps went to their end; the number of points is what was hit, as threads make it vary by a few."""
    ledger.goal = ledger.done
    ledger.save()
    print(ledger_line(ledger), flush=True)


if __name__ == "__main__":
    sys.exit(main())
