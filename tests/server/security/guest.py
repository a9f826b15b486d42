"""Clients of one registry, each with credentials of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from blobstore.server.protocol.registry import Registry
from tests.server.security.asking import basic
from tests.spec.client import Answer, Body, Client

PASSWORDS = {"alice": "wonder", "bob": "builder", "root": "carrot", "reader": "glasses"}
RIGHTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "team-a/**": {"alice": ("pull", "push", "delete")},
    "team-b/**": {"bob": ("pull", "push", "delete")},
    "shared/**": {"alice": ("pull", "push"), "bob": ("pull", "push"), "reader": ("pull",)},
    "**": {"root": ("*",)},
}
"""Alice and Bob have a team each and share something; Root may do everything; Reader may only look."""


class Guest(Client):
    """A client that shows the same credentials with every request."""

    def __init__(self, registry: Registry, *fields: tuple[str, str]) -> None:
        super().__init__(registry)
        self._fields = fields

    async def ask(
        self,
        method: str,
        url: str,
        body: bytes | Body | None = None,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        sized: bool = True,
        **parameters: str,
    ) -> Answer:
        """See `Client.ask`."""
        fields = list(headers.items() if isinstance(headers, Mapping) else headers)
        return await super().ask(method, url, body, headers=[*fields, *self._fields], sized=sized, **parameters)


class House:
    """A registry with tenants."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.alice, self.bob, self.root, self.reader = (self.guest(user) for user in PASSWORDS)
        self.stranger = Guest(registry)

    def guest(self, user: str) -> Guest:
        """One with a password."""
        return Guest(self.registry, basic(user, PASSWORDS[user]))
