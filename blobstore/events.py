"""What a store tells its embedder while it works: small facts, never a way to influence the work."""

from __future__ import annotations

from typing import Protocol

import msgspec

from blobstore.digest import Digest
from blobstore.names import RepositoryName


class BlobPushed(msgspec.Struct, frozen=True):
    """A blob was committed to a repository, or pinned without one."""

    repository: RepositoryName | None
    digest: Digest
    size_bytes: int
    was_present: bool


class ManifestPushed(msgspec.Struct, frozen=True):
    """A manifest was put."""

    repository: RepositoryName
    digest: Digest
    tags: tuple[str, ...]


class BlobFreed(msgspec.Struct, frozen=True):
    """The collector saw a blob's bytes gone from the backend."""

    digest: Digest
    size_bytes: int


class Progress(msgspec.Struct, frozen=True):
    """How far a long piece of work has come; `total` is 0 where it isn't known."""

    phase: str
    done: int
    total: int


class PromiseBroken(msgspec.Struct, frozen=True):
    """A blob was asked for that the index says is here, and its bytes are gone. Never to happen; an `Alarm` says what to do."""

    digest: Digest


class Alarm(msgspec.Struct, frozen=True):
    """Something an operator should know now: damage, or a guard that stopped a collection."""

    text: str


class Waiting(msgspec.Struct, frozen=True):
    """Work waits for something that may take any time, and that an operator may see to meanwhile."""

    text: str


Event = BlobPushed | ManifestPushed | BlobFreed | Progress | PromiseBroken | Alarm | Waiting


class EventSink(Protocol):
    """Takes events; must return quickly and not raise."""

    def __call__(self, event: Event, /) -> None:
        """One event."""


def discard(event: Event, /) -> None:
    """The sink of those who don't listen."""
    del event
