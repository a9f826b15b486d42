"""In which order manifests are put: pure."""

from __future__ import annotations

from collections.abc import Sequence

from blobstore.abc.records import ManifestNode
from blobstore.digest import Digest


def batches(nodes: Sequence[ManifestNode]) -> list[list[ManifestNode]]:
    """The manifests of one repository in groups: every child before its image index, and every subject before its referrers where
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
