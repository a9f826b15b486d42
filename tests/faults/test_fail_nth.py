"""A seeded part of `tests.faults.long`: each flow, each fault, at the beginning, in the middle, at the end. What is left must be
whole."""

from __future__ import annotations

import itertools
import random  # noqa: TID251 - from a printed seed
from collections.abc import Iterator

import pytest

from tests.faults.crew import SEED, Crew, scratch, told
from tests.faults.flows import FLOWS
from tests.faults.points import Point

# The call at which something broke once, and what.
FOUND = {
    "collect:kill:100:getdents64:/store/blobs/sha256/": "what a collection killed in its listing had missed stayed for ever",
    "rebuild:ENOSPC:32:fdatasync:/index.rebuild/data.mdb": "a tag was left out of the new index, and so lost",
    "rebuild:EIO:6:pread64:/store/blobs/": "a manifest that could not be read now was taken for lost",
    "manifest-put:ENOSPC:2:fsync:/store/journal": "the next try used the name of a journal object twice",
    "upload-sha512:EIO:1:pread64:/store/uploads/": "an error of the operating system came through",
    "import-layout:EIO:1:newfstatat:/source/image/blobs/": "the same, from the source",
    "open:EIO:1:newfstatat:/store": "there was no store, it was said",
    "open:EIO:1:newfstatat:/store/index/data.mdb": "there was no index, it was said",
    "create:short:1:pwrite64:/store/index/data.mdb": "a store half made could never be made",
    "rebuild:short:1:pwrite64:/index.rebuild/data.mdb": "the index that was just being made was called missing",
    "rebuild:EIO:1:close:/store/index.lock": "a rebuild that had succeeded was told as failed, with a foreign error",
    "upload-resumed:kill:1:unlink:/store/uploads/": "the bytes have both names: the next session starts anew",
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with scratch() as base, Crew(base) as workers:
        yield workers


@pytest.fixture(scope="module")
def counts(crew: Crew) -> dict[str, dict[str, int]]:
    return crew.learn(FLOWS)


def test_whatever_fails_nothing_is_lost_and_nothing_stays(crew: Crew, counts: dict[str, dict[str, int]]) -> None:
    """A call fails, moves half, or is never made because of a kill."""
    print(f"FAULTS_SEED={SEED}")
    draw = random.Random(SEED)
    points = [
        Point(flow, fault, at)
        for flow, faults in counts.items()
        for fault, count in faults.items()
        for at in _one_of_each_third(draw, count)
    ]
    results = crew.attempt(points)
    bad = [result for result in results if result.problems]
    assert not bad, "\n".join(map(told, bad))
    # Threads don't always share a commit alike, so a few numbers lie behind the end.
    assert sum(bool(result.hit) for result in results) > 0.95 * len(points)


def _one_of_each_third(draw: random.Random, count: int) -> list[int]:
    bounds = [count * third // 3 for third in range(4)]
    return [draw.randint(before + 1, last) for before, last in itertools.pairwise(bounds) if before < last]


@pytest.mark.parametrize("point", FOUND)
def test_what_was_found_stays_mended(crew: Crew, counts: dict[str, dict[str, int]], point: str) -> None:
    """The same call fails as then, wherever it stands by now."""
    assert counts
    (result,) = crew.attempt([Point.parse(point)])
    assert result.hit, f"no such call is made any more: {point}"
    assert not result.problems, f"{told(result)}\n    once: {FOUND[point]}"


def test_each_flow_makes_calls_of_its_own(counts: dict[str, dict[str, int]]) -> None:
    """A flow that no fault can hit would test nothing; only reading takes no space."""
    for flow, faults in counts.items():
        missing = {fault for fault, count in faults.items() if count == 0}
        assert missing <= ({"ENOSPC", "EDQUOT"} if flow == "read" else set()), flow
