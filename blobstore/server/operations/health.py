"""Health: whether the daemon serves, and whether storage and index answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from blobstore.errors import BlobstoreError
from blobstore.layout import MARKER_KEY
from blobstore.server.operations.logs import Log, no_log
from blobstore.server.protocol.messages import Request, Response, json_response
from blobstore.server.protocol.problems import error_response
from blobstore.store import Store

CHECK_WITHIN_S = 5.0
"""How long one check may take before what it asks counts as gone."""
_FRESH_MS = 1000
_METHODS = ("GET", "HEAD")
_API_VERSION = ("Docker-Distribution-API-Version", "registry/2.0")

Check = Callable[[], Awaitable[object]]


class Health:
    """Answers `/`, `/healthz` and `/readyz`. Anybody may ask: it says little, and looks at most once a second.

    Args:
        store: an open store.
        check_within_s: see `CHECK_WITHIN_S`.
        log: is told why something isn't ready, which the answer doesn't say.
    """

    def __init__(self, store: Store, *, check_within_s: float = CHECK_WITHIN_S, log: Log | None = None) -> None:
        self._clock, self._within_s, self._log = store.parts.clock, check_within_s, log or no_log()
        # The marker is read anew: that the storage answers is no proof that it is still this store's.
        self._checks: Mapping[str, Check] = {
            "backend": lambda: store.backend.stat(MARKER_KEY),
            "index": store.index.identity,
        }
        self._is_draining = False
        self._looking: asyncio.Task[Mapping[str, str]] | None = None
        self._looked_ms = 0

    def begin_draining(self) -> None:
        """From now on it isn't ready: a balancer sends its requests elsewhere, and those under way are answered."""
        self._is_draining = True

    async def answer(self, request: Request) -> Response:
        """Answer a request for one of its paths."""
        if request.path not in ("/", "/healthz", "/readyz"):
            return error_response(404, "UNSUPPORTED", "there is nothing here")
        if request.method not in _METHODS:
            return error_response(405, "UNSUPPORTED", "only GET", headers=[("Allow", ", ".join(_METHODS))])
        answer = await self._ready() if request.path == "/readyz" else json_response(200, {"status": "ok"}, _FIELDS)
        return without_payload(answer) if request.method == "HEAD" else answer

    async def _ready(self) -> Response:
        checks = {**await self._look(), **({"process": "stopping"} if self._is_draining else {})}
        is_ready = all(state == "ok" for state in checks.values())
        document = {"status": "ok" if is_ready else "unavailable", "checks": checks}
        return json_response(200 if is_ready else 503, document, _FIELDS)

    async def _look(self) -> Mapping[str, str]:
        """One look for all who ask within a second; who leaves doesn't end it for the others."""
        now_ms = self._clock.monotonic_ms()
        looking = self._looking
        if looking is None or (looking.done() and now_ms - self._looked_ms >= _FRESH_MS):
            looking = self._looking = asyncio.create_task(self._check_all())
            self._looked_ms = now_ms
        return await asyncio.shield(looking)

    async def _check_all(self) -> Mapping[str, str]:
        found = await asyncio.gather(*(self._check(name, check) for name, check in self._checks.items()))
        return dict(zip(self._checks, found, strict=True))

    async def _check(self, name: str, check: Check) -> str:
        try:
            async with asyncio.timeout(self._within_s):
                await check()
        except TimeoutError:
            self._log.error("not ready", what=name, error=f"no answer within {self._within_s:g} s")
            return "timeout"
        except (BlobstoreError, OSError) as error:
            self._log.error("not ready", what=name, error=f"{type(error).__name__}: {error}")
            return "failed"
        return "ok"


_FIELDS = [("Cache-Control", "no-store"), _API_VERSION]


def without_payload(answer: Response) -> Response:
    """An answer to HEAD: as that to GET, which says how long its payload would be."""
    assert isinstance(answer.payload, bytes)
    return Response(answer.status, [*answer.headers, ("Content-Length", str(len(answer.payload)))])
