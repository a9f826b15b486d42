"""The connections of a process: how many, how long each may take to ask for something, and how they end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import msgspec
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from blobstore.server.protocol.messages import Response
from blobstore.server.protocol.problems import error_response
from blobstore.server.protocol.registry import API_VERSION
from blobstore.server.protocol.sources import source_of
from blobstore.server.web.application import SERVER_NAME, WebHandler
from blobstore.server.web.proxies import UNIX, TrustedProxies

_LOOK_EVERY_S = 1.0
_ENDED_EVERY_S = 0.02
# What is buffered of a body before its sender has to wait; twice that at most.
READ_BUFFER_BYTES = 64 * 1024
_HEADERS_MAX = 100
_LOG = logging.getLogger("blobstore.server")
_FRAMED = 2
"""By how much a head must be too long to be refused while it comes, when colons and the like are counted, too."""
_QUIET = logging.getLogger("blobstore.server.connections")
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a process grants those that connect."""

    connections_max: int = 2000
    """More wait in the kernel until one ends."""
    connections_per_address_max: int = 500
    """More are closed at once; of IPv6 all of one /64 count as one address. Proxies that are trusted are not counted."""
    header_size_max_bytes: int = 32 * 1024
    header_timeout_s: float = 10
    """For the request line and header fields, from their first byte, and for the first request after connecting."""
    idle_timeout_s: float = 180
    """Longer than clients keep theirs (Go: 90 s), so that they close first, and never send into a connection that is just
    being closed."""
    retire_idle_s: float = 10
    """The same, of a process that another one has replaced."""
    full_idle_s: float = 2
    """The same, while there are as many connections as there may be: those that ask for nothing keep nobody out for long."""


