"""Bodies over HTTP/1.1 from threads: sent from the memory they lie in, read in large pieces, broken off when nobody waits.

On an event loop a body of megabytes is copied into the transport's buffer, and TLS holds the loop (plain asyncio encrypts
140 MiB/s); here `sendall` takes the part's own buffer, and sockets and TLS release the GIL.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import select
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from blobstore.abc.backend import CHUNK_BYTES
from blobstore.backends._read_ahead import ReadAhead
from blobstore.pool import WorkerPool, unstoppable

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

THREADS = 32
SEND_BYTES = 256 * 1024
"""What must be sent within the read time-out."""
_ANSWER_MAX_BYTES = 1024 * 1024
_SPARE_CONNECTIONS_MAX = 32


class HttpRequest(msgspec.Struct, frozen=True):
    """One request; `target` is path and query, quoted."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | bytearray = b""


class HttpAnswer(msgspec.Struct, frozen=True):
    """What was answered; names of headers are in lower case. `body` is empty where it is streamed."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class HttpFailed(Exception):
    """No answer, or half of one: a time-out, a reset, no connection. The request may have taken effect."""


class HttpEndpoint(msgspec.Struct, frozen=True):
    """Whom to connect to, and how long to wait."""

    url: str
    connect_timeout_s: float = 5
    read_timeout_s: float = 60
    ca_bundle: str | None = None


class HttpConnections:
    """Connections to one server, kept for the next request; their threads."""

    def __init__(self, endpoint: HttpEndpoint, threads: int = THREADS) -> None:
        self._endpoint = endpoint
        self._url = urlsplit(endpoint.url)
        assert self._url.hostname, endpoint.url
        self._pool = WorkerPool("http", threads)
        self._spare: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    async def aclose(self) -> None:
        """Close all. Repeatable."""
        await self._pool.aclose()
        while self._spare:
            self._spare.pop().close()

    async def ask(self, make: Callable[[], HttpRequest]) -> HttpAnswer:
        """Send a request, made in the thread that sends it, and read its answer, which is short. Once this ended, cancelled or
        not, nothing uses the body.

        Raises:
            HttpFailed: no whole answer came.
        """
        exchange = _Exchange(self)
        return await self._run(exchange, exchange.ask, make)

    @asynccontextmanager
    async def stream(self, make: Callable[[], HttpRequest]) -> AsyncIterator[tuple[HttpAnswer, AsyncIterator[bytes]]]:
        """Send a request; its answer as far as its head, or whole if it is no success, and the body of a success.

        Raises:
            HttpFailed: no answer came, or (from the chunks) the body broke off.
        """
        exchange = _Exchange(self)
        body = ReadAhead(self._pool, exchange.read, exchange.break_off)
        try:
            answer = await self._run(exchange, exchange.begin, make)
            yield answer, _failing(body.chunks())
        finally:
            await body.stop()
            exchange.end()

    async def _run(
        self, exchange: _Exchange, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run a step in a thread; if the wait is cancelled, the connection is broken off, which ends the thread's step too."""
        running = asyncio.ensure_future(self._pool.run(work, *args, **kwargs))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            exchange.break_off()
            await unstoppable(_settled(running))
            raise
        except ssl.SSLCertVerificationError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise HttpFailed(str(error) or type(error).__name__) from error

    # In threads

    def take(self) -> http.client.HTTPConnection:
        """A connection that is open and silent."""
        while True:
            with self._lock:
                connection = self._spare.pop() if self._spare else None
            if connection is None:
                return self._connect()
            if not _has_ended(connection.sock):
                return connection
            connection.close()

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose answer was read to its end."""
        with self._lock:
            if len(self._spare) < _SPARE_CONNECTIONS_MAX:
                self._spare.append(connection)
                return
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        is_tls = self._url.scheme == "https"
        proxy = None if proxy_bypass(host) else getproxies().get(self._url.scheme)
        at = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        connected_host, connected_port = (at.hostname or "", at.port) if at is not None else (host, port)
        timeout = self._endpoint.connect_timeout_s
        connection = (
            http.client.HTTPSConnection(connected_host, connected_port, timeout=timeout, context=self._tls_context())
            if is_tls
            else http.client.HTTPConnection(connected_host, connected_port, timeout=timeout)
        )
        if at is not None:
            # Through a proxy always as through a wire: what we send is signed as it is.
            connection.set_tunnel(host, port or (443 if is_tls else 80))
        connection.connect()
        connection.sock.settimeout(self._endpoint.read_timeout_s)
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context(cafile=self._endpoint.ca_bundle)
        return self._tls


class _Exchange:
    """One request on one connection; its methods but `break_off` block."""

    def __init__(self, connections: HttpConnections) -> None:
        self._connections = connections
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._left_bytes = 0
        self._is_broken_off = False

    def ask(self, make: Callable[[], HttpRequest]) -> HttpAnswer:
        try:
            answer = self._send(make())
            return msgspec.structs.replace(answer, body=self._body())
        finally:
            self.end()

    def begin(self, make: Callable[[], HttpRequest]) -> HttpAnswer:
        answer = self._send(make())
        if answer.status < 300:
            return answer
        return msgspec.structs.replace(answer, body=self._body())

    def read(self) -> bytes:
        if not self._left_bytes or self._response is None:
            return b""
        chunk = self._response.read(min(CHUNK_BYTES, self._left_bytes))
        if not chunk:
            raise http.client.IncompleteRead(b"", self._left_bytes)
        self._left_bytes -= len(chunk)
        return chunk

    def end(self) -> None:
        """Keep the connection if the answer was read whole. Repeatable."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        response = self._response
        if response is not None and response.isclosed() and not response.will_close and not self._is_broken_off:
            self._connections.give_back(connection)
            return
        if response is not None:
            response.close()
        connection.close()

    def break_off(self) -> None:
        """Let whatever blocks on the connection fail, now."""
        self._is_broken_off = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                # It ended by itself.
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _send(self, request: HttpRequest) -> HttpAnswer:
        connection = self._connection = self._connections.take()
        if self._is_broken_off:
            raise ConnectionAbortedError("cancelled")
        connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        try:
            # Closed also where its error is kept, and with that this frame: the memory is used again.
            with contextlib.closing(_pieces(request.body)) as pieces:
                connection.endheaders(pieces)
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses doesn't read the whole body; its answer may be there.
            if self._is_broken_off:
                raise
        response = self._response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if response.length is None and not response.chunked:
            # http.client takes the end of the connection for the end of the head, too.
            raise http.client.HTTPException("half an answer")
        self._left_bytes = response.length or 0
        return HttpAnswer(response.status, headers)

    def _body(self) -> bytes:
        assert self._response is not None
        return self._response.read(_ANSWER_MAX_BYTES) if self._response.chunked else self._response.read()


def _pieces(body: bytes | bytearray) -> Generator[memoryview, None, None]:
    """One for each call that sends: a socket's time-out is for all that a call sends, and a large part may take longer."""
    with memoryview(body) as view:
        for at in range(0, len(view), SEND_BYTES):
            with view[at : at + SEND_BYTES] as piece:
                yield piece


async def _failing(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise HttpFailed(str(error) or type(error).__name__) from error


async def _settled(running: asyncio.Future[Result]) -> None:
    await asyncio.wait([running])
    if not running.cancelled():
        # It was broken off, so that it failed is no news.
        running.exception()


def _has_ended(sock: socket.socket | None) -> bool:
    """Whether a connection that should be silent is at its end, or says something nobody asked for."""
    if sock is None:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
