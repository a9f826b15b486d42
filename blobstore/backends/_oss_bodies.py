"""Bodies on their way to OSS and from it, in threads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from fastcrc import crc64

from blobstore.abc.backend import CHUNK_BYTES
from blobstore.backends._oss_errors import oss_errors
from blobstore.errors import StorageFailed, TransientError
from blobstore.pool import WorkerPool, unstoppable

SEND_BYTES = 256 * 1024
_BATCH_CHUNKS = 4
_WAITING_CHUNKS = 2


class OutgoingStopped(Exception):
    """Nobody waits for this request any more."""


class Outgoing:
    """A body that is sent piece by piece, and that can be stopped between two.

    In pieces, as urllib3 applies the connect timeout to each call that sends, however much it has to send; and as each is summed
    just before, which brings it into the cache for the kernel to copy.
    """

    def __init__(self, pieces: Iterable[memoryview]) -> None:
        self._pieces = list(pieces)
        self._is_stopped = False
        self.crc = crc64.xz(b"")
        """Of what was sent."""

    @property
    def content(self) -> Outgoing | bytes:
        """What requests is to send. An empty iterable it would send in chunks."""
        return self if len(self) else b""

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def __iter__(self) -> Iterator[memoryview]:
        self.crc = crc64.xz(b"")
        for piece in self._pieces:
            for at in range(0, len(piece), SEND_BYTES):
                if self._is_stopped:
                    raise OutgoingStopped
                sent = piece[at : at + SEND_BYTES]
                self.crc = crc64.xz(sent, self.crc)
                yield sent

    def stop(self) -> None:
        """End the request that sends this; its thread ends soon."""
        self._is_stopped = True


class Incoming:
    """A body that threads read ahead of whoever takes it, by a few chunks."""

    def __init__(self, pool: WorkerPool, result: Any, doing: str, size_bytes: int, expected_crc: int | None) -> None:
        self._pool, self._result, self._doing = pool, result, doing
        self._size, self._left, self._expected_crc = size_bytes, size_bytes, expected_crc
        self._crc: int | None = None
        self._reading: asyncio.Future[None] | None = None
        # Chunks; behind those of a batch its error, or nothing.
        self._arrived: asyncio.Queue[bytes | BaseException] = asyncio.Queue()

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, checked before its last chunk is told."""
        told = 0
        self._read_ahead()
        while told < self._size:
            arrived = await self._arrived.get()
            if isinstance(arrived, BaseException):
                raise arrived
            if self._reading is None and self._left and self._arrived.qsize() <= _WAITING_CHUNKS:
                self._read_ahead()
            if arrived:
                told += len(arrived)
                if told == self._size:
                    # Before they are handed on: whoever passes them to a client must not have sent it the whole.
                    self._compare()
                yield arrived
        if not self._size:
            self._compare()

    def _compare(self) -> None:
        if self._expected_crc is not None and self._expected_crc != (self._crc or 0):
            raise StorageFailed(
                f"{self._doing}: the bytes that came have another CRC64 than the server told; read it again"
            )

    async def aclose(self) -> None:
        """Let go of the connection, which is used again if all was read."""
        await unstoppable(self._close())

    async def _close(self) -> None:
        if self._reading is not None:
            self._hang_up()
            await asyncio.wait([self._reading])
        close_result(self._result)

    def _read_ahead(self) -> None:
        if self._left:
            loop = asyncio.get_running_loop()
            self._reading = asyncio.ensure_future(self._pool.run(self._read_batch, loop))
            self._reading.add_done_callback(self._end_batch)

    def _end_batch(self, reading: asyncio.Future[None]) -> None:
        self._reading = None
        error = None if reading.cancelled() else reading.exception()
        self._arrived.put_nowait(error or b"")

    def _read_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Some chunks, each handed over as it comes. Not one a call: it would wait for its thread as long as it takes to come."""
        with oss_errors(self._doing):
            for _ in range(_BATCH_CHUNKS):
                if not self._left:
                    return
                chunk = self._result.read(min(CHUNK_BYTES, self._left))
                if not chunk:
                    raise TransientError(f"{self._doing}: the body ended {self._left} bytes early")
                self._left -= len(chunk)
                if self._expected_crc is not None:
                    self._crc = crc64.xz(chunk) if self._crc is None else crc64.xz(chunk, self._crc)
                loop.call_soon_threadsafe(self._arrived.put_nowait, chunk)

    def _hang_up(self) -> None:
        """Wake a thread that waits for bytes."""
        connection = self._result.resp.response.raw.connection
        sock = getattr(connection, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                # It may be closed already, which is as good.
                sock.shutdown(socket.SHUT_RDWR)


def close_result(result: Any) -> None:
    """Give a connection back, or end it if there is more to come."""
    result.resp.response.close()
