"""Requests with credentials, as tests of access control send them."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from blobstore.names import RepositoryName
from blobstore.server.protocol.access import Access, Action, Need, Principal
from blobstore.server.protocol.messages import Headers, Request

PULL, PUSH, DELETE = Action.PULL, Action.PUSH, Action.DELETE
CATALOG = Need(None, frozenset({PULL}))


def need(repository: str, *actions: Action) -> Need:
    """A need of some actions on a repository."""
    return Need(RepositoryName.parse(repository), frozenset(actions))


def basic(user: str, password: str) -> tuple[str, str]:
    """The header field of a name and a password."""
    return "Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def bearer(token: str) -> tuple[str, str]:
    """The header field of a token."""
    return "Authorization", f"Bearer {token}"


def request(*fields: tuple[str, str], method: str = "GET", path: str = "/v2/", peer: str = "192.0.2.1") -> Request:
    """A request with these header fields."""
    return Request(method=method, path=path, headers=Headers(fields), peer=peer)


async def admit(
    access: Access,
    needs: Sequence[Need],
    *fields: tuple[str, str],
    peer: str = "192.0.2.1",
    wishes: Sequence[Need] = (),
) -> Principal:
    """Whom access control takes the sender of these fields for."""
    return await access.admit(request(*fields, peer=peer), needs, wishes)
