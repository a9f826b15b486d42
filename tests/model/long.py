"""The large searches of the protocol's models, one after the other: `python -m tests.model.long`.

Takes up where it was stopped, with the search that was under way begun anew.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from tests.ledger import Ledger
from tests.model.configurations import LARGE, REACHABLE, REFUTED, SOUND, Configuration
from tests.model.spin import SearchFailed, search

MEMORY_MIB = 8000
TIMEOUT_S = 3600


def main() -> int:
    """Search what was not searched yet; 0 if all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory-mib", type=int, default=MEMORY_MIB, help="of each search, at most (%(default)s)")
    parser.add_argument("--only", default="", help="of the large ones only those whose name contains this")
    given = parser.parse_args()
    # As Ctrl-C: the search under way is ended with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    small = [*SOUND, *REFUTED, *REACHABLE]
    large = [each for each in LARGE if given.only in each.name]
    ledger = Ledger("model", goal=len(small) + len(LARGE), unit="configurations")
    failed: list[Configuration] = []
    try:
        failed += [each for each in [*small, *large] if not _search(each, ledger, given.memory_mib)]
    except KeyboardInterrupt:
        print("stopped; begin again to go on")
        return 130
    finally:
        counts = ", ".join(
            f"{ledger.figures.get(name, 0):,} {name}" for name in ("states", "transitions", "variants_refuted")
        )
        print(f"model: {ledger.done} of {ledger.goal} configurations, {counts}")
    for each in failed:
        print(f"NOT AS IT SHOULD BE: {each.name}")
    return 1 if failed else 0


def _search(wanted: Configuration, ledger: Ledger, memory_mib: int) -> bool:
    is_large = wanted in LARGE
    key = f"{wanted.name}: states"
    if key in ledger.figures:
        return True
    started = time.monotonic()
    try:
        found = search(wanted, memory_mib=memory_mib, timeout_s=TIMEOUT_S, is_large=is_large)
    except SearchFailed as error:
        print(f"{wanted.name}: {error}")
        return False
    seconds = time.monotonic() - started
    print(f"{wanted.name}: {found.states:,} states, {found.transitions:,} transitions, {seconds:.0f} s", flush=True)
    if found.broken != wanted.breaks:
        print(f"  property {found.broken} is broken, expected was {wanted.breaks}")
        return False
    ledger.add(1, states=found.states, transitions=found.transitions, variants_refuted=int(wanted in REFUTED))
    ledger.note(**{key: found.states})
    ledger.save()
    return True


if __name__ == "__main__":
    sys.exit(main())
