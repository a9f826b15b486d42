"""Access control for tests: what it was asked, and what it says."""

from __future__ import annotations

from collections.abc import Sequence

from blobstore.errors import BlobstoreError
from blobstore.server.protocol.access import ANYBODY, Access, Action, Need, Principal
from blobstore.server.protocol.messages import Request


class Granted(Access):
    """Admits everybody as `principal`, or raises `refusal`; may do what `rights` say, anything without."""

    def __init__(self, rights: dict[str, set[Action]] | None = None) -> None:
        self.rights = rights
        self.principal: Principal = ANYBODY
        self.refusal: BlobstoreError | None = None
        self.asked: list[tuple[Sequence[Need], Sequence[Need]]] = []

    async def admit(self, request: Request, needs: Sequence[Need], wishes: Sequence[Need] = ()) -> Principal:
        del request
        self.asked.append((needs, wishes))
        if self.refusal is not None:
            raise self.refusal
        return self.principal

    def may(self, principal: Principal, need: Need) -> bool:
        assert principal == self.principal
        assert need.repository is not None
        return self.rights is None or need.actions <= self.rights.get(need.repository, set())