class Connections:
    """All connections of a process, whatever they were accepted on."""

    def __init__(self, limits: ConnectionLimits, proxies: TrustedProxies, on_room: Callable[[], None]) -> None:
        self.limits, self._proxies, self._on_room = limits, proxies, on_room
        self._all: set[Connection] = set()
        self._by_source: Counter[str] = Counter()
        self._idle_s = limits.idle_timeout_s
        self._closes_idle = False

    def __len__(self) -> int:
        return len(self._all)

    def is_full(self, beginning: int = 0) -> bool:
        """Whether no more should be accepted, when so many were that are no connection yet."""
        return len(self._all) + beginning >= self.limits.connections_max

    def admit(self, connection: Connection, address: str) -> bool:
        """Count one more, unless its address has too many."""
        is_free, source = address == UNIX or self._proxies.trusts(address), source_of(address)
        if not is_free and self._by_source[source] >= self.limits.connections_per_address_max:
            return False
        self._all.add(connection)
        self._by_source[source] += 1
        return True

    def release(self, connection: Connection, address: str) -> None:
        """One has ended."""
        if connection in self._all:
            self._all.remove(connection)
            source = source_of(address)
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]
            self._on_room()

    async def watch(self) -> None:
        """Close those that keep us waiting; runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = loop.time()
            idle_s = min(self._idle_s, self.limits.full_idle_s) if self.is_full() else self._idle_s
            for connection in list(self._all):
                if connection.overdue_s(now, idle_s) > 0:
                    connection.cut_off()

    def retire(self) -> None:
        """Another process takes the new ones; those that are idle are given a moment to ask for something, and are told then."""
        self._idle_s = self.limits.retire_idle_s

    async def ended(self, within_s: float) -> bool:
        """Wait until there are none; False if some are left after that time."""
        end = asyncio.get_running_loop().time() + within_s
        while self._all and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(_ENDED_EVERY_S)
            if self._closes_idle:
                self.close_idle()
        return not self._all

    def close_idle(self) -> None:
        """Close those that ask for nothing, now and when they have got what they asked for."""
        self._closes_idle = True
        for connection in list(self._all):
            if connection.is_idle:
                connection.force_close()

    def abort(self) -> None:
        """End all."""
        for connection in list(self._all):
            connection.cut_off()


class Connection(RequestHandler):
    """One connection, which knows since when it waits for what."""

    __slots__ = (
        "_address",
        "_body",
        "_group",
        "_heard_at",
        "_idle_since",
        "_is_busy",
        "_is_first",
        "_is_overlong",
        "_led_to",
        "_unfinished_bytes",
        "_wire",
    )

    def __init__(self, server: web.Server, group: Connections, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self._group, self._address = group, UNIX
        self._is_busy, self._is_first = False, True
        self._idle_since = loop.time()
        self._heard_at: float | None = None
        self._body: StreamReader | None = None
        self._wire: asyncio.WriteTransport | None = None
        self._is_overlong, self._unfinished_bytes = False, 0
        self._led_to: tuple[int, int, bool] = (0, 0, True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it, or not."""
        name = transport.get_extra_info("peername")
        self._address = str(name[0]) if isinstance(name, tuple) and name else UNIX
        self._wire = cast("asyncio.WriteTransport", transport)
        super().connection_made(transport)
        if not self._group.admit(self, self._address):
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone."""
        self._group.release(self, self._address)
        self._wire = None
        super().connection_lost(exc)

    def cut_off(self) -> None:
        """End it now. One that is closed first sends what is buffered, and would be here as long as its client reads nothing."""
        wire = self._wire
        self.force_close()
        if wire is not None and wire.get_write_buffer_size():
            wire.abort()

    def data_received(self, data: bytes) -> None:
        """Note when a request began to come."""
        if self._is_overlong:
            return
        if not self._is_busy and self._heard_at is None:
            self._heard_at = self._loop.time()
        super().data_received(data)
        self._count_unfinished(len(data))
        self._break_body()

    def _count_unfinished(self, size_bytes: int) -> None:
        """Refuse a head that is too long while it comes, and so fields behind a body: aiohttp looks at each field, and at their
        number, which is some MiB together, and many connections would fill the memory."""
        # Of the request that came last, which may wait behind another one.
        coming = self._messages[-1][1] if self._messages else self._body
        led_to = (
            self._request_count,
            coming.total_bytes if isinstance(coming, StreamReader) else 0,
            not isinstance(coming, StreamReader) or coming.is_eof(),
        )
        # What comes while nobody reads is not with the parser yet.
        if led_to != self._led_to or self._reading_paused or self._buffer_paused:
            self._led_to, self._unfinished_bytes = led_to, 0
            return
        self._unfinished_bytes += size_bytes
        if self._unfinished_bytes > _FRAMED * self._group.limits.header_size_max_bytes:
            self._is_overlong = True
            error = LineTooLong(b"", self._group.limits.header_size_max_bytes)
            self._messages.append((_ErrInfo(status=431, exc=error, message=error.message), EMPTY_PAYLOAD))
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    def _break_body(self) -> None:
        """Chunks that are none end the body that is being read: aiohttp keeps that for whoever asks for the next request."""
        if self._body is not None and self._messages:
            last, _ = self._messages[-1]
            if isinstance(last, _ErrInfo) and not self._body.is_eof():
                self._body.set_exception(last.exc)

    def begin(self, request: web.BaseRequest) -> None:
        """A request is here."""
        self._is_busy, self._is_first, self._heard_at = True, False, None
        if request.body_exists:
            self._body = request.content
            # It may be broken already.
            self._break_body()

    def end(self) -> None:
        """It was answered."""
        self._is_busy, self._idle_since, self._body = False, self._loop.time(), None

    @property
    def is_idle(self) -> bool:
        """Whether nothing was asked."""
        return not self._is_busy and self._heard_at is None

    def overdue_s(self, now: float, idle_s: float) -> float:
        """How much longer than it may this keeps us waiting."""
        if self._is_busy:
            return 0
        if self._heard_at is not None:
            return now - self._heard_at - self._group.limits.header_timeout_s
        allowed = min(idle_s, self._group.limits.header_timeout_s) if self._is_first else idle_s
        return now - self._idle_since - allowed

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp refuses by itself, as it can't be parsed; the connection is closed, as nobody knows where it ends."""
        del message
        if status >= 500 and not isinstance(exc, ConnectionError):
            _LOG.error("a request failed: this is a bug", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        answer = error_response(
            status, "UNSUPPORTED" if status < 500 else "UNKNOWN", _said(status, exc), headers=[API_VERSION]
        )
        return _closing(answer)


def _said(status: int, error: BaseException | None) -> str:
    return "this is no HTTP request that can be answered" + (
        f": {type(error).__name__}" if error and status < 500 else ""
    )


def _closing(answer: Response) -> web.StreamResponse:
    assert isinstance(answer.payload, bytes)
    response = web.Response(
        status=answer.status, body=answer.payload, headers=[*answer.headers, ("Server", SERVER_NAME)]
    )
    response.force_close()
    # Said also to what came as HTTP/1.0, or as nothing.
    response.headers["Connection"] = "close"
    return response


class ConnectionServer(web.Server):
    """Makes a `Connection` for each that is accepted."""

    def __init__(self, handler: WebHandler, group: Connections) -> None:
        super().__init__(self._handle)
        self._handler, self._group = handler, group
        size = group.limits.header_size_max_bytes
        self._options: dict[str, Any] = {
            # Ours is looked at once a second for all, not by a timer for each.
            "keepalive_timeout": 7 * 24 * 3600,
            "access_log": None,
            "logger": _QUIET,
            "auto_decompress": False,
            "lingering_time": 0,
            "read_bufsize": READ_BUFFER_BYTES,
            "max_line_size": size,
            "max_field_size": size,
            "max_headers": _HEADERS_MAX,
        }

    def __call__(self) -> RequestHandler:
        """A new connection."""
        return Connection(self, self._group, self._loop, **self._options)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.begin(request)
        try:
            size = sum(len(name) + len(value) for name, value in request.raw_headers) + len(request.raw_path)
            if size > self._group.limits.header_size_max_bytes:
                return _closing(
                    error_response(431, "UNSUPPORTED", "the header fields are too long", headers=[API_VERSION])
                )
            return await self._handler(request)
        finally:
            connection.end()
