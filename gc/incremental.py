"""Marking for an incremental run: starts at the records that lost their hold on life, and looks at nothing else."""

from __future__ import annotations

from collections import deque
from functools import partial

import msgspec

from blobstore.abc.index import Index
from blobstore.abc.paging import every
from blobstore.abc.records import ManifestKey, ManifestNode
from blobstore.digest import Digest
from blobstore.gc.mark import Marked, marked, order_groups
from blobstore.gc.policy import GcPolicy


async def mark_loose(index: Index, policy: GcPolicy, now_ms: int) -> Marked:
    """What may be dropped of the loose records, and what dies with it. Records that only keep each other (a hostile client's
    image index with its own child as subject) are never loose; the full mark finds those."""
    term_ms = policy.terms.term_ms
    loose = await _list_loose(index, policy, now_ms - term_ms)
    walk = _Walk(index, policy, now_ms)
    await walk.spread(loose)
    dead = list(walk.dead.values())
    sources = {node.record.key for node in loose}
    by_repository: dict[str, list[ManifestNode]] = {}
    for node in dead:
        by_repository.setdefault(node.record.key.repository, []).append(node)
    groups: list[list[ManifestNode]] = []
    for nodes in by_repository.values():
        flows = {node.record.key: walk.flows[node.record.key] for node in nodes}
        ordered = order_groups(nodes, lambda node, known=flows: known[node.record.key], only_sources=False)  # type: ignore[misc]
        groups += [group for group in ordered if term_ms == 0 or all(node.record.key in sources for node in group)]
    loose_dropped = sum(node.record.key in sources for group in groups for node in group)
    return msgspec.structs.replace(marked(groups, dead, frozenset()), loose_dropped=loose_dropped)


async def _list_loose(index: Index, policy: GcPolicy, before_ms: int) -> list[ManifestNode]:
    found: list[ManifestNode] = []
    for is_subject_gone in (True, False) if policy.delete_untagged else (True,):
        scan = partial(index.list_loose_manifests, before_ms, limit=policy.batch_max, is_subject_gone=is_subject_gone)
        # Its subject may have come back; then it lives as long as that.
        found += [node async for node in every(scan) if not await _has_subject(index, node)]
    return found


async def _has_subject(index: Index, node: ManifestNode) -> bool:
    subject = node.record.subject
    return subject is not None and await index.resolve(node.record.key.repository, subject) is not None


class _Walk:
    """Spreads death along the ways of life: to children and referrers that nothing else keeps."""

    def __init__(self, index: Index, policy: GcPolicy, now_ms: int) -> None:
        self._index, self._policy, self._now_ms = index, policy, now_ms
        self.dead: dict[ManifestKey, ManifestNode] = {}
        self.flows: dict[ManifestKey, list[Digest]] = {}

    async def spread(self, sources: list[ManifestNode]) -> None:
        """Find all that dies with the sources."""
        waiting = deque(sources)
        while waiting:
            node = waiting.popleft()
            if node.record.key in self.dead:
                continue
            self.dead[node.record.key] = node
            kept = await self._kept_by(node)
            self.flows[node.record.key] = [each.record.key.digest for each in kept]
            # One that another record keeps still is looked at again when that one dies.
            waiting.extend([each for each in kept if await self._dies(each)])

    async def _kept_by(self, node: ManifestNode) -> list[ManifestNode]:
        repository = node.record.key.repository
        children = [await self._index.find_node(ManifestKey(repository, digest)) for digest in node.children]
        found = [child for child in children if child is not None]
        return found + list(await self._index.list_referrer_nodes(node.record.key))

    async def _dies(self, node: ManifestNode) -> bool:
        record = node.record
        if record.tag_count or self._now_ms < record.lost_at_ms + self._policy.terms.term_ms:
            return False
        subject = ManifestKey(record.key.repository, record.subject) if record.subject is not None else None
        if not self._policy.delete_untagged and not record.is_subject_gone and subject not in self.dead:
            return False
        if subject is not None and subject not in self.dead and await _has_subject(self._index, node):
            return False
        for parent in await self._index.list_parents(record.key.digest, self._policy.slice_max):
            if parent.repository != record.key.repository or parent == record.key or parent in self.dead:
                continue
            keeper = await self._index.find_node(parent)
            if keeper is not None and record.key.digest in keeper.children:
                return False
        return True
