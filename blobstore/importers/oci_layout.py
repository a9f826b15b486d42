"""OCI image layouts, as directories or tar files (image-spec, image-layout.md). All of it blocks."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec

from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.errors import ArchiveInvalid, ManifestInvalid, TagInvalid
from blobstore.importers._sources import Content, Entry, Files, Source, decode_document
from blobstore.manifest import OCI_INDEX, parse_manifest
from blobstore.names import TagName

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
LAYOUT_VERSION = "1.0.0"
REF_NAME = "org.opencontainers.image.ref.name"
# What Docker, BuildKit and containerd write beside or instead of it: always a full reference.
CONTAINERD_NAME = "io.containerd.image.name"


class _Header(msgspec.Struct, rename="camel"):
    image_layout_version: str


class OciLayout(Source):
    """An image layout; nothing was read of it yet."""

    def __init__(self, files: Files) -> None:
        self.location, self._files = files.location, files

    def entries(self) -> list[Entry]:
        """See `Source.entries`."""
        self._check_version()
        try:
            listed = parse_manifest(self._files.read_json(INDEX_FILE), OCI_INDEX)
        except ManifestInvalid as error:
            raise ArchiveInvalid(f"{INDEX_FILE} in {self.location}: {error}") from error
        found: dict[Digest, Entry] = {}
        for descriptor in listed.manifests:
            known = found.get(descriptor.digest)
            tags = known.tags if known is not None else ()
            tag = own_tag(descriptor)
            if tag is not None and tag not in tags:
                tags += (tag,)
            found[descriptor.digest] = Entry(descriptor, tags)
        return list(found.values())

    def open(self, digest: Digest, stack: ExitStack) -> Content | None:
        """See `Source.open`."""
        return self._files.open(blob_path(digest), stack)

    def _check_version(self) -> None:
        header = decode_document(self._files.read_json(LAYOUT_FILE), f"{LAYOUT_FILE} in {self.location}", _Header)
        if header.image_layout_version != LAYOUT_VERSION:
            raise ArchiveInvalid(
                f"{self.location} has image layout version {header.image_layout_version!r:.40}; known is {LAYOUT_VERSION}"
            )


def blob_path(digest: Digest) -> str:
    """Where a layout keeps a blob; made from a parsed digest, so it leads nowhere else."""
    return f"blobs/{digest.algorithm.value}/{digest.hex}"


def own_tag(descriptor: Descriptor) -> TagName | None:
    """The tag an entry of `index.json` has, taken out of a full reference where one was written; None if it has none."""
    name = descriptor.annotations.get(REF_NAME)
    if name is not None:
        # A plain name is the tag; image-spec also allows references here.
        tag = tag_of_reference(name) if "/" in name or ":" in name else _tag(name)
        if tag is not None:
            return tag
    return tag_of_reference(descriptor.annotations.get(CONTAINERD_NAME, ""))


def tag_of_reference(reference: str) -> TagName | None:
    """The tag of `host:port/name:tag@digest`; None if it has none."""
    name = reference.rpartition("/")[2].partition("@")[0]
    return _tag(name.partition(":")[2])


def _tag(text: str) -> TagName | None:
    try:
        return TagName.parse(text)
    except TagInvalid:
        # Other tools allow more; such an image is imported untagged, and the report shows it so.
        return None
