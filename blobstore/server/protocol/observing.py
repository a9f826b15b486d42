"""What the registry tells of its work: for audit lines, notifications and metrics, never a way to influence it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from blobstore.digest import Digest
from blobstore.names import RepositoryName, TagName
from blobstore.server.protocol.access import Principal
from blobstore.server.protocol.messages import Request


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    request: Request
    principal: Principal
    repository: RepositoryName


class BlobPushed(_Told, frozen=True, kw_only=True):
    """A blob was uploaded; `digest` is the one the client named."""

    digest: Digest
    size_bytes: int


class BlobMounted(_Told, frozen=True, kw_only=True):
    """A blob was taken over from another repository."""

    digest: Digest
    size_bytes: int
    source: RepositoryName


class BlobPulled(_Told, frozen=True, kw_only=True):
    """The bytes of a blob, or a part of them, are about to be sent (GET)."""

    digest: Digest
    size_bytes: int


class BlobDeleted(_Told, frozen=True, kw_only=True):
    """A repository let go of a blob."""

    digest: Digest


class ManifestPushed(_Told, frozen=True, kw_only=True):
    """A manifest was put, under its digest and `tags`."""

    digest: Digest
    size_bytes: int
    media_type: str
    tags: tuple[TagName, ...]


class ManifestPulled(_Told, frozen=True, kw_only=True):
    """A manifest is about to be sent (GET); `tag` if it was asked for by one."""

    digest: Digest
    size_bytes: int
    media_type: str
    tag: TagName | None


class ManifestDeleted(_Told, frozen=True, kw_only=True):
    """A manifest and the tags that named it were removed."""

    digest: Digest


class TagDeleted(_Told, frozen=True, kw_only=True):
    """A tag was removed; its manifest stays."""

    tag: TagName


class UploadStarted(_Told, frozen=True, kw_only=True):
    """A session was begun."""


class UploadCancelled(_Told, frozen=True, kw_only=True):
    """A session was ended by its client."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """Every request, when its answer is known and before its payload is sent.

    `endpoint` is one of the few names in `blobstore.server.protocol.routing`, fit for a label. `error` is what was raised where
    something was: its text may name what a client must not see.
    """

    request: Request
    endpoint: str
    repository: RepositoryName | None
    principal: Principal | None
    status: int
    error: Exception | None = None


Observation = (
    BlobPushed
    | BlobMounted
    | BlobPulled
    | BlobDeleted
    | ManifestPushed
    | ManifestPulled
    | ManifestDeleted
    | TagDeleted
    | UploadStarted
    | UploadCancelled
    | Answered
)


class Observer(Protocol):
    """Takes observations; must return quickly and not raise."""

    def __call__(self, observation: Observation, /) -> None:
        """One observation."""


def unobserved(observation: Observation, /) -> None:
    """The observer of those who don't listen."""
    del observation
