"""The long profile: which part of the proof catches which mutant. `python -m tests.mutants.long`; stopped, it goes on where it
was."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.ledger import Ledger
from tests.mutants.mutant import Mutant
from tests.mutants.mutants import ENGINE
from tests.mutants.workshop import PROJECT, Trial, copy_project, discard, run_tests

PARTS = {
    "suites": ("tests/conformance", "tests/gc", "tests/store", "tests/test_lmdb.py"),
    "model": ("tests/model",),
    "machine": ("tests/simulation/test_machine.py", "tests/simulation/test_index_that_went_back.py"),
    "interleavings": ("tests/simulation/test_interleavings.py",),
    "faults": ("tests/faults",),
    "powercut": ("tests/powercut",),
    "kills": ("tests/kills",),
    "soak": ("tests/soak",),
}
"""The short forms of the parts of the proof."""
_TEST_S = 120
_SOUND = "sound"
_CAUGHT, _PASSED, _UNFIT = "caught", "passed", "unfit"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.long", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given again")
    parser.add_argument("--mutant", choices=[mutant.name for mutant in ENGINE], action="append", help="this mutant")
    parser.add_argument("--show", action="store_true", help="print what is known so far, as a table, and end")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts = [part for part in arguments.only or PARTS if all((PROJECT / place).exists() for place in PARTS[part])]
    mutants = [mutant for mutant in ENGINE if not arguments.mutant or mutant.name in arguments.mutant]
    ledger = Ledger("mutants", goal=len(ENGINE), unit="mutants")
    if not arguments.show:
        try:
            _try_all(mutants, parts, ledger)
        except KeyboardInterrupt:
            print("stopped; run it again to go on")
    print(_table(ledger))
    print(_summary(ledger))
    return 0


def _try_all(mutants: Sequence[Mutant], parts: Sequence[str], ledger: Ledger) -> None:
    with tempfile.TemporaryDirectory(prefix="blobstore-mutants-") as place:
        fit = [part for part in parts if _verdict(None, part, ledger, Path(place)) == _PASSED]
        for part in set(parts) - set(fit):
            print(f"{part} fails without any mutant; it proves nothing", flush=True)
        for mutant in mutants:
            for part in fit:
                _verdict(mutant, part, ledger, Path(place))
            _count(ledger)


def _verdict(mutant: Mutant | None, part: str, ledger: Ledger, place: Path) -> str:
    """What a part says of a mutant, or of the project as it is; tried if that is not known from before."""
    cell = f"{mutant.name if mutant is not None else _SOUND}/{part}"
    known = ledger.figures.get(cell)
    if isinstance(known, str) and known != _UNFIT:
        return known
    tree = copy_project(place / cell.replace("/", "-"), mutant)
    try:
        trial = run_tests(tree, PARTS[part], timeout_s=_TEST_S)
    finally:
        discard(tree)
    verdict = _judge(trial)
    ledger.note(**{cell: verdict})
    ledger.save()
    print(f"{cell}: {verdict} {trial.catcher or ''}", flush=True)
    return verdict


def _judge(trial: Trial) -> str:
    if trial.has_passed:
        return _PASSED
    return _CAUGHT if trial.catcher is not None else _UNFIT


def _count(ledger: Ledger) -> None:
    """Killed and total, counted anew from the cells: mutants come and go as the engine does."""
    catchers = {mutant.name: _catchers(mutant, ledger) for mutant in ENGINE}
    tried = [mutant for mutant in ENGINE if any(f"{mutant.name}/{part}" in ledger.figures for part in PARTS)]
    ledger.done = len(tried)
    ledger.note(
        killed=sum(bool(catchers[mutant.name]) for mutant in tried if not mutant.saved_by),
        total=sum(not mutant.saved_by for mutant in tried),
        saved=sum(bool(mutant.saved_by) for mutant in tried),
    )
    ledger.save()


def _catchers(mutant: Mutant, ledger: Ledger) -> list[str]:
    return [part for part in PARTS if ledger.figures.get(f"{mutant.name}/{part}") == _CAUGHT]


def _table(ledger: Ledger) -> str:
    """Mutant by mutant, which parts catch it; the named test always does."""
    rows = [f"| mutant | what it breaks | {' | '.join(PARTS)} |", "|---" * (len(PARTS) + 2) + "|"]
    signs = {_CAUGHT: "×", _PASSED: "", _UNFIT: "?", None: "·"}
    for mutant in ENGINE:
        cells = [signs[ledger.figures.get(f"{mutant.name}/{part}")] for part in PARTS]
        breaks = mutant.breaks + (f" Alone it is saved by {mutant.saved_by}." if mutant.saved_by else "")
        rows.append(f"| {mutant.name} | {breaks} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _summary(ledger: Ledger) -> str:
    counts = ", ".join(f"{name} {ledger.figures.get(name, 0)}" for name in ("killed", "total", "saved"))
    return f"mutants: {ledger.done} of {ledger.goal} ({counts})"


if __name__ == "__main__":
    sys.exit(main())
