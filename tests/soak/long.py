"""The long soak: `python -m tests.soak.long`. It goes on, in segments, until a million events and 5,000 collections are done.

Ctrl-C or SIGTERM ends it; what whole segments counted is kept, and the next start goes on from there.
"""

from __future__ import annotations

import sys

from tests.kills.processes import interrupt_on_sigterm
from tests.ledger import Ledger
from tests.soak.mixes import MIXES
from tests.soak.segment import Segment

EVENTS = 1_000_000
COLLECTIONS = 5_000
SEGMENT_EVENTS = 50_000
SEGMENT_S_MAX = 600
RECORDED_EVERY = 10
"""So many segments for each whose verbs are replayed against the model's guards."""
SEED = "blobstore"


def main() -> int:
    """Run segment after segment; each has its own mix, seed and store."""
    interrupt_on_sigterm()
    ledger = Ledger("soak", goal=EVENTS, unit="events")
    try:
        while not ledger.is_complete or int(ledger.figures.get("collections", 0)) < COLLECTIONS:
            _run_segment(ledger)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        return 130
    print(ledger)
    return 0


def _run_segment(ledger: Ledger) -> None:
    number = int(ledger.figures.get("segments", 0))
    mix = list(MIXES.values())[number % len(MIXES)]
    segment = Segment(mix, f"{SEED} {number}", kills=True, is_recorded=number % RECORDED_EVERY == 0)
    try:
        segment.run(seconds_max=SEGMENT_S_MAX, events_max=SEGMENT_EVENTS)
    except AssertionError:
        # What went wrong stays in the figures; the goal can't be reached by starting again.
        print(f"segment {number} ({mix.name}, seed {segment.seed!r}) failed after {segment.events} events")
        ledger.add(0, failed_segments=1)
        ledger.save()
        raise
    ledger.add(segment.events, segments=1, **{f"segments_{mix.name}": 1}, **segment.counts)
    ledger.save()
    print(ledger, flush=True)


if __name__ == "__main__":
    sys.exit(main())
