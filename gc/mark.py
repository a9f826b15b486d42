"""Mark: which manifests of one repository live, and which may be dropped in which order. Pure.

Life flows from a tag to its manifest, from an image index to the manifests it lists, and from a subject to its referrers.
Blobs are not marked: a blob lives while a record that is not dropped refers to it, and the sweep asks that of the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from blobstore.abc.records import Drop, ManifestKey, ManifestNode
from blobstore.digest import Digest
from blobstore.gc.policy import GcPolicy

UNTAGGED = "untagged"
SUBJECT_GONE = "subject-gone"


class Marked(msgspec.Struct, frozen=True):
    """What marking found in one repository.

    `groups` are the records to drop, in order; those of one group keep each other and go in one transaction. `dead` are the
    tokens of all records that nothing keeps, those among them that must wait for their own grace included. `spared` are the
    tokens of untagged records that live only because the policy lets them.
    """

    groups: tuple[tuple[Drop, ...], ...]
    dead: frozenset[bytes]
    spared: frozenset[bytes]
    loose_dropped: int = 0
    """How many of the dropped were loose; counted by incremental marking."""


NOTHING = Marked((), frozenset(), frozenset())


def mark(nodes: Sequence[ManifestNode], policy: GcPolicy, now_ms: int) -> Marked:
    """Mark the records of one repository, all of them."""
    term_ms = policy.terms.term_ms
    if all(node.record.tag_count for node in nodes):
        return NOTHING
    graph = _Graph(nodes)
    live = graph.reach(node for node in nodes if _is_root(node, graph, policy.delete_untagged, now_ms, term_ms))
    spared = frozenset[bytes]()
    if not policy.delete_untagged:
        strictly = graph.reach(node for node in nodes if _is_root(node, graph, True, now_ms, term_ms))  # noqa: FBT003
        spared = frozenset(graph.by_digest[digest].token for digest in live - strictly)
    dead = [node for node in nodes if node.record.key.digest not in live]
    groups = order_groups(dead, graph.flows, only_sources=term_ms > 0)
    return marked(groups, dead, spared)


def marked(
    groups: Iterable[Sequence[ManifestNode]], dead: Collection[ManifestNode], spared: frozenset[bytes]
) -> Marked:
    """The result of marking, with a reason for each drop."""
    dying = {node.record.key for node in dead}
    return Marked(
        tuple(tuple(_drop(node, dying) for node in group) for group in groups),
        frozenset(node.token for node in dead),
        spared,
    )


def _drop(node: ManifestNode, dying: Collection[ManifestKey]) -> Drop:
    record = node.record
    # A subject of the same digest that goes in another repository is none of ours.
    subject = ManifestKey(record.key.repository, record.subject) if record.subject is not None else None
    lost_its_subject = record.is_subject_gone or subject in dying
    return Drop(record.key, SUBJECT_GONE if lost_its_subject else UNTAGGED)


def _is_root(node: ManifestNode, graph: _Graph, delete_untagged: bool, now_ms: int, term_ms: int) -> bool:  # noqa: FBT001
    record = node.record
    if record.tag_count or now_ms < record.lost_at_ms + term_ms:
        return True
    # A referrer lives with its subject; one whose subject was here and went goes, whatever the policy.
    return not delete_untagged and not record.is_subject_gone and record.subject not in graph.by_digest


class _Graph:
    """The records of a repository and how life flows between them."""

    def __init__(self, nodes: Sequence[ManifestNode]) -> None:
        self.by_digest = {node.record.key.digest: node for node in nodes}
        self._referrers: dict[Digest, list[Digest]] = {}
        for node in nodes:
            if node.record.subject is not None:
                self._referrers.setdefault(node.record.subject, []).append(node.record.key.digest)

    def flows(self, node: ManifestNode) -> list[Digest]:
        """Whom a record keeps: its children and its referrers."""
        found = [*node.children, *self._referrers.get(node.record.key.digest, ())]
        return [digest for digest in found if digest in self.by_digest]

    def reach(self, roots: Iterable[ManifestNode]) -> set[Digest]:
        """All that life flows to from the roots. Iterative: a hostile client may chain manifests as deep as it likes."""
        waiting = list(roots)
        reached = {node.record.key.digest for node in waiting}
        while waiting:
            for digest in self.flows(waiting.pop()):
                if digest not in reached:
                    reached.add(digest)
                    waiting.append(self.by_digest[digest])
        return reached


def order_groups(
    dead: Sequence[ManifestNode], flows: Callable[[ManifestNode], Iterable[Digest]], *, only_sources: bool
) -> list[list[ManifestNode]]:
    """The dead records in groups that keep each other (strongly connected components), keepers first.

    With `only_sources`, just the groups that no other dead record keeps: the others get a grace of their own when those are
    gone. A group of more than one is a hostile client's: an image index whose subject is its own child.
    """
    by_digest = {node.record.key.digest: node for node in dead}
    kept_by_dead: dict[Digest, list[Digest]] = {
        digest: [other for other in flows(node) if other in by_digest] for digest, node in by_digest.items()
    }
    groups = _components(kept_by_dead)
    if only_sources:
        of_group = {digest: at for at, group in enumerate(groups) for digest in group}
        fed = {
            of_group[to] for start, targets in kept_by_dead.items() for to in targets if of_group[to] != of_group[start]
        }
        groups = [group for at, group in enumerate(groups) if at not in fed]
    return [[by_digest[digest] for digest in group] for group in groups]


def _components(targets: Mapping[Digest, Sequence[Digest]]) -> list[list[Digest]]:
    """Tarjan's strongly connected components, iterative, in the order in which life flows."""
    number: dict[Digest, int] = {}
    low: dict[Digest, int] = {}
    stack: list[Digest] = []
    on_stack: set[Digest] = set()
    found: list[list[Digest]] = []
    for start in targets:
        if start in number:
            continue
        work = [(start, iter(targets[start]))]
        number[start] = low[start] = len(number)
        stack.append(start)
        on_stack.add(start)
        while work:
            digest, rest = work[-1]
            target = next(rest, None)
            if target is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[digest])
                if low[digest] == number[digest]:
                    found.append(_pop_component(stack, on_stack, digest))
            elif target not in number:
                number[target] = low[target] = len(number)
                stack.append(target)
                on_stack.add(target)
                work.append((target, iter(targets[target])))
            elif target in on_stack:
                low[digest] = min(low[digest], number[target])
    # Tarjan finds what is kept before what keeps it.
    return found[::-1]


def _pop_component(stack: list[Digest], on_stack: set[Digest], root: Digest) -> list[Digest]:
    component: list[Digest] = []
    while True:
        digest = stack.pop()
        on_stack.discard(digest)
        component.append(digest)
        if digest == root:
            return component
