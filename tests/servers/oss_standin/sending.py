"""Bodies on their way out: a range of an object, and what faults do to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from tests.servers.oss_standin.storage import Version

_HEAD_BYTES = 4096
_CHUNK_BYTES = 1024 * 1024
_WATCH_S = 0.02


@dataclass
class Stream:
    """An answer whose body is a range of an object."""

    version: Version
    start: int
    stop: int
    status: int
    headers: dict[str, str]


async def send(request: web.Request, stream: Stream, fault: str) -> web.StreamResponse:
    """Send it, harmed as `fault` says."""
    response = web.StreamResponse(status=stream.status, headers=stream.headers)
    response.content_length = stream.stop - stream.start
    await response.prepare(request)
    is_cut = fault in ("cut", "stall")
    stop = (stream.start + stream.stop) // 2 if is_cut else stream.stop
    for body, first, last in stream.version.pieces(stream.start, stop):
        at = first
        # What goes through aiohttp takes its head along; the kernel sends the rest of a file.
        while at < last:
            size = _HEAD_BYTES if body.file is not None else _CHUNK_BYTES
            data = body.read(at, min(last, at + size))
            await response.write(bytes([data[0] ^ 1]) + data[1:] if fault == "garble" else data)
            at += len(data)
            if body.file is not None and request.transport is not None and at < last:
                await asyncio.get_running_loop().sendfile(request.transport, body.file, at, last - at)
                at = last
    if is_cut and request.transport is not None:
        while fault == "stall" and not request.transport.is_closing():
            await asyncio.sleep(_WATCH_S)
        # What was written must have left before the connection goes, as it would on a network.
        await asyncio.sleep(_WATCH_S)
        request.transport.abort()
        return response
    await response.write_eof()
    return response
