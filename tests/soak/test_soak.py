"""The soak, two minutes of it: pushers, pullers, deleters, retaggers and collectors in five processes on one index."""

from __future__ import annotations

import pytest

from tests.soak.mixes import MIXES
from tests.soak.segment import Segment

SECONDS = {"near-zero": 35, "normal": 35, "no-promise": 20}


@pytest.mark.parametrize("mix", MIXES)
def test_no_image_breaks_and_nothing_promised_is_unknown(mix: str) -> None:
    """Every image that stands can be read, every push within its promise succeeds, and in the end nothing is left over."""
    segment = Segment(MIXES[mix], f"short {mix}", kills=False, is_recorded=True)
    segment.run(seconds_max=SECONDS[mix], events_max=10**9)
    print(dict(segment.counts))
    assert segment.counts["unknown_in_promise"] == segment.counts["broken"] == segment.counts["leaks"] == 0
    # All of it happened at all; how much depends on the machine.
    for name in ("push", "pull", "mount", "delete", "retag", "collections", "condemned", "freed", "manifests_checked"):
        assert segment.counts[name] > 0, name
    assert segment.events > 500, segment.counts
