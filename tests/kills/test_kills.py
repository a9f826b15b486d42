"""SIGKILL at random moments of processes that push and collect: a few of the thousand of `python -m tests.kills.long`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills.content import MIXES
from tests.kills.rounds import run_round

KILLS = 12


@pytest.mark.parametrize("mix", MIXES)
def test_nothing_acknowledged_is_lost_by_kills(mix: str, tmp_path: Path) -> None:
    """After each kill all that was answered with success is there, also from an index made anew; and no garbage stays."""
    counts = run_round(MIXES[mix], f"short {mix}", KILLS, tmp_path)
    print(dict(counts))
    assert counts["kills"] == KILLS
    assert counts["rebuilds"] > 0
    assert counts["acknowledged"] > 0
    assert counts["lost"] == 0
