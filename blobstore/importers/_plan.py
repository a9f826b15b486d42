"""What an import will put: all manifests that a source's entries lead to, children before parents, and their blobs.

Nothing of the store is asked and nothing is written here; that no descriptor lies about a manifest, or about a blob's size, is
known afterwards. What blobs hash to shows when they are read. All of it blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import msgspec

from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.errors import ArchiveInvalid, ManifestInvalid
from blobstore.importers._sources import Entry, Source, read_small
from blobstore.manifest import MANIFEST_TYPES, Manifest, parse_manifest
from blobstore.names import TagName

image_index_nesting_max = 8
import_references_max = 1_000_000

_CHOICES_SHOWN_MAX = 20


class PlannedEntry(msgspec.Struct, frozen=True):
    """A manifest to put by itself. `instead_of` is the image index it stands in for: see `_Walk.enter`."""

    descriptor: Descriptor
    tags: tuple[TagName, ...]
    subject: Digest | None
    instead_of: Digest | None


class Plan(msgspec.Struct, frozen=True):
    """What to put: `levels` of manifests, each needing only those before it; `blobs` with their sizes.

    `ignored` are entries of media types that are no manifests (image-spec, index.json: not an error).
    """

    entries: tuple[PlannedEntry, ...]
    levels: tuple[tuple[Descriptor, ...], ...]
    blobs: dict[Digest, int]
    ignored: tuple[Descriptor, ...]


class _Node(msgspec.Struct, frozen=True):
    descriptor: Descriptor
    level: int
    subject: Digest | None


def make_plan(source: Source, tag: TagName | None) -> Plan:
    """Read all manifests of a source; with `tag`, its one image gets that tag in place of its own.

    Raises:
        ArchiveInvalid: a manifest is absent, wrong or malformed, a blob is absent or of another size, several images stand to
            choose or have the same tag, or a limit of this module is passed.
    """
    walk = _Walk(source)
    offered = source.entries()
    entries = [walk.enter(entry) for entry in offered if entry.descriptor.media_type in MANIFEST_TYPES]
    if not entries:
        raise ArchiveInvalid(f"{source.location} holds no image")
    if tag is not None:
        entries = _retagged(entries, tag, walk.nodes, source.location)
    _refuse_shared_tags(entries, source.location)
    ignored = tuple(entry.descriptor for entry in offered if entry.descriptor.media_type not in MANIFEST_TYPES)
    return Plan(tuple(entries), walk.levels(), walk.blobs, ignored)


class _Walk:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._references = 0
        self.nodes: dict[Digest, _Node] = {}
        self.blobs: dict[Digest, int] = {}

    def enter(self, entry: Entry) -> PlannedEntry:
        """Take in an entry with all it leads to.

        containerd and Docker save an image index whole, but only the manifests of the platforms asked for. Where exactly one
        image of it is there, that one is taken instead, as `docker push` does.
        """
        manifest = self._read(entry.descriptor)
        absent = [child for child in _manifest_children(manifest) if self._source.size_of(child.digest) is None]
        chosen = self._stand_in(manifest, absent) if absent else entry.descriptor
        node = self._visit(chosen, 0)
        instead_of = manifest.digest if absent else None
        return PlannedEntry(chosen, entry.tags, node.subject, instead_of)

    def levels(self) -> tuple[tuple[Descriptor, ...], ...]:
        """All manifests taken in, children before parents."""
        levels: list[list[Descriptor]] = []
        for node in sorted(self.nodes.values(), key=lambda node: node.level):
            if node.level == len(levels):
                levels.append([])
            levels[node.level].append(node.descriptor)
        return tuple(tuple(level) for level in levels)

    def _stand_in(self, manifest: Manifest, absent: Sequence[Descriptor]) -> Descriptor:
        gone = {child.digest for child in absent}
        present = [
            child
            for child in _manifest_children(manifest)
            # BuildKit's attestations have the platform unknown/unknown; they are no images.
            if child.digest not in gone and not (child.platform and child.platform.os == "unknown")
        ]
        if len(present) == 1:
            return present[0]
        raise self._invalid(
            f"image index {manifest.digest} lists manifests that are not there ({_shown(absent)}), "
            f"and {len(present)} images that are; save it for all platforms, or for one"
        )

    def _visit(self, descriptor: Descriptor, depth: int) -> _Node:
        known = self.nodes.get(descriptor.digest)
        if known is None:
            if depth > image_index_nesting_max:
                raise self._invalid(f"image indexes are nested more than {image_index_nesting_max} deep")
            known = self._take_in(self._read(descriptor), descriptor, depth)
        elif (known.descriptor.media_type, known.descriptor.size_bytes) != (
            descriptor.media_type,
            descriptor.size_bytes,
        ):
            raise self._invalid(f"two descriptors of manifest {descriptor.digest} contradict each other")
        return known

    def _take_in(self, manifest: Manifest, descriptor: Descriptor, depth: int) -> _Node:
        level = 0
        kinds = {reference.digest: reference.kind for reference in manifest.references}
        self._count(len(kinds))
        for child in _children(manifest):
            kind = kinds[child.digest]
            if kind == "manifest":
                level = max(level, self._visit(child, depth + 1).level + 1)
            else:
                self._take_blob(child, is_foreign=kind == "foreign")
        subject = manifest.subject.digest if manifest.subject is not None else None
        node = _Node(Descriptor(descriptor.media_type, descriptor.digest, descriptor.size_bytes), level, subject)
        self.nodes[descriptor.digest] = node
        return node

    def _take_blob(self, descriptor: Descriptor, *, is_foreign: bool) -> None:
        size = self.blobs.get(descriptor.digest)
        if size is None:
            size = self._source.size_of(descriptor.digest)
        if size is None:
            if not is_foreign:
                raise self._invalid(f"blob {descriptor.digest} is not there")
            return
        if size != descriptor.size_bytes:
            raise self._invalid(f"blob {descriptor.digest} has {size} bytes, not {descriptor.size_bytes}")
        self.blobs[descriptor.digest] = size

    def _read(self, descriptor: Descriptor) -> Manifest:
        body = read_manifest(self._source, descriptor)
        try:
            return parse_manifest(body, descriptor.media_type)
        except ManifestInvalid as error:
            raise self._invalid(f"{descriptor.digest}: {error}") from error

    def _count(self, references: int) -> None:
        self._references += references
        if self._references > import_references_max:
            raise self._invalid(f"its manifests refer to more than {import_references_max} things")

    def _invalid(self, what: str) -> ArchiveInvalid:
        return ArchiveInvalid(f"{self._source.location}: {what}")


def read_manifest(source: Source, descriptor: Descriptor) -> bytes:
    """A manifest's bytes, verified.

    Raises:
        ArchiveInvalid: they are absent, too many, or not what the descriptor says.
    """
    what = f"manifest {descriptor.digest} in {source.location}"
    with ExitStack() as stack:
        content = source.open(descriptor.digest, stack)
        if content is None:
            raise ArchiveInvalid(f"{what} is not there")
        if content.size_bytes != descriptor.size_bytes:
            raise ArchiveInvalid(f"{what} has {content.size_bytes} bytes, not {descriptor.size_bytes}")
        body = read_small(content, what)
    actual = Digest.of(body, descriptor.digest.algorithm)
    if actual != descriptor.digest:
        raise ArchiveInvalid(f"{what} hashes to {actual}")
    return body


def _children(manifest: Manifest) -> Iterator[Descriptor]:
    if manifest.config is not None:
        yield manifest.config
    yield from manifest.layers
    yield from manifest.manifests


def _manifest_children(manifest: Manifest) -> list[Descriptor]:
    # BuildKit's cache exports list layers in an image index.
    return [child for child in manifest.manifests if child.media_type in MANIFEST_TYPES]


def _retagged(
    entries: Sequence[PlannedEntry], tag: TagName, nodes: dict[Digest, _Node], location: str
) -> list[PlannedEntry]:
    # Signatures and SBOMs of an image in the same source are not images to choose from.
    images = [entry for entry in entries if entry.subject is None or entry.subject not in nodes]
    if len(images) != 1:
        choices = [", ".join(entry.tags) or str(entry.descriptor.digest) for entry in images]
        more = len(choices) - _CHOICES_SHOWN_MAX
        shown = "; ".join(choices[:_CHOICES_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")
        raise ArchiveInvalid(
            f"{location} holds {len(images)} images, and only one can be tagged {tag}: {shown}. "
            "Leave the tag out to import all with their own tags"
        )
    return [msgspec.structs.replace(entry, tags=(tag,) if entry is images[0] else ()) for entry in entries]


def _refuse_shared_tags(entries: Sequence[PlannedEntry], location: str) -> None:
    owners: dict[TagName, Digest] = {}
    for entry in entries:
        for tag in entry.tags:
            other = owners.setdefault(tag, entry.descriptor.digest)
            if other != entry.descriptor.digest:
                raise ArchiveInvalid(f"{location} gives the tag {tag} to {other} and to {entry.descriptor.digest}")


def _shown(descriptors: Sequence[Descriptor]) -> str:
    shown = [f"{each.digest} {each.platform or ''}".strip() for each in descriptors[:_CHOICES_SHOWN_MAX]]
    more = len(descriptors) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more > 0 else "")
