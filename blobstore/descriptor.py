"""Descriptors: how one piece of content names another (image-spec, descriptor.md)."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import msgspec

from blobstore.digest import Digest
from blobstore.errors import DigestInvalid, ManifestInvalid

content_size_max_bytes = 2**63 - 1


class Platform(msgspec.Struct, frozen=True):
    """What an image runs on; only what is shown to people is kept."""

    architecture: str = ""
    os: str = ""
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True):
    """A media type, a digest and a size, with what the specification allows beside them."""

    media_type: str
    digest: Digest
    size_bytes: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the specification writes it."""
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size_bytes,
        }
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.urls:
            document["urls"] = list(self.urls)
        if self.annotations:
            document["annotations"] = self.annotations
        if self.platform is not None:
            document["platform"] = {
                key: value for key, value in msgspec.structs.asdict(self.platform).items() if value is not None
            }
        return document


class WireDescriptor(msgspec.Struct, rename="camel"):
    """A descriptor as it stands in JSON; unknown fields are allowed and ignored."""

    media_type: str
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=content_size_max_bytes)]
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str | None = None
    data: str | None = None

    def checked(self, where: str) -> Descriptor:
        """The descriptor, its digest parsed and its inline data compared with it.

        Raises:
            ManifestInvalid: naming `where` in the document it stands.
        """
        try:
            digest = Digest.parse(self.digest)
        except DigestInvalid as error:
            raise ManifestInvalid(f"{where}.digest: {error}") from error
        if self.data is not None:
            self._check_data(where, digest)
        return Descriptor(
            self.media_type,
            digest,
            self.size,
            tuple(self.urls or ()),
            self.annotations or {},
            self.platform,
            self.artifact_type,
        )

    def _check_data(self, where: str, digest: Digest) -> None:
        try:
            data = base64.b64decode(self.data or "", validate=True)
        except (binascii.Error, ValueError) as error:
            raise ManifestInvalid(f"{where}.data is not base64: {error}") from error
        if len(data) != self.size or Digest.of(data, digest.algorithm) != digest:
            raise ManifestInvalid(f"{where}.data is not the {self.size} bytes of {digest}")
