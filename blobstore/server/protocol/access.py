"""Who asks, and what they may: the contract between the registry and what knows its users."""

from __future__ import annotations

import abc
import enum
from collections.abc import Sequence

import msgspec

from blobstore.errors import BlobstoreError
from blobstore.names import RepositoryName
from blobstore.server.protocol.messages import Request


class Action(enum.StrEnum):
    """What may be done with a repository (Docker token scope, its actions)."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"


class Need(msgspec.Struct, frozen=True):
    """What a request asks for: actions on a repository, or the catalog if there is none."""

    repository: RepositoryName | None
    actions: frozenset[Action]


class Principal(msgspec.Struct, frozen=True):
    """Who asks. `name` is None for anybody; `grants` is what its access control wants to remember of it."""

    name: str | None = None
    grants: object = None


ANYBODY = Principal()


class Unauthenticated(BlobstoreError):
    """401: no credentials, or bad ones; `challenge` is the value of `WWW-Authenticate`."""

    def __init__(self, text: str, challenge: str) -> None:
        super().__init__(text)
        self.challenge = challenge


class Forbidden(BlobstoreError):
    """403: known, and not allowed."""


class TooManyRequests(BlobstoreError):
    """429: come back after `retry_after_s`."""

    def __init__(self, text: str, retry_after_s: int) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Access(abc.ABC):
    """Asked for every request before its body is read; nothing is allowed that it doesn't."""

    @abc.abstractmethod
    async def admit(self, request: Request, needs: Sequence[Need], wishes: Sequence[Need] = ()) -> Principal:
        """Who this is, if all `needs` are allowed; without needs, whoever has good credentials (`GET /v2/`).

        `wishes` are what the request would like to do besides, and does without if `may` says no: a mount's pull from its source.
        Nothing is refused for them; a challenge names them, so that a client asks at once for a token that is good for all.

        Raises:
            Unauthenticated, Forbidden, TooManyRequests: as their names say.
        """

    @abc.abstractmethod
    def may(self, principal: Principal, need: Need) -> bool:
        """Whether one that was admitted may do something more: what is mounted from is only what may be pulled."""

    def sees(self, principal: Principal, repository: RepositoryName) -> bool:
        """Whether the catalog names this repository to one that was admitted to it: what may be pulled, unless a right to the
        catalog itself says more (a token with `registry:catalog:*` holds no right to any repository, and sees all names)."""
        return self.may(principal, Need(repository, frozenset({Action.PULL})))

    async def aclose(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of threads; the web side calls this after the last request (the daemon, `create_app` when it is cleaned up)."""


class OpenAccess(Access):
    """Everybody may do everything; for the loopback, and behind somebody else's door."""

    async def admit(self, request: Request, needs: Sequence[Need], wishes: Sequence[Need] = ()) -> Principal:
        """See `Access.admit`."""
        del request, needs, wishes
        return ANYBODY

    def may(self, principal: Principal, need: Need) -> bool:
        """See `Access.may`."""
        del principal, need
        return True
