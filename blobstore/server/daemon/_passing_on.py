"""Passes requests for operators on to the process that answers them."""

from __future__ import annotations

import aiohttp
from yarl import URL

from blobstore.server.protocol.messages import BodyInterrupted, Request, Response
from blobstore.server.protocol.problems import error_response, problem_response

_BODY_MAX_BYTES = 1024 * 1024
_WAIT_MAX_S = 60.0
_CONNECTIONS_MAX = 16
_ASKED = ("Accept", "Authorization", "Content-Type", "If-None-Match", "Origin")
# What the next sender says anew.
_ANEW = frozenset({
    "connection", "content-length", "date", "keep-alive", "server", "transfer-encoding", "x-content-type-options", "x-request-id",
})  # fmt: skip


class PassingOn:
    """A client of the operator's process, over a socket in the daemon's own directory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._session: aiohttp.ClientSession | None = None

    async def answer(self, request: Request) -> Response:
        """What the other process answers."""
        try:
            body = await _read(request)
        except BodyInterrupted as error:
            return problem_response(error)
        if body is None:
            return error_response(413, "SIZE_INVALID", "the body is too long")
        headers = [(name, value) for name in _ASKED for value in request.headers.every(name)]
        url = URL.build(scheme="http", host="operator", path=request.path, query=list(request.query))
        try:
            async with self._opened().request(
                request.method,
                url,
                headers=[*headers, ("Host", request.host), ("X-Request-Id", request.request_id)],
                data=body or None,
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
                fields = [(name, value) for name, value in answer.headers.items() if name.lower() not in _ANEW]
                if request.method == "HEAD" and "Content-Length" in answer.headers:
                    fields.append(("Content-Length", answer.headers["Content-Length"]))
                return Response(answer.status, fields, content)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return error_response(
                503,
                "UNAVAILABLE",
                "the process that answers operators is just being started",
                headers=[("Retry-After", "1")],
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.UnixConnector(self._path, limit=_CONNECTIONS_MAX)
            timeout = aiohttp.ClientTimeout(total=_WAIT_MAX_S)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self._session

    async def aclose(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()


async def _read(request: Request) -> bytes | None:
    """The whole body; None if it is too long."""
    body = b""
    if request.body is not None:
        async for piece in request.body:
            body += piece
            if len(body) > _BODY_MAX_BYTES:
                return None
    return body
