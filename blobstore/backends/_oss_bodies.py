"""Bodies on their way to OSS and from it, in threads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastcrc import crc64

from blobstore.abc.backend import CHUNK_BYTES
from blobstore.backends._oss_errors import oss_errors
from blobstore.errors import StorageFailed, TransientError
from blobstore.pool import WorkerPool, unstoppable

SEND_BYTES = 256 * 1024
_BATCH_CHUNKS = 4
_BATCH_S = 0.05


class OutgoingStopped(Exception):
    """Nobody waits for this request any more."""


class Outgoing:
    """A body that is sent piece by piece, and that can be stopped between two.

    In pieces, as urllib3 applies the connect timeout to each call that sends, however much it has to send.
    """

    def __init__(self, data: bytes | bytearray) -> None:
        self._view = memoryview(data)
        self._is_stopped = False

    def __len__(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[memoryview]:
        for at in range(0, len(self._view), SEND_BYTES):
            if self._is_stopped:
                raise OutgoingStopped
            yield self._view[at : at + SEND_BYTES]

    def stop(self) -> None:
        """End the request that sends this; its thread ends soon."""
        self._is_stopped = True


class Incoming:
    """A body that is read ahead in threads by a few chunks."""

    def __init__(self, pool: WorkerPool, result: Any, doing: str, size_bytes: int, expected_crc: int | None) -> None:
        self._pool, self._result, self._doing = pool, result, doing
        self._left, self._expected_crc = size_bytes, expected_crc
        self._crc: int | None = None
        self._ahead: asyncio.Future[list[bytes]] | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, checked at its end."""
        self._read_ahead()
        while self._ahead is not None:
            batch = await asyncio.shield(self._ahead)
            self._ahead = None
            if self._left:
                self._read_ahead()
            for chunk in batch:
                yield chunk
        if self._expected_crc is not None and self._expected_crc != (self._crc or 0):
            raise StorageFailed(
                f"{self._doing}: the bytes that came have another CRC64 than the server told; read it again"
            )

    async def aclose(self) -> None:
        """Let go of the connection, which is used again if all was read."""
        await unstoppable(self._close())

    async def _close(self) -> None:
        if self._ahead is not None:
            self._hang_up()
            await asyncio.wait([self._ahead])
            if not self._ahead.cancelled():
                # Retrieved, so that it is not reported as lost; nobody wants it.
                self._ahead.exception()
        close_result(self._result)

    def _read_ahead(self) -> None:
        self._ahead = asyncio.ensure_future(self._pool.run(self._read_batch))

    def _read_batch(self) -> list[bytes]:
        """Some chunks in one go, as a change of threads costs more than reading one; but none waits long for the next."""
        batch: list[bytes] = []
        until = time.monotonic() + _BATCH_S
        with oss_errors(self._doing):
            while self._left and len(batch) < _BATCH_CHUNKS and (not batch or time.monotonic() < until):
                chunk = self._result.read(min(CHUNK_BYTES, self._left))
                if not chunk:
                    raise TransientError(f"{self._doing}: the body ended {self._left} bytes early")
                self._left -= len(chunk)
                if self._expected_crc is not None:
                    self._crc = crc64.xz(chunk) if self._crc is None else crc64.xz(chunk, self._crc)
                batch.append(chunk)
        return batch

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
