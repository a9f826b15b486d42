"""A thousand kills: `python -m tests.kills.long`. It can be ended at any time; rounds that were finished are kept."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.kills.content import MIXES
from tests.kills.processes import interrupt_on_sigterm
from tests.kills.rounds import run_round
from tests.ledger import Ledger

KILLS = 1000
ROUND_KILLS = 25
ON_DISK_EVERY = 4
"""So many rounds for each on a disk, where syncs take their time; the others are in memory, which is the same to a kill."""
SEED = "blobstore"


def main() -> int:
    """Run round after round; each has its own mix, seed and store."""
    interrupt_on_sigterm()
    ledger = Ledger("kills", goal=KILLS, unit="kills")
    try:
        while not ledger.is_complete:
            number = int(ledger.figures.get("rounds", 0))
            mix = list(MIXES.values())[number % len(MIXES)]
            disk = Path(tempfile.gettempdir()) if number % ON_DISK_EVERY == 0 else None
            counts = run_round(mix, f"{SEED} {number}", min(ROUND_KILLS, KILLS - ledger.done), disk)
            ledger.add(counts.pop("kills"), rounds=1, **counts)
            ledger.save()
            print(ledger, flush=True)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        return 130
    print(ledger)
    return 0


if __name__ == "__main__":
    sys.exit(main())
