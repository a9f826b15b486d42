"""Manifests: image manifests and image indexes as typed values over their exact bytes.

Sources: image-spec, manifest.md and image-index.md; Docker's image manifest version 2, schema 2. The bytes are kept as they
came, as their digest names them; the parsed form is for looking only.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Literal

import msgspec

from blobstore.descriptor import Descriptor, Platform, WireDescriptor
from blobstore.digest import Digest
from blobstore.errors import ManifestInvalid, ManifestTooLarge

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
IMAGE_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = IMAGE_TYPES | INDEX_TYPES

manifest_size_max_bytes = 4 * 1024 * 1024
manifest_references_max = 10_000

# Layers that a registry need not hold: they say where else they can be had (image-spec, Non-Distributable Layers).
_STRICTNESS = {"foreign": 0, "blob": 1, "manifest": 2}
_FOREIGN_MARKS = (".nondistributable.", ".foreign.")


class Reference(msgspec.Struct, frozen=True):
    """One thing that a manifest keeps alive."""

    digest: Digest
    kind: Literal["blob", "manifest", "foreign"]


class Manifest(msgspec.Struct, frozen=True):
    """A manifest's exact bytes and what they say."""

    body: bytes
    digest: Digest
    media_type: str
    artifact_type: str | None
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None
    annotations: dict[str, str]

    @property
    def is_image_index(self) -> bool:
        """Whether this lists manifests, not layers."""
        return self.media_type in INDEX_TYPES

    @property
    def size_bytes(self) -> int:
        """Length of the exact bytes."""
        return len(self.body)

    @property
    def descriptor(self) -> Descriptor:
        """How another document would name this one; its annotations and artifact type as the referrers API lists them."""
        return Descriptor(
            self.media_type,
            self.digest,
            len(self.body),
            annotations=self.annotations,
            artifact_type=self.listed_artifact_type,
        )

    @property
    def listed_artifact_type(self) -> str | None:
        """Its own artifact type, else an image manifest's config type (distribution-spec, Listing Referrers)."""
        return self.artifact_type or (self.config.media_type if self.config is not None else None)

    @property
    def references(self) -> tuple[Reference, ...]:
        """What it keeps alive, each digest once, in the order of the document. The subject is none of them."""
        named = [Reference(self.config.digest, "blob")] if self.config else []
        named += [Reference(descriptor.digest, _kind_of_layer(descriptor)) for descriptor in self.layers]
        # BuildKit's cache exports list layers in an image index, so the media type decides, not the place.
        named += [
            Reference(descriptor.digest, "manifest" if descriptor.media_type in MANIFEST_TYPES else "blob")
            for descriptor in self.manifests
        ]
        found: dict[Digest, Reference] = {}
        for reference in named:
            # Named in two ways it is needed in the stricter one.
            known = found.get(reference.digest)
            if known is None or _STRICTNESS[reference.kind] > _STRICTNESS[known.kind]:
                found[reference.digest] = reference
        return tuple(found.values())

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms an image index lists, attestations ("unknown/unknown") left out."""
        found = (descriptor.platform for descriptor in self.manifests)
        return tuple(platform for platform in found if platform is not None and platform.os not in ("", "unknown"))


class _Wire(msgspec.Struct, rename="camel"):
    schema_version: Literal[2]
    media_type: str | None = None
    artifact_type: str | None = None
    config: WireDescriptor | None = None
    layers: list[WireDescriptor] | None = None
    manifests: list[WireDescriptor] | None = None
    subject: WireDescriptor | None = None
    annotations: dict[str, str] | None = None


_FIELDS = frozenset(
    {"fsLayers", *(field.encode_name for kind in (_Wire, WireDescriptor) for field in msgspec.structs.fields(kind))}
)
_FIELDS_BY_FOLDED = {name.casefold(): name for name in _FIELDS}


def parse_manifest(body: bytes, media_type: str | None = None) -> Manifest:
    """A manifest from its exact bytes; hashes them where it is called (4 MiB at most).

    `media_type` is the Content-Type it came with, parameters removed; without one the document itself decides.

    Raises:
        ManifestTooLarge: more than `manifest_size_max_bytes`.
        ManifestInvalid: not UTF-8 JSON, a key twice or in another case, a field of the wrong type, an unknown or contradicting
            media type, or a document that is both an image manifest and an image index (CVE-2021-41190).
    """
    if len(body) > manifest_size_max_bytes:
        raise ManifestTooLarge(f"a manifest of {len(body)} bytes; at most {manifest_size_max_bytes} are accepted")
    document = _decode(body)
    try:
        wire = msgspec.convert(document, _Wire)
    except msgspec.ValidationError as error:
        raise ManifestInvalid(f"not a manifest: {error}") from error
    _check_case(document)
    decided = _decide_media_type(wire, media_type)
    _check_shape(wire, document, decided)
    manifest = Manifest(
        body=bytes(body),
        digest=Digest.of(body),
        media_type=decided,
        artifact_type=wire.artifact_type or None,
        config=wire.config.checked("config") if wire.config else None,
        layers=tuple(each.checked(f"layers[{at}]") for at, each in enumerate(wire.layers or ())),
        manifests=tuple(each.checked(f"manifests[{at}]") for at, each in enumerate(wire.manifests or ())),
        subject=wire.subject.checked("subject") if wire.subject else None,
        annotations=wire.annotations or {},
    )
    if len(manifest.layers) + len(manifest.manifests) > manifest_references_max:
        raise ManifestInvalid(f"a manifest may refer to {manifest_references_max} things at most")
    return manifest


def _kind_of_layer(descriptor: Descriptor) -> Literal["blob", "foreign"]:
    is_foreign = bool(descriptor.urls) and any(mark in descriptor.media_type for mark in _FOREIGN_MARKS)
    return "foreign" if is_foreign else "blob"


def _decode(body: bytes) -> dict[str, Any]:
    # json, not msgspec: image-spec forbids a key twice, and only json tells.
    try:
        document = json.loads(
            bytes(body).decode("utf-8"), object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise ManifestInvalid("the manifest is nested too deeply") from error
    except ValueError as error:
        raise ManifestInvalid(f"the manifest is not valid JSON: {error}") from error
    # An escape of half a character is JSON, but no text: it could be neither stored nor answered. Only escapes can hold one.
    if b"\\ud" in body.lower() and not _is_text(document):
        raise ManifestInvalid("the manifest holds an escape of half a character, which is no Unicode text")
    if not isinstance(document, dict):
        raise ManifestInvalid(f"a manifest is a JSON object, not a {type(document).__name__}")
    return document


def _is_text(document: object) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ManifestInvalid(f"the key {twice!r:.80} stands twice in one object")
    return found


def _refuse_constant(text: str) -> None:
    raise ManifestInvalid(f"{text} is not JSON")


def _check_case(document: dict[str, Any]) -> None:
    """Clients written in Go take `Layers` for `layers`: they would pull what we do not see, nor keep."""
    named = [document.get("config"), document.get("subject")]
    named += [*(document.get("layers") or ()), *(document.get("manifests") or ())]
    for holder in (document, *filter(None, named)):
        for key in holder.keys() - _FIELDS:
            meant = _FIELDS_BY_FOLDED.get(key.casefold())
            if meant is not None:
                raise ManifestInvalid(f"the key {key!r:.80} would be taken for {meant!r} by some; write it so")


def _decide_media_type(wire: _Wire, sent_as: str | None) -> str:
    if sent_as is not None and wire.media_type not in (None, sent_as):
        raise ManifestInvalid(f"sent as {sent_as!r:.120}, but its mediaType is {wire.media_type!r:.120}")
    decided = sent_as or wire.media_type
    if decided is None:
        decided = OCI_INDEX if wire.manifests is not None else OCI_MANIFEST
    if decided not in MANIFEST_TYPES:
        raise ManifestInvalid(f"{decided!r:.120} is not a manifest type known here; known: {sorted(MANIFEST_TYPES)}")
    if decided in (DOCKER_MANIFEST, DOCKER_LIST) and wire.media_type is None:
        raise ManifestInvalid(f"a manifest of type {decided} must say so in its mediaType")
    return decided


def _check_shape(wire: _Wire, document: dict[str, Any], media_type: str) -> None:
    if media_type in INDEX_TYPES:
        forbidden = [key for key in ("config", "layers", "fsLayers") if document.get(key) is not None]
        if wire.manifests is None:
            raise ManifestInvalid("an image index needs `manifests`")
    else:
        forbidden = [key for key in ("manifests", "fsLayers") if document.get(key) is not None]
        if wire.config is None or wire.layers is None:
            raise ManifestInvalid("an image manifest needs `config` and `layers`")
    if forbidden:
        raise ManifestInvalid(
            f"a document of type {media_type} must not have {forbidden[0]!r}: image and index at once"
        )
