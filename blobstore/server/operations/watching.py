"""Watching: stands between a server and what answers, and tells of each request when it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeAlias

import msgspec

from blobstore.clock import stopwatch_s
from blobstore.errors import BlobstoreError
from blobstore.server.operations.logs import Log, request_id_of
from blobstore.server.protocol.messages import FileSpan, Payload, Request, Response, Stream
from blobstore.server.protocol.observing import Answered, Observation
from blobstore.server.protocol.problems import problem_response
from blobstore.server.protocol.routing import find_route

Answer: TypeAlias = Callable[[Request], Awaitable[Response]]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PREFIXES = {"/api/v1/": "operator", "/metrics": "metrics", "/healthz": "health", "/readyz": "health"}


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A request and what became of it. `sent_bytes` of a file that the kernel sends is what it was asked to send."""

    request: Request
    endpoint: str
    """One of few names, fit for a label."""
    method: str
    """As the request's if it is one that is known, else "other"."""
    status: int
    received_bytes: int
    sent_bytes: int
    seconds: float
    answered: Answered | None
    """What the registry said of it; None for what it wasn't asked."""


class Watcher(Protocol):
    """Takes exchanges that are over; must return quickly and not raise."""

    def began(self) -> None:
        """A request came."""

    def ended(self, exchange: Exchange) -> None:
        """Its answer was sent, as far as it could be."""


class Watch:
    """Wraps what answers, and is among the observers of the registry, to learn who asked.

    A request keeps the id it came with, if that is fit for it, and its answer names it.
    """

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers
        self._answered: dict[int, Answered | None] = {}

    def __call__(self, observation: Observation, /) -> None:
        """One observation; see `Observer`."""
        if isinstance(observation, Answered) and id(observation.request) in self._answered:
            self._answered[id(observation.request)] = observation

    def wrap(self, answer: Answer) -> Answer:
        """The same answers, watched."""

        async def watched(request: Request) -> Response:
            return await self._watch(answer, request)

        return watched

    async def _watch(self, answer: Answer, request: Request) -> Response:
        given = request_id_of(request.headers)
        body = _Counted(aiter(request.body)) if request.body is not None else None
        request = msgspec.structs.replace(request, body=body, request_id=given or request.request_id)
        ending = _Ending(request, body, self._watchers)
        # There while it is answered: others may call the registry beside us.
        self._answered[id(request)] = None
        try:
            response = await answer(request)
        except BaseException:
            # A bug, which the server answers with 500; or the client went, and nobody reads the answer.
            self._answered.pop(id(request))
            ending.end(500, 0)
            raise
        ending.answered = self._answered.pop(id(request))
        return msgspec.structs.replace(
            response,
            payload=ending.watch(response),
            headers=[*response.headers, ("X-Request-Id", request.request_id)],
        )


class _Ending:
    """What is to be told of one request, when it is over."""

    def __init__(self, request: Request, body: _Counted | None, watchers: Sequence[Watcher]) -> None:
        self._request, self._body, self._watchers = request, body, watchers
        self._start_s = stopwatch_s()
        self.answered: Answered | None = None
        for watcher in watchers:
            watcher.began()

    def watch(self, response: Response) -> Payload:
        """The payload of an answer, which tells when it was sent; one that is in memory is as good as sent."""
        payload, status = response.payload, response.status
        if isinstance(payload, FileSpan):
            size_bytes = payload.size_bytes
            return _WatchedSpan(payload.handle, payload.offset, size_bytes, lambda: self.end(status, size_bytes))
        if isinstance(payload, Stream):
            return Stream(
                payload.size_bytes, _counted(payload, lambda sent_bytes: self.end(status, sent_bytes), self.fail)
            )
        self.end(status, len(payload))
        return payload

    def fail(self, error: Exception) -> None:
        """Tell it, of a stream that could not begin: what is sent is the answer to its error."""
        status = problem_response(error).status if isinstance(error, BlobstoreError) else 500
        if self.answered is not None:
            self.answered = msgspec.structs.replace(self.answered, status=status, error=error)
        self.end(status, 0)

    def end(self, status: int, sent_bytes: int) -> None:
        """Tell it."""
        request, answered = self._request, self.answered
        exchange = Exchange(
            request=request,
            endpoint=answered.endpoint if answered is not None else endpoint_of(request.path),
            method=request.method if request.method in _METHODS else "other",
            status=status,
            received_bytes=self._body.size_bytes if self._body is not None else 0,
            sent_bytes=sent_bytes,
            seconds=round(stopwatch_s() - self._start_s, 6),
            answered=answered,
        )
        for watcher in self._watchers:
            watcher.ended(exchange)


_FULL = 507
"""Says all there is to say."""


class AccessLog:
    """A watcher that writes a line for every request, or only for those that failed here, as their clients are told that the log
    says why. Never its query, which may sign something, nor its headers."""

    def __init__(self, log: Log, *, is_whole: bool = True) -> None:
        self._log, self._is_whole = log, is_whole

    def began(self) -> None:
        """See `Watcher.began`."""

    def ended(self, exchange: Exchange) -> None:
        """See `Watcher.ended`."""
        if not self._is_whole and (exchange.status < 500 or exchange.status == _FULL):
            return
        request, answered = exchange.request, exchange.answered
        principal = answered.principal if answered is not None else None
        error = answered.error if answered is not None else None
        tell = self._log.error if exchange.status >= 500 else self._log.info
        tell(
            "request",
            request_id=request.request_id,
            peer=request.peer,
            user=principal.name if principal is not None else None,
            method=request.method,
            path=request.path,
            endpoint=exchange.endpoint,
            status=exchange.status,
            received_bytes=exchange.received_bytes,
            sent_bytes=exchange.sent_bytes,
            seconds=exchange.seconds,
            user_agent=request.headers.get("User-Agent"),
            **({"error": f"{type(error).__name__}: {error}"} if error is not None else {}),
        )


def endpoint_of(path: str) -> str:
    """One of few names, whatever the path."""
    if path.startswith("/v2"):
        return find_route(path).endpoint.value
    return next((name for prefix, name in _PREFIXES.items() if path.startswith(prefix)), "none")


class _Counted:
    """A body that counts what was read of it."""

    __slots__ = ("_chunks", "size_bytes")

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks, self.size_bytes = chunks, 0

    def __aiter__(self) -> _Counted:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._chunks.__anext__()
        self.size_bytes += len(chunk)
        return chunk


class _WatchedSpan(FileSpan, frozen=True):
    """A span whose end is told; whoever has an answer closes it, sent or not."""

    told: Callable[[], None]

    def close(self) -> None:
        """See `FileSpan.close`."""
        super().close()
        self.told()


def _counted(
    stream: Stream, end: Callable[[int], None], fail: Callable[[Exception], None]
) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    @asynccontextmanager
    async def enter() -> AsyncIterator[AsyncIterator[bytes]]:
        counted: _Counted | None = None
        failed: Exception | None = None
        try:
            async with stream.chunks as chunks:
                counted = _Counted(aiter(chunks))
                yield counted
        except Exception as error:
            failed = error
            raise
        finally:
            if counted is None and failed is not None:
                fail(failed)
            else:
                end(counted.size_bytes if counted is not None else 0)

    return enter()
