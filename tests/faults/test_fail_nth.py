"""A seeded part of `tests.faults.long`: each flow, each fault, other calls with each seed. Then a store must be whole."""

from __future__ import annotations

import os
import random  # noqa: TID251 - from a printed seed
from collections.abc import Iterator

import pytest

from tests.faults.crew import Crew, scratch, told
from tests.faults.flows import FLOWS
from tests.faults.points import Point

SEED = int(os.environ.get("FAULTS_SEED", "20261121"))
POINTS_EACH = 1
"""For each flow and each fault."""

# Found by this test once, with what was broken.
FOUND = ("collect:kill:185", "delete-tag:ENOSPC:11", "upload-sha512:EIO:16", "open:EIO:9")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with scratch() as base, Crew(base) as workers:
        yield workers


@pytest.fixture(scope="module")
def counts(crew: Crew) -> dict[str, dict[str, int]]:
    return crew.learn(FLOWS)


def test_whatever_fails_nothing_is_lost_and_nothing_stays(crew: Crew, counts: dict[str, dict[str, int]]) -> None:
    """One call of each flow fails with each error, moves half, or is never made because of a kill."""
    print(f"FAULTS_SEED={SEED}")
    draw = random.Random(SEED)
    points = [
        Point(flow, fault, at)
        for flow, faults in counts.items()
        for fault, count in faults.items()
        for at in sorted(draw.sample(range(1, count + 1), min(POINTS_EACH, count)))
    ]
    results = crew.attempt(points)
    bad = [result for result in results if result.problems]
    assert not bad, "\n".join(map(told, bad))
    # Threads don't always share a commit alike, so a few numbers lie behind the end.
    assert sum(bool(result.hit) for result in results) > 0.9 * len(points)


def test_what_was_found_before_stays_found(crew: Crew, counts: dict[str, dict[str, int]]) -> None:
    """The calls that lost something before they were made to fail."""
    assert counts
    bad = [result for result in crew.attempt(map(Point.parse, FOUND)) if result.problems]
    assert not bad, "\n".join(map(told, bad))


def test_each_flow_makes_calls_of_its_own(counts: dict[str, dict[str, int]]) -> None:
    """A flow that no fault can hit would test nothing; only reading takes no space."""
    for flow, faults in counts.items():
        missing = {fault for fault, count in faults.items() if count == 0}
        assert missing <= ({"ENOSPC", "EDQUOT"} if flow == "read" else set()), flow
