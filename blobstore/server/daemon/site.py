"""Which part of the daemon answers a path."""

from __future__ import annotations

import hmac
import ipaddress

from blobstore.server.protocol.messages import Request, Response
from blobstore.server.protocol.problems import error_response
from blobstore.server.web.application import Answer
from blobstore.server.web.proxies import UNIX

_SIGNS_OF_A_PROXY = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
_ONLY_FROM_HERE = (
    "without server.operator_token_file this is only for programs of this machine that ask for 127.0.0.1 or localhost "
    "themselves, not through a proxy or a browser"
)

_NOT_FOR_PAGES = (
    "without server.auth this registry is for programs of this machine, not for web pages in a browser (Origin, Sec-Fetch-Site); "
    "set server.auth, name the proxy in front in server.trusted_proxies, or say --insecure-open"
)


def is_for_operators(path: str) -> bool:
    """Whether a path belongs to the operator's part, which is never served to everybody."""
    return path.startswith("/api/v1/") or path in ("/api/v1", "/metrics")


class Site:
    """What one listener serves.

    Args:
        registry: answers clients; None where only operators are served.
        health: answers `/healthz` and `/readyz`.
        operator: answers `/metrics` and `/api/v1/`; None where they are not served, and nobody is told that they exist.
        token: what operators have to show; without one they have to come from this machine.
        is_internal: whether all that comes was let in already, by another process of this daemon.
        refuses_pages: whether the registry is open as only this machine can reach it: a browser there lets web pages ask, too.
    """

    def __init__(
        self,
        *,
        registry: Answer | None,
        health: Answer,
        operator: Answer | None = None,
        token: str | None = None,
        is_internal: bool = False,
        refuses_pages: bool = False,
    ) -> None:
        self._registry, self._health, self._operator = registry, health, operator
        self._token, self._is_internal, self._refuses_pages = token, is_internal, refuses_pages

    async def answer(self, request: Request) -> Response:
        """The answer of whoever this path belongs to."""
        path = request.path
        if path.startswith("/v2/") and self._registry is not None:
            return await self._answer_client(request, self._registry)
        if path in ("/", "/healthz", "/readyz"):
            return await self._health(request)
        if self._operator is not None and is_for_operators(path):
            return self._refused(request) or await self._operator(request)
        if self._registry is None:
            return error_response(404, "UNSUPPORTED", "there is nothing here")
        return await self._answer_client(request, self._registry)

    async def _answer_client(self, request: Request, registry: Answer) -> Response:
        if self._refuses_pages and _is_of_a_page(request):
            return error_response(403, "DENIED", _NOT_FOR_PAGES)
        return await registry(request)

    def _refused(self, request: Request) -> Response | None:
        """The answer to who is no operator."""
        if self._is_internal or (self._token is not None and self._shows_token(request, self._token)):
            return None
        if self._token is not None:
            return error_response(401, "UNAUTHORIZED", "a token is needed", headers=[("WWW-Authenticate", "Bearer")])
        if not comes_from_here(request):
            return error_response(403, "DENIED", _ONLY_FROM_HERE)
        return None

    def _shows_token(self, request: Request, token: str) -> bool:
        shown = request.headers.get("Authorization") or ""
        scheme, _, text = shown.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(text.strip().encode(), token.encode())


def comes_from_here(request: Request) -> bool:
    """Whether a program of this machine asks, for itself. What a proxy brings comes from elsewhere; what a browser sends may be
    a web page's doing, which also reaches us by a name of its own that it has made to mean this address."""
    if request.peer != UNIX and not _is_loopback(request.peer):
        return False
    headers = request.headers
    if any(headers.get(name) is not None for name in _SIGNS_OF_A_PROXY) or _is_of_a_page(request):
        return False
    host = (headers.get("Host") or "localhost").lower()
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return request.peer == UNIX or name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_of_a_page(request: Request) -> bool:
    """Whether a browser says that it asks for a page, as it does whenever that wants to change something."""
    headers = request.headers
    return headers.get("Origin") is not None or headers.get("Sec-Fetch-Site") not in (None, "none", "same-origin")


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
