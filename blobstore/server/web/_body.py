"""The body of a request as it comes in: asked for only when it is read, and never left lying on the connection."""

from __future__ import annotations

import asyncio
from typing import Self

from aiohttp import ClientError, web

from blobstore.server.protocol.messages import BodyInterrupted
from blobstore.server.web.patience import Patience, RateLimits

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# What is read of a body that nobody wants, so that the connection can be used again. More, and it is closed instead.
DRAIN_MAX_BYTES = 256 * 1024
DRAIN_MAX_S = 5.0
# A client that is still sending when its connection is closed may never see the answer (a reset throws it away), so what it
# sends is taken for a while.
LINGER_MAX_BYTES = 64 * 1024 * 1024
LINGER_MAX_S = 5.0


# How much of a body is buffered, at least, before its sender has to wait. A connection comes with less (`READ_BUFFER_BYTES`), as
# many at once would fill the memory. A few get more, as each piece is handed from thread to thread on its way.
WIDE_BUFFER_BYTES = 512 * 1024
WIDE_BODIES_MAX = 4
_WIDE_FROM_BYTES = 1024 * 1024


class Width:
    """Gives the bodies of a process the buffers they get."""

    def __init__(self) -> None:
        self._wide = 0

    def take(self, request: web.BaseRequest) -> bool:
        """Whether this body got a wide one; give it back then."""
        size = request.content_length
        if self._wide >= WIDE_BODIES_MAX or (size is not None and size < _WIDE_FROM_BYTES):
            return False
        # aiohttp sets this once for a connection, when nobody knows yet what it will bring.
        request.content._low_water = WIDE_BUFFER_BYTES  # noqa: SLF001
        request.content._high_water = 2 * WIDE_BUFFER_BYTES  # noqa: SLF001
        self._wide += 1
        return True

    def give_back(self) -> None:
        """That body is over."""
        self._wide -= 1


class Body:
    """Its bytes in the pieces they come in, each at most what a connection buffers; see `Request.body`.

    Raises:
        BodyInterrupted: the client went, was too slow, or sent what is no body.
    """

    def __init__(self, request: web.BaseRequest, limits: RateLimits, *, waits_for_continue: bool) -> None:
        self._request, self._content = request, request.content
        self._patience = Patience(limits)
        self._waits_for_continue = waits_for_continue
        self._received = 0
        self._is_broken = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._next()
        except Exception as error:
            self._is_broken = True
            raise _interruption(error) from error
        if not piece:
            raise StopAsyncIteration
        self._received += len(piece)
        self._patience.moved(len(piece))
        return piece

    async def _next(self) -> bytes:
        piece = self._content.read_nowait()
        if piece or self._content.at_eof():
            return piece
        if self._waits_for_continue:
            self._waits_for_continue = False
            transport = self._request.transport
            if transport is None:
                raise ConnectionResetError
            transport.write(_CONTINUE)
        return await self._patience.wait(self._content.readany())

    @property
    def is_small(self) -> bool:
        """Whether what is left of it may be read to get rid of it: if it is little, and sure to come."""
        if self._content.is_eof():
            return True
        announced = self._request.content_length
        if self._is_broken or self._waits_for_continue or announced is None:
            return False
        return announced - self._received <= DRAIN_MAX_BYTES

    async def drain(self) -> None:
        """Read and forget what is left, up to a limit; the connection can be used again if all of it came."""
        await self._forget(DRAIN_MAX_BYTES, DRAIN_MAX_S)

    async def linger(self) -> None:
        """Say that no more is coming from us, and take what the client is still sending, up to a limit."""
        transport = self._request.transport
        if transport is not None and transport.can_write_eof():
            transport.write_eof()
        await self._forget(LINGER_MAX_BYTES, LINGER_MAX_S)

    async def _forget(self, most_bytes: int, most_s: float) -> None:
        forgotten = 0
        try:
            async with asyncio.timeout(most_s):
                while not self._content.at_eof() and forgotten < most_bytes:
                    forgotten += len(await self._content.readany())
        except Exception:  # noqa: BLE001 - it went, or was no body: then nothing is left to be read
            return


def _interruption(error: Exception) -> BodyInterrupted:
    if isinstance(error, TimeoutError):
        return BodyInterrupted("the body came too slowly; what came of an upload is kept")
    if isinstance(error, (ConnectionError, ClientError)):
        return BodyInterrupted("the client went before its body was whole")
    # The parser's own, of several kinds: chunks without a length, a length that isn't reached.
    return BodyInterrupted(f"the body can't be read: {type(error).__name__}")
