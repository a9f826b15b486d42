"""The registry behind aiohttp: its requests made ours, our answers sent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from aiohttp import web

from blobstore.errors import BlobstoreError
from blobstore.pool import WorkerPool
from blobstore.server.protocol.messages import FileSpan, Headers, Request, Response, Stream
from blobstore.server.protocol.problems import error_response, problem_response
from blobstore.server.web._body import Body, Width
from blobstore.server.web._sendfile import SMALL_MAX_BYTES, plain_socket, read_span, send_by_kernel
from blobstore.server.web.patience import Patience, RateLimits
from blobstore.server.web.proxies import UNIX, Client, TrustedProxies, is_host

Answer: TypeAlias = Callable[[Request], Awaitable[Response]]

_LOG = logging.getLogger("blobstore.server")

SERVER_NAME = "blobstore"
QUERY_FIELDS_MAX = 1000
_PIECE_BYTES = 256 * 1024
# Fits with its head into what a transport buffers before it has its writer wait.
_BUFFERED_MAX_BYTES = 32 * 1024
_READ_THREADS = 8
# What an answer says whatever becomes of it.
_OF_EVERY_ANSWER = frozenset({"docker-distribution-api-version", "x-request-id"})


class WebSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the adapter is told of the world outside."""

    rates: RateLimits = RateLimits()
    proxies: TrustedProxies = TrustedProxies()


class _Malformed(Exception):
    """A request that can't be made ours; the text is for the client."""


