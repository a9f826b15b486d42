"""One listener of notifications: a bounded queue in memory, and a task that posts what is in it, in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeAlias

from blobstore.config import read_secret
from blobstore.server.operations.config import EndpointConfig
from blobstore.server.operations.logs import Log
from blobstore.units import parse_duration_s

_BACKOFF_MAX_S = 60.0
_DROPS_TOLD_EVERY_S = 60.0
# A listener that read an event and won't have it; the next one may please it more.
_UNWANTED = frozenset({400, 413, 415, 422})

Post: TypeAlias = Callable[[bytes], Awaitable[int]]


class Tally(Protocol):
    """Counts what became of events."""

    def notified(self, listener: str, outcome: str, waiting: int) -> None:
        """One event of a listener: "queued", "delivered", "failed" (and tried again), "refused" or "dropped"."""


class Listener:
    """One endpoint: its queue, and the task that empties it in order."""

    def __init__(self, config: EndpointConfig, log: Log, tally: Tally | None) -> None:
        self._config, self._log, self._tally = config, log.bind(listener=config.name), tally
        self._timeout_s, self._backoff_s = parse_duration_s(config.timeout), parse_duration_s(config.backoff)
        self._waiting: deque[bytes] = deque()
        self._news, self._emptied = asyncio.Event(), asyncio.Event()
        self._emptied.set()
        self._drops_untold = 0
        self._drops_told_s: float | None = None

    def wants(self, action: str, media_type: str | None) -> bool:
        """Whether it is to be told of such an event."""
        return action not in self._config.ignored_actions and media_type not in self._config.ignored_media_types

    def put(self, envelope: bytes) -> None:
        """Queue an event, or drop it where too many wait: those before it were promised first."""
        if len(self._waiting) >= self._config.queue:
            self._drop()
            return
        self._waiting.append(envelope)
        self._emptied.clear()
        self._news.set()
        self._count("queued")

    async def drain(self, within_s: float) -> None:
        """Wait until all is sent, for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._emptied.wait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sends, as long as this is entered."""
        async with self._client() as post:
            sending = asyncio.create_task(self._send_all(post))
            try:
                yield
            finally:
                sending.cancel()
                await asyncio.wait([sending])
                left = len(self._waiting)
                self._waiting.clear()
                for _ in range(left):
                    self._count("dropped")
                if left:
                    self._log.error("events were not sent before the end", dropped=left)

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[Post]:
        import aiohttp

        config = self._config
        headers = {
            **config.headers,
            "Content-Type": f"application/vnd.docker.distribution.events.{config.media_type}+json",
            "User-Agent": "blobstore",
        }
        if config.authorization_file is not None:
            headers["Authorization"] = read_secret(config.authorization_file)
        async with aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            connector=aiohttp.TCPConnector(limit=1),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:

            async def post(envelope: bytes) -> int:
                # Most redirects would make a GET of it, whose answer says nothing of the event.
                async with session.post(config.url, data=envelope, allow_redirects=False) as response:
                    return response.status

            yield post

    async def _send_all(self, post: Post) -> None:
        while True:
            if not self._waiting:
                self._emptied.set()
                self._news.clear()
                await self._news.wait()
            outcome = await self._send(post, self._waiting[0])
            self._waiting.popleft()
            self._count(outcome)

    async def _send(self, post: Post, envelope: bytes) -> str:
        """Try until it is taken, or clearly unwanted."""
        failures = refusals = 0
        while True:
            status, error = await self._try(post, envelope)
            if status is not None and 200 <= status < 300:
                if failures >= self._config.threshold:
                    self._log.info("a listener takes events again", failures=failures)
                return "delivered"
            failures += 1
            refusals = refusals + 1 if status in _UNWANTED else 0
            self._count("failed")
            if failures == self._config.threshold:
                self._log.warning("a listener takes no events; they wait", error=error, waiting=len(self._waiting))
            if refusals >= self._config.threshold:
                self._log.error("a listener refused an event, which is dropped", error=error)
                return "refused"
            if failures >= self._config.threshold:
                doublings = min(failures - self._config.threshold, 16)
                await asyncio.sleep(min(self._backoff_s * 2**doublings, max(_BACKOFF_MAX_S, self._backoff_s)))

    async def _try(self, post: Post, envelope: bytes) -> tuple[int | None, str]:
        import aiohttp

        try:
            status = await post(envelope)
        except TimeoutError:
            return None, f"no answer within {self._timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return None, f"{type(error).__name__}: {error}"
        return status, f"status {status}"

    def _drop(self) -> None:
        self._count("dropped")
        self._drops_untold += 1
        now_s = asyncio.get_running_loop().time()
        if self._drops_told_s is None or now_s - self._drops_told_s >= _DROPS_TOLD_EVERY_S:
            self._log.error(
                "events are dropped, as too many wait", dropped=self._drops_untold, waiting=len(self._waiting)
            )
            self._drops_told_s, self._drops_untold = now_s, 0

    def _count(self, outcome: str) -> None:
        if self._tally is not None:
            self._tally.notified(self._config.name, outcome, len(self._waiting))
