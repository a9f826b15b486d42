"""The state machine, for as long as `make test` may take; `long_machine` runs it for longer."""

from __future__ import annotations

import os

import pytest

from tests.simulation.machine import run_machine

SEED = int(os.environ.get("MACHINE_SEED", "1"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "examples"), [("memory", 70), ("lmdb", 20)])
def test_whatever_happens_nothing_acknowledged_is_lost(kind: str, examples: int) -> None:
    """Clients, collectors, crashes, rot and lost indexes in any order: the invariants hold after each step, a dry run names what
    the run does, and what is left alone is collected. MACHINE_SEED chooses another run."""
    print(f"MACHINE_SEED={SEED}")
    run_machine(kind, SEED, examples=examples, steps=50)