class WebHandler:
    """Calls `answer` for each request of a server or an application of aiohttp, and sends what it says.

    What the client is told is whole before this returns, so that whoever waits for `tasks` has waited for all. A client that goes
    ends the reading of its body and the sending of its answer at once; what is between the two, a commit, is brought to its end.
    """

    def __init__(self, answer: Answer, settings: WebSettings | None = None) -> None:
        self._answer, self._settings = answer, settings or WebSettings()
        self._pool = WorkerPool("send", _READ_THREADS)
        self._width = Width()
        self._ids = (f"{secrets.token_hex(6)}-{number:x}" for number in itertools.count(1))
        self.tasks: set[asyncio.Task[object]] = set()
        self.is_closing = False

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        is_wide = request.body_exists and self._width.take(request)
        try:
            return await self._serve(request)
        finally:
            self.tasks.discard(task)
            if is_wide:
                self._width.give_back()

    async def aclose(self) -> None:
        """End the threads."""
        await self._pool.aclose()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body: Body | None = None
        try:
            headers = Headers(_readable(request))
            if request.body_exists:
                waits = _expects_continue(headers, request)
                body = Body(request, self._settings.rates, waits_for_continue=waits)
            asked = self._request(request, headers, body)
        except _Malformed as error:
            answer = error_response(400, "UNSUPPORTED", str(error))
        else:
            answer = await self._answered(asked)
        async with contextlib.AsyncExitStack() as stack:
            answer, chunks = await _enter(stack, answer)
            return await self._send(request, answer, chunks, body)

    async def _answered(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except Exception as error:  # noqa: BLE001 - a bug must not end the connection without a word
            _LOG.error("request %s failed: this is a bug", request.request_id, exc_info=error)
            return error_response(
                500, "UNKNOWN", f"this is a bug in the registry; its log says more ({request.request_id})"
            )

    def _request(self, request: web.BaseRequest, headers: Headers, body: Body | None) -> Request:
        path, query = _target(request.raw_path)
        hosts = headers.every("Host")
        if len(hosts) > 1 or (not hosts and request.version >= (1, 1)) or (hosts and not is_host(hosts[0])):
            raise _Malformed("a request needs one Host header that names a host")
        peer = _peer(request)
        direct = Client(request.scheme, hosts[0] if hosts else "localhost", peer)
        client = self._settings.proxies.client(direct, headers)
        return Request(
            method=request.method,
            path=path,
            query=query,
            headers=headers,
            body=body,
            size_bytes=request.content_length if body is not None else None,
            scheme=client.scheme,
            host=client.host,
            peer=client.peer,
            request_id=next(self._ids),
        )

    # Sending

    async def _send(
        self, request: web.BaseRequest, answer: Response, chunks: AsyncIterator[bytes] | None, body: Body | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=_fields(answer))
        can_stay = body is None or body.is_small
        if not can_stay or self.is_closing or _asks_for_another_protocol(request):
            response.force_close()
        try:
            await self._send_payload(request, response, answer, chunks)
        except TimeoutError as error:
            _abort(request)
            raise ConnectionResetError("the client took its answer too slowly") from error
        except ConnectionError:
            raise
        except Exception as error:
            # The status is out: all that can be said is that this was not the whole.
            _abort(request)
            _LOG.error("an answer broke off", exc_info=error)
            raise ConnectionResetError("the answer broke off") from error
        if body is not None:
            await (body.drain() if can_stay else body.linger())
        return response

    async def _send_payload(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        answer: Response,
        chunks: AsyncIterator[bytes] | None,
    ) -> None:
        payload, patience = answer.payload, Patience(self._settings.rates)
        await response.prepare(request)
        if request.method == "HEAD" or isinstance(payload, bytes):
            whole = payload if isinstance(payload, bytes) and request.method != "HEAD" else b""
            await self._send_whole(request, response, whole, patience)
            return
        if isinstance(payload, FileSpan):
            await self._send_span(request, response, payload, patience)
        else:
            assert chunks is not None
            async for chunk in chunks:
                patience.moved(len(chunk))
                await patience.wait(response.write(chunk))
            await response.write_eof()

    async def _send_whole(
        self, request: web.BaseRequest, response: web.StreamResponse, payload: bytes, patience: Patience
    ) -> None:
        """In pieces, as a client may be slow: each is waited for by itself."""
        transport = request.transport
        if transport is not None and len(payload) <= _BUFFERED_MAX_BYTES and not transport.get_write_buffer_size():
            # Most answers are small, and go into an empty buffer without anybody waiting.
            await response.write_eof(payload)
            return
        last = max(0, len(payload) - 1) // _PIECE_BYTES * _PIECE_BYTES
        for offset in range(0, last, _PIECE_BYTES):
            patience.moved(_PIECE_BYTES)
            await patience.wait(response.write(payload[offset : offset + _PIECE_BYTES]))
        patience.moved(len(payload) - last)
        await patience.wait(response.write_eof(payload[last:]))

    async def _send_span(
        self, request: web.BaseRequest, response: web.StreamResponse, span: FileSpan, patience: Patience
    ) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went")
        out = plain_socket(transport) if span.size_bytes > SMALL_MAX_BYTES else None
        if out is not None:
            request.writer.send_headers()
            await patience.wait(_flushed(transport, request))
            await send_by_kernel(self._pool, transport, out, span, patience)
            # The transport knows nothing of what was sent beside it, and its writer counts.
            request.writer.length = None
            await response.write_eof()
            return
        for offset in range(0, span.size_bytes, _PIECE_BYTES):
            size = min(_PIECE_BYTES, span.size_bytes - offset)
            piece = await read_span(self._pool, span, offset, size)
            patience.moved(size)
            await patience.wait(response.write(piece))
        await response.write_eof()


def create_application(answer: Answer, settings: WebSettings | None = None) -> web.Application:
    """An application with one route, to be mounted or run by itself. Whoever runs it sees to the limits of connections."""
    handler = WebHandler(_taking_plain_bodies(answer), settings)
    application = web.Application()

    async def serve(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    async def close(_: web.Application) -> None:
        await handler.aclose()

    application.router.add_route("*", "/{path:.*}", serve, expect_handler=_leave_to_the_body)
    application.on_cleanup.append(close)
    return application


def _taking_plain_bodies(answer: Answer) -> Answer:
    """Servers of aiohttp decompress bodies unless they are told not to: a blob would not be what its client has hashed, and a few
    bytes could fill a disk."""

    async def plain(request: Request) -> Response:
        encoding = request.headers.get("Content-Encoding")
        if encoding is not None and encoding.strip().lower() != "identity":
            return error_response(415, "UNSUPPORTED", "bodies are taken as they are, not with a Content-Encoding")
        return await answer(request)

    return plain


async def _leave_to_the_body(_: web.Request) -> None:
    """`100 Continue` is said when the body is first read, so that a refusal comes before it."""


# Reading


def _readable(request: web.BaseRequest) -> Iterator[tuple[str, str]]:
    """The header fields. What is no UTF-8 is replaced: as it comes, nobody further in could write it into a document."""
    for name, value in request.headers.items():
        yield name, value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _target(raw: str) -> tuple[str, list[tuple[str, str]]]:
    """Path and query of a request line. Decoded once: what was encoded twice stays encoded once."""
    if not raw.startswith("/"):
        scheme, slashes, rest = raw.partition("://")
        if not slashes or scheme.lower() not in ("http", "https"):
            return raw, []
        raw = "/" + rest.partition("/")[2]
    path, _, query = raw.partition("#")[0].partition("?")
    if "%2f" in path.lower():
        # No name has one, and whoever stands in front may have read the path, and judged it, without this slash.
        raise _Malformed("the path has an encoded slash")
    try:
        if "%" in path:
            path = unquote_to_bytes(path).decode()
        fields = (
            parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX, errors="strict") if query else []
        )
    except ValueError as error:
        raise _Malformed("the path or the query is not UTF-8, or the query has too many fields") from error
    return path, fields


def _expects_continue(headers: Headers, request: web.BaseRequest) -> bool:
    expected = headers.get("Expect")
    if expected is None:
        return False
    if expected.lower() != "100-continue":
        raise _Malformed("only 100-continue can be expected")
    return request.version >= (1, 1) and not request.content.total_bytes


def _asks_for_another_protocol(request: web.BaseRequest) -> bool:
    """It gets none. The parser forgets what came in one packet behind such a request: whoever sent it must not take the answer to
    the one after that for its own."""
    return request.method == "CONNECT" or "Upgrade" in request.headers


def _peer(request: web.BaseRequest) -> str:
    name = request.transport.get_extra_info("peername") if request.transport is not None else None
    return str(name[0]) if isinstance(name, tuple) and name else UNIX


# Sending


async def _enter(stack: contextlib.AsyncExitStack, answer: Response) -> tuple[Response, AsyncIterator[bytes] | None]:
    """Begin to make a payload before its status is sent: what goes wrong now still has an answer."""
    payload = answer.payload
    if isinstance(payload, FileSpan):
        stack.callback(payload.close)
    if not isinstance(payload, Stream):
        return answer, None
    try:
        return answer, await stack.enter_async_context(payload.chunks)
    except BlobstoreError as error:
        found = problem_response(error)
    except Exception as error:  # noqa: BLE001 - a bug must not end the connection without a word
        _LOG.error("an answer could not begin: this is a bug", exc_info=error)
        found = error_response(500, "UNKNOWN", "this is a bug in the registry; its log says more")
    kept = [(name, value) for name, value in answer.headers if name.lower() in _OF_EVERY_ANSWER]
    return Response(found.status, [*kept, *found.headers], found.payload), None


def _fields(answer: Response) -> list[tuple[str, str]]:
    fields = list(answer.headers)
    names = {name.lower() for name, _ in fields}
    if "server" not in names:
        fields.append(("Server", SERVER_NAME))
    # A browser that guesses types could take somebody's layer for a page of ours.
    fields.append(("X-Content-Type-Options", "nosniff"))
    if "content-length" not in names and answer.status >= 200 and answer.status not in (204, 304):
        payload = answer.payload
        size = len(payload) if isinstance(payload, bytes) else payload.size_bytes
        fields.append(("Content-Length", str(size)))
    return fields


async def _flushed(transport: asyncio.Transport, request: web.BaseRequest) -> None:
    """Wait until the kernel has all that was written, which uvloop hands over only at the end of a turn."""
    await asyncio.sleep(0)
    if transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)
        try:
            while transport.get_write_buffer_size():
                await request.protocol._drain_helper()  # noqa: SLF001 - aiohttp has no other way to wait for this
                await asyncio.sleep(0)
        finally:
            transport.set_write_buffer_limits()


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
