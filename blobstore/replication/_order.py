"""Which manifests belong together, and in which order they are put: pure."""

from __future__ import annotations

from collections.abc import Sequence

from blobstore.abc.records import ManifestNode
from blobstore.digest import Digest


def families(nodes: Sequence[ManifestNode]) -> list[list[ManifestNode]]:
    """The manifests of one repository, those together that are children or subjects of each other, directly or not: an image with
    its signatures, image indexes with the images they share."""
    leaders: dict[Digest, Digest] = {node.record.key.digest: node.record.key.digest for node in nodes}
    for node in nodes:
        own, subject = node.record.key.digest, node.record.subject
        for relative in (*node.children, *([subject] if subject is not None else [])):
            if relative in leaders:
                leaders[_leader(leaders, relative)] = _leader(leaders, own)
    found: dict[Digest, list[ManifestNode]] = {}
    for node in nodes:
        found.setdefault(_leader(leaders, node.record.key.digest), []).append(node)
    return list(found.values())


def _leader(leaders: dict[Digest, Digest], digest: Digest) -> Digest:
    while leaders[digest] != digest:
        # Each step halves the way of the next one.
        leaders[digest] = leaders[leaders[digest]]
        digest = leaders[digest]
    return digest


def batches(nodes: Sequence[ManifestNode]) -> list[list[ManifestNode]]:
    """The manifests of a family in groups: every child before its image index, and every subject before its referrers where
    that can be: an image index may be the subject of its own child, and the child goes first."""
    left = {node.record.key.digest: node for node in nodes}
    order: list[list[ManifestNode]] = []
    while left:
        free = [node for node in left.values() if not any(child in left for child in node.children)]
        assert free, "manifests that contain each other"
        ready = [node for node in free if not _waits_for_subject(node, left)] or free
        order.append(ready)
        for node in ready:
            del left[node.record.key.digest]
    return order


def _waits_for_subject(node: ManifestNode, left: dict[Digest, ManifestNode]) -> bool:
    subject = node.record.subject
    return subject is not None and subject in left and subject != node.record.key.digest
