"""Which part of the daemon answers a path."""

from __future__ import annotations

import hmac

from blobstore.server.messages import Request, Response, json_response
from blobstore.server.problems import error_response
from blobstore.server.registry import API_VERSION
from blobstore.server.web import Answer


def is_for_operators(path: str) -> bool:
    """Whether a path belongs to the operator's part, which is never served to everybody."""
    return path.startswith("/api/v1/") or path in ("/api/v1", "/metrics")


class Site:
    """What one listener serves.

    Args:
        registry: answers clients; None where only operators are served.
        health: answers `/healthz` and `/readyz`.
        operator: answers `/metrics` and `/api/v1/`; None where they are not served, and nobody is told that they exist.
        token: what operators have to show.
    """

    def __init__(
        self, *, registry: Answer | None, health: Answer, operator: Answer | None = None, token: str | None = None
    ) -> None:
        self._registry, self._health, self._operator, self._token = registry, health, operator, token

    async def answer(self, request: Request) -> Response:
        """The answer of whoever this path belongs to."""
        path = request.path
        if path.startswith("/v2/") and self._registry is not None:
            return await self._registry(request)
        if path in ("/", "/healthz", "/readyz"):
            return await self._health(request)
        if self._operator is not None and is_for_operators(path):
            if not self._is_operator(request):
                return error_response(
                    401, "UNAUTHORIZED", "a token is needed", headers=[("WWW-Authenticate", "Bearer")]
                )
            return await self._operator(request)
        if self._registry is None:
            return error_response(404, "UNSUPPORTED", "there is nothing here")
        return await self._registry(request)

    def _is_operator(self, request: Request) -> bool:
        if self._token is None:
            return True
        shown = request.headers.get("Authorization") or ""
        scheme, _, token = shown.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token.encode())


async def alive(request: Request) -> Response:
    """`/` and `/healthz`: it serves."""
    if request.method not in ("GET", "HEAD"):
        return error_response(405, "UNSUPPORTED", "only GET", headers=[("Allow", "GET, HEAD"), API_VERSION])
    answer = json_response(200, {"status": "ok"}, [API_VERSION])
    if request.method == "GET":
        return answer
    assert isinstance(answer.payload, bytes)
    return Response(200, [*answer.headers, ("Content-Length", str(len(answer.payload)))])
