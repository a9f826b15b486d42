"""How a blob is cut into parts, and the memory that parts on their way may take, in one process together."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from blobstore.backends._part_pieces import Pieces

MIB = 1024 * 1024

PART_BYTES = 8 * MIB
"""The first parts' size."""
PART_BUDGET_BYTES = 40 * MIB
"""What the parts of all uploads of one process take in memory: those of one upload that are on their way, and one that fills, so
that an upload which is alone needs no file for it."""
PARTS_AT_ONCE = 4
"""How many parts of one upload are on their way at once."""
PARTS_MAX = 10_000
PARTS_BEFORE_DOUBLING = 1000
"""Behind each of so many parts their size doubles: 10,000 parts that begin with 8 MiB hold 7.8 TiB, and up to 7.8 GiB all parts
are of one size."""


class PartPlan:
    """Which part holds which bytes: a function of the first part's size alone, so that every process cuts alike."""

    def __init__(self, first_bytes: int = PART_BYTES) -> None:
        assert first_bytes > 0, first_bytes
        self.first_bytes = first_bytes

    def size_of(self, number: int) -> int:
        """How large a part is, unless it is the last; they are numbered from 1."""
        assert 1 <= number <= PARTS_MAX, number
        return int(self.first_bytes << ((number - 1) // PARTS_BEFORE_DOUBLING))

    def start_of(self, number: int) -> int:
        """At which byte of the blob a part begins."""
        groups, rest = divmod(number - 1, PARTS_BEFORE_DOUBLING)
        return self._start_of_group(groups) + rest * (self.first_bytes << groups)

    def number_at(self, offset: int) -> int:
        """The part that holds the byte at an offset."""
        group = 0
        while self._start_of_group(group + 1) <= offset:
            group += 1
        inside = offset - self._start_of_group(group)
        return group * PARTS_BEFORE_DOUBLING + inside // (self.first_bytes << group) + 1

    @property
    def blob_max_bytes(self) -> int:
        """The largest blob that `PARTS_MAX` parts hold."""
        return self.start_of(PARTS_MAX + 1)

    def _start_of_group(self, group: int) -> int:
        return self.first_bytes * PARTS_BEFORE_DOUBLING * ((1 << group) - 1)


class PartBuffer:
    """Memory for one part, taken from a budget: a row of bytes, or the pieces in which they come."""

    def __init__(self, budget: PartBudget, size_bytes: int, data: bytearray | None, *, is_filling: bool) -> None:
        self.data = data if data is not None else bytearray()
        self.pieces = Pieces() if data is None else None
        self.size_bytes = size_bytes
        self._budget = budget
        self._is_filling = is_filling
        self._is_held = True

    def whole(self) -> bytes | bytearray:
        """The bytes in a row."""
        return self.data if self.pieces is None else self.pieces.joined()

    def begin_sending(self) -> None:
        """It is full: what holds it now ends by itself, whatever the client does."""
        if self._is_filling:
            self._is_filling = False
            self._budget.filled(self.size_bytes)

    def release(self) -> None:
        """Give the memory back. Repeatable."""
        if self._is_held:
            self._is_held = False
            self._budget.gave_back(self.data, self.size_bytes, is_filling=self._is_filling)
            self.data = bytearray()
            if self.pieces is not None:
                self.pieces.cut(0)


class PartBudget:
    """The part buffers of one process; one event loop.

    A buffer that is being filled waits for its client, who may be slow or gone, so those get half of the budget at most, and
    only what is free: without one, an upload fills a file (`_spool`). A buffer that is being sent is free again after some
    time whatever happens, so waiting for one always ends.
    """

    def __init__(self, capacity_bytes: int = PART_BUDGET_BYTES) -> None:
        self._capacity = capacity_bytes
        self._filling = self._sending = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        # Memory that was used before is there already: a new buffer costs a page fault for each of its pages.
        self._spare: list[bytearray] = []

    @property
    def used_bytes(self) -> int:
        """How much is taken."""
        return self._filling + self._sending

    def try_fill(self, size_bytes: int, *, in_pieces: bool = False) -> PartBuffer | None:
        """A buffer to fill, if one is free."""
        if self._waiters or self._filling + size_bytes > self._capacity // 2:
            return None
        if self.used_bytes + size_bytes > self._capacity:
            return None
        self._filling += size_bytes
        return PartBuffer(self, size_bytes, None if in_pieces else self._memory(size_bytes), is_filling=True)

    async def take_to_send(self, size_bytes: int) -> PartBuffer:
        """A buffer for bytes that are there already; waits until one is free. One that is larger than all of the budget is
        had when no other is being sent."""
        if self._waiters or not self._may_send(size_bytes):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((size_bytes, waiter))
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._sending -= size_bytes
                else:
                    with contextlib.suppress(ValueError):
                        # Passed over already, by who gave memory back in the same moment.
                        self._waiters.remove((size_bytes, waiter))
                self._wake()
                raise
        else:
            self._sending += size_bytes
        return PartBuffer(self, size_bytes, self._memory(size_bytes), is_filling=False)

    def filled(self, size_bytes: int) -> None:
        """A buffer that was being filled is being sent now."""
        self._filling -= size_bytes
        self._sending += size_bytes

    def gave_back(self, data: bytearray, size_bytes: int, *, is_filling: bool) -> None:
        """A buffer is free."""
        if is_filling:
            self._filling -= size_bytes
        else:
            self._sending -= size_bytes
        if len(data) == size_bytes:
            self._spare.append(data)
        if not self.used_bytes:
            self._spare.clear()
        self._wake()

    def _may_send(self, size_bytes: int) -> bool:
        return not self._sending or self.used_bytes + size_bytes <= self._capacity

    def _wake(self) -> None:
        while self._waiters and self._may_send(self._waiters[0][0]):
            size_bytes, waiter = self._waiters.popleft()
            if not waiter.done():
                self._sending += size_bytes
                waiter.set_result(None)

    def _memory(self, size_bytes: int) -> bytearray:
        for at, spare in enumerate(self._spare):
            if len(spare) == size_bytes:
                return self._spare.pop(at)
        self._spare.clear()
        return bytearray(size_bytes)
