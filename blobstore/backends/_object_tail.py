"""The bytes of an upload that are no whole part yet: in memory where the budget allows it, else in a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from blobstore.backends._multipart import PartBudget, PartBuffer
from blobstore.backends._object_client import ObjectClient
from blobstore.backends._spool import UploadSpool
from blobstore.pool import WorkerPool


class UploadTools(msgspec.Struct, frozen=True):
    """What all uploads of a store share."""

    client: ObjectClient
    pool: WorkerPool
    budget: PartBudget
    prefix: str
    data_prefix: str
    part_bytes: int
    creates_once: Callable[[], Awaitable[bool]]
    """Whether the server refuses to put what is there already."""


class Tail:
    """Grows to a part, then is taken to be sent."""

    def __init__(self, tools: UploadTools, spool: UploadSpool) -> None:
        self._tools, self._spool = tools, spool
        self._buffer: PartBuffer | None = None
        self.size_bytes = 0

    async def append(self, data: memoryview, part_bytes: int) -> None:
        """More bytes, which together with the others are no more than a part."""
        if not self.size_bytes and self._buffer is None:
            in_pieces = self._tools.client.takes_pieces
            self._buffer = self._tools.budget.try_fill(part_bytes, in_pieces=in_pieces)
        if self._buffer is None:
            await self._tools.pool.finish(self._spool.write, data, self.size_bytes)
        elif self._buffer.pieces is not None:
            self._buffer.pieces.append(data)
        else:
            self._buffer.data[self.size_bytes : self.size_bytes + len(data)] = data
        self.size_bytes += len(data)

    async def take(self) -> PartBuffer:
        """All bytes, in a buffer of their size; the tail is empty after. Cancelled, it is as before."""
        buffer = self._buffer
        if buffer is None:
            buffer = await self._from_file()
        else:
            buffer.begin_sending()
            del buffer.data[self.size_bytes :]
        self._buffer, self.size_bytes = None, 0
        return buffer

    async def _from_file(self) -> PartBuffer:
        buffer = await self._tools.budget.take_to_send(self.size_bytes)
        try:
            await self._tools.pool.finish(self._spool.read_into, memoryview(buffer.data), 0)
        except BaseException:
            buffer.release()
            raise
        return buffer

    async def read(self, start: int, stop: int) -> bytes:
        """Some of the bytes."""
        if self._buffer is not None and self._buffer.pieces is not None:
            return self._buffer.pieces.read(start, stop)
        if self._buffer is not None:
            return bytes(memoryview(self._buffer.data)[start:stop])
        found = bytearray(stop - start)
        await self._tools.pool.finish(self._spool.read_into, memoryview(found), start)
        return bytes(found)

    def cut(self, kept_bytes: int) -> None:
        """Forget the bytes behind the first ones."""
        assert kept_bytes <= self.size_bytes, kept_bytes
        self.size_bytes = kept_bytes
        if self._buffer is None:
            return
        if not kept_bytes:
            self._buffer.release()
            self._buffer = None
        elif self._buffer.pieces is not None:
            self._buffer.pieces.cut(kept_bytes)

    def view(self) -> memoryview | None:
        """The bytes, if they are in memory."""
        if self._buffer is not None and self._buffer.pieces is not None:
            return memoryview(self._buffer.pieces.joined())
        if self._buffer is not None or not self.size_bytes:
            return memoryview(self._buffer.data if self._buffer is not None else b"")[: self.size_bytes]
        return None
