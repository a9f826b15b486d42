"""Usage: how many bytes a repository or a tag refers to, and how many deleting it would really free."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from blobstore.abc.index import Index
from blobstore.abc.paging import every, every_tag
from blobstore.abc.records import ManifestKey, ManifestNode, ReferencedBlob, Totals
from blobstore.digest import Digest
from blobstore.names import RepositoryName, TagName

_SLICE = 10_000


class Usage(msgspec.Struct):
    """Bytes of one repository or tag.

    `logical_bytes` counts every blob it refers to once; `unique_bytes` those that nothing else refers to, which is what
    deleting it frees (after the grace, and with --delete-untagged for a tag); `shared_bytes` the rest.
    """

    blobs: int = 0
    logical_bytes: int = 0
    unique_bytes: int = 0

    @property
    def shared_bytes(self) -> int:
        """What others refer to as well."""
        return self.logical_bytes - self.unique_bytes

    def add(self, size_bytes: int, *, is_unique: bool) -> None:
        """Count one blob."""
        self.blobs += 1
        self.logical_bytes += size_bytes
        self.unique_bytes += size_bytes if is_unique else 0

    def to_json(self) -> dict[str, int]:
        """As the command line prints it."""
        return {
            "blobs": self.blobs,
            "logical": self.logical_bytes,
            "unique": self.unique_bytes,
            "shared": self.shared_bytes,
            "frees": self.unique_bytes,
        }


class TagUsage(msgspec.Struct, frozen=True):
    """One tag."""

    tag: TagName
    digest: Digest
    usage: Usage


def totals_document(totals: Totals, location: str, store_id: str) -> dict[str, Any]:
    """The counters of a store as `stats --json` prints them."""
    stored = totals.present_bytes + totals.condemned_bytes + totals.suspect_bytes
    # A rebuilt index doesn't know what was pushed before.
    ratio = round(totals.pushed_bytes / stored, 3) if stored and totals.pushed_bytes >= stored else None
    return {
        "store": location,
        "store_id": store_id,
        "blobs": totals.present_blobs + totals.condemned_blobs + totals.suspect_blobs,
        "bytes_stored": stored,
        "bytes_pushed": totals.pushed_bytes,
        "bytes_deleted": totals.freed_bytes,
        "ratio": ratio,
        "garbage": {
            "blobs": totals.unreferenced_blobs + totals.condemned_blobs,
            "bytes": totals.unreferenced_bytes + totals.condemned_bytes,
        },
        "suspect": {"blobs": totals.suspect_blobs, "bytes": totals.suspect_bytes},
        "repositories": totals.repositories,
        "manifests": totals.manifests,
        "untagged_manifests": totals.loose_manifests,
        "tags": totals.tags,
        "uploads": totals.uploads,
    }


async def repository_usage(index: Index) -> tuple[dict[RepositoryName, Usage], Usage]:
    """Every repository, and the store as a whole (whose unique bytes are all that is referred to). One pass over blobs and
    edges; memory grows with the number of repositories only."""
    found: dict[RepositoryName, Usage] = {}
    whole = Usage()
    pinned = await _pins(index)
    async for each in _referenced(index):
        names = {parent.repository for parent in each.parents}
        is_kept = each.blob.digest in pinned
        for name in names:
            usage = found.setdefault(name, Usage())
            usage.add(each.blob.size_bytes, is_unique=len(names) == 1 and not is_kept)
        if names:
            whole.add(each.blob.size_bytes, is_unique=not is_kept)
    return found, whole


async def tag_usage(index: Index, repository: RepositoryName) -> list[TagUsage]:
    """Every tag of a repository: what removing that tag alone, and then what only it kept, would free.

    Raises:
        RepositoryUnknown: it holds no manifest.
    """
    nodes = {node.record.key.digest: node async for node in _nodes(index, repository)}
    tags = [entry async for entry in every_tag(index, repository, _SLICE)]
    keepers = _keepers(nodes, [(entry.tag, entry.digest) for entry in tags])
    usages = {entry.tag: Usage() for entry in tags}
    pinned = await _pins(index)
    async for each in _referenced(index):
        kept_by = [_tags_of(parent, repository, keepers) for parent in each.parents]
        reached = frozenset[TagName]().union(*kept_by)
        is_unique = (
            len(reached) == 1 and all(each_by == reached for each_by in kept_by) and each.blob.digest not in pinned
        )
        for tag in reached:
            usages[tag].add(each.blob.size_bytes, is_unique=is_unique)
    return [TagUsage(entry.tag, entry.digest, usages[entry.tag]) for entry in tags]


def _tags_of(
    parent: ManifestKey, repository: RepositoryName, keepers: dict[Digest, frozenset[TagName]]
) -> frozenset[TagName]:
    """The tags that keep a blob through this parent; none through one of another repository or one pushed just now."""
    return keepers.get(parent.digest, frozenset()) if parent.repository == repository else frozenset()


def _keepers(
    nodes: dict[Digest, ManifestNode], tags: Sequence[tuple[TagName, Digest]]
) -> dict[Digest, frozenset[TagName]]:
    """By which tags each record lives; records without one live by themselves, so that nothing of theirs is freed by a tag."""
    referrers: dict[Digest, list[Digest]] = {}
    for node in nodes.values():
        if node.record.subject is not None:
            referrers.setdefault(node.record.subject, []).append(node.record.key.digest)
    found: dict[Digest, frozenset[TagName]] = dict.fromkeys(nodes, frozenset())
    for tag, digest in tags:
        waiting, seen = [digest], {digest}
        while waiting:
            at = waiting.pop()
            if at not in nodes:
                continue
            found[at] |= {tag}
            fresh = [each for each in (*nodes[at].children, *referrers.get(at, ())) if each not in seen]
            seen.update(fresh)
            waiting += fresh
    return found


def _referenced(index: Index) -> AsyncIterator[ReferencedBlob]:
    return every(lambda after: index.scan_references(after, _SLICE))


async def _nodes(index: Index, repository: RepositoryName) -> AsyncIterator[ManifestNode]:
    async for node in every(lambda after: index.scan_manifests(after, _SLICE)):
        if node.record.key.repository == repository:
            yield node


async def _pins(index: Index) -> set[Digest]:
    """Pinned blobs: no reference's end frees them."""
    pinned: set[Digest] = set()
    after: Digest | None = None
    while page := await index.list_pins(after, _SLICE):
        after = page[-1]
        pinned.update(page)
    return pinned
