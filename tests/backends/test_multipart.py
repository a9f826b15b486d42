"""How a blob is cut, and who gets memory for parts."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.backends._multipart import PARTS_MAX, PartBudget, PartPlan

MIB = 1024 * 1024
OBJECT_MAX_BYTES = 5 * 1024**4


def test_the_largest_object_has_parts_enough() -> None:
    """10,000 parts that begin with 8 MiB hold S3's 5 TiB; no part is beyond its 5 GiB."""
    plan = PartPlan(8 * MIB)
    assert plan.blob_max_bytes >= OBJECT_MAX_BYTES
    assert plan.size_of(PARTS_MAX) <= 5 * 1024**3


@given(st.integers(1, 10**6), st.integers(1, PARTS_MAX))
def test_parts_follow_each_other(first_bytes: int, number: int) -> None:
    """Each begins where the one before ends, and holds its first and its last byte."""
    plan = PartPlan(first_bytes)
    start, size = plan.start_of(number), plan.size_of(number)
    assert start == (plan.start_of(number - 1) + plan.size_of(number - 1) if number > 1 else 0)
    assert plan.number_at(start) == plan.number_at(start + size - 1) == number


def test_parts_never_shrink_and_begin_alike() -> None:
    """Up to the first doubling all are of one size, as some servers demand."""
    sizes = [PartPlan(8 * MIB).size_of(number) for number in range(1, PARTS_MAX + 1)]
    assert sizes == sorted(sizes)
    assert set(sizes[:1000]) == {8 * MIB}


def test_who_fills_gets_half_at_most() -> None:
    """The other half is for bytes that are on their way and end by themselves."""
    budget = PartBudget(8 * MIB)
    assert budget.try_fill(2 * MIB) is not None
    second = budget.try_fill(2 * MIB)
    assert second is not None
    assert budget.try_fill(1) is None
    second.begin_sending()
    assert budget.try_fill(2 * MIB) is not None
    assert budget.used_bytes == 6 * MIB


async def test_who_sends_waits_and_is_served_in_order() -> None:
    """The one that waits longest is next, also where a smaller one would fit."""
    budget = PartBudget(4 * MIB)
    first, second = await budget.take_to_send(2 * MIB), await budget.take_to_send(1 * MIB)
    large = asyncio.ensure_future(budget.take_to_send(3 * MIB))
    small = asyncio.ensure_future(budget.take_to_send(1 * MIB))
    await asyncio.sleep(0)
    assert not large.done()
    assert not small.done()
    assert budget.try_fill(1) is None
    first.release()
    first.release()
    (await large).release()
    (await small).release()
    second.release()
    assert budget.used_bytes == 0


async def test_one_part_beyond_the_budget_goes_alone() -> None:
    """Even while others fill: it must not wait for a client that is gone."""
    budget = PartBudget(4 * MIB)
    filling = budget.try_fill(2 * MIB)
    assert filling is not None
    huge = await asyncio.wait_for(budget.take_to_send(64 * MIB), 1)
    waiting = asyncio.ensure_future(budget.take_to_send(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    huge.release()
    (await waiting).release()
    filling.release()
    assert budget.used_bytes == 0


@pytest.mark.parametrize("is_served", [False, True])
async def test_who_gives_up_waiting_takes_nothing(is_served: bool) -> None:
    """Cancelled before its turn, or in the moment of it."""
    budget = PartBudget(MIB)
    held = await budget.take_to_send(MIB)
    waiting = asyncio.ensure_future(budget.take_to_send(MIB))
    behind = asyncio.ensure_future(budget.take_to_send(MIB))
    await asyncio.sleep(0)
    if is_served:
        held.release()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        (await waiting).release()
    held.release()
    (await asyncio.wait_for(behind, 1)).release()
    assert budget.used_bytes == 0


async def test_who_gives_up_as_memory_comes_back_is_told_that_alone() -> None:
    """Cancelled, and passed over by who gave memory back, before its own turn of the loop."""
    budget = PartBudget(MIB)
    held = await budget.take_to_send(MIB)
    waiting = asyncio.ensure_future(budget.take_to_send(MIB))
    await asyncio.sleep(0)
    waiting.cancel()
    held.release()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.used_bytes == 0


def test_memory_is_used_again_and_given_back() -> None:
    """A buffer's memory serves the next of its size; with the last one all of it goes."""
    budget = PartBudget(8 * MIB)
    first, second = budget.try_fill(MIB), budget.try_fill(MIB)
    assert first is not None
    assert second is not None
    memory = first.data
    first.release()
    again = budget.try_fill(MIB)
    assert again is not None
    assert again.data is memory
    for buffer in (again, second):
        buffer.release()
    fresh = budget.try_fill(MIB)
    assert fresh is not None
    assert fresh.data is not memory
