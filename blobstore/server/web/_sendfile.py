"""Sends part of a file without its bytes passing through this process, on any event loop.

uvloop has no `sendfile`, and that of asyncio sends whole files only through its own transports; so the kernel is asked here, on a
second descriptor of the socket. Encrypted connections and sockets that are files get the bytes through a buffer.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Protocol

from blobstore.pool import WorkerPool
from blobstore.server.protocol.messages import FileSpan
from blobstore.server.web.patience import Patience

# Less is read and written with the head of the answer, in one packet if it fits.
SMALL_MAX_BYTES = 64 * 1024
_PIECE_BYTES = 256 * 1024
# What the kernel is asked for at once; it takes what fits into the socket. The page after that decides who asks next.
_STEP_BYTES = 1024 * 1024
_PROBE = bytearray(1)


class FileTruncated(OSError):
    """A file ended before the span that was to be sent of it."""


class _Transport(Protocol):
    """What is needed of a connection."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        """The socket, whether it is encrypted."""

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""


def plain_socket(transport: asyncio.Transport) -> socket.socket | None:
    """The socket below a connection, if the kernel may write to it by itself."""
    if transport.get_extra_info("sslcontext") is not None:
        return None
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return found  # type: ignore[no-any-return] # uvloop has a class of its own with the same methods


async def read_span(pool: WorkerPool, span: FileSpan, offset: int, size_bytes: int) -> bytes:
    """Bytes of a span: at once if the kernel has them in memory, else by a thread."""
    try:
        piece = bytearray(size_bytes)
        found = os.preadv(span.handle, [piece], span.offset + offset, os.RWF_NOWAIT)
        if found == size_bytes:
            return bytes(piece)
    except OSError:
        # Not in memory, or a file system that can't tell.
        pass
    data = await pool.finish(os.pread, span.handle, size_bytes, span.offset + offset)
    if len(data) < size_bytes:
        raise FileTruncated(f"the file has {size_bytes - len(data)} bytes less than it should")
    return data


async def send_by_kernel(
    pool: WorkerPool, transport: _Transport, out: socket.socket, span: FileSpan, patience: Patience
) -> None:
    """Send the span; nothing may be waiting in the transport's own buffer.

    Raises:
        ConnectionError: the client went.
        TimeoutError: it was too slow.
        FileTruncated: the file is shorter than it should be.
    """
    descriptor = os.dup(out.fileno())
    try:
        os.posix_fadvise(span.handle, span.offset, span.size_bytes, os.POSIX_FADV_SEQUENTIAL)
        await _Pump(pool, transport, descriptor, span, patience).run()
    finally:
        os.close(descriptor)


class _Pump:
    """One span on its way; called by the loop whenever the socket takes more."""

    def __init__(self, pool: WorkerPool, transport: _Transport, out: int, span: FileSpan, patience: Patience) -> None:
        self._pool, self._transport, self._out, self._handle = pool, transport, out, span.handle
        self._offset, self._end = span.offset, span.offset + span.size_bytes
        self._patience = patience
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Until all is sent."""
        while self._offset < self._end:
            await self._send_what_is_in_memory()
            if self._offset < self._end:
                # The disk would stop the whole loop.
                self._sent(await self._pool.finish(self._send))

    async def _send_what_is_in_memory(self) -> None:
        """Called back while the socket is writable and the file is in memory."""
        done = self._loop.create_future()
        self._loop.add_writer(self._out, self._step, done)
        try:
            while not done.done():
                before = self._offset
                try:
                    await self._patience.wait(asyncio.shield(done))
                except TimeoutError:
                    if self._offset == before:
                        raise
        finally:
            self._loop.remove_writer(self._out)

    def _step(self, done: asyncio.Future[None]) -> None:
        if done.done():
            return
        if self._transport.is_closing():
            done.set_exception(ConnectionResetError("the client went"))
            return
        try:
            if self._is_in_memory():
                self._sent(self._send())
        except Exception as error:  # noqa: BLE001 - it is raised where the future is awaited
            done.set_exception(error)
            return
        if self._offset >= self._end or not self._is_in_memory():
            done.set_result(None)

    def _send(self) -> int:
        try:
            sent = os.sendfile(self._out, self._handle, self._offset, min(_STEP_BYTES, self._end - self._offset))
        except (BlockingIOError, InterruptedError):
            return -1
        if sent == 0:
            raise FileTruncated(f"the file has {self._end - self._offset} bytes less than it should")
        return sent

    def _sent(self, size_bytes: int) -> None:
        if size_bytes > 0:
            self._offset += size_bytes
            self._patience.moved(size_bytes)

    def _is_in_memory(self) -> bool:
        """Whether the kernel has the next piece, both ends of it: the disk would make everybody wait."""
        last = min(self._offset + _STEP_BYTES, self._end) - 1
        try:
            return bool(
                os.preadv(self._handle, [_PROBE], self._offset, os.RWF_NOWAIT)
                and os.preadv(self._handle, [_PROBE], last, os.RWF_NOWAIT)
            )
        except OSError:
            # Not there, or a file system that can't tell.
            return False
