"""The order in which manifests are put."""

from hypothesis import given
from hypothesis import strategies as st

from blobstore.abc.records import ManifestKey, ManifestNode, ManifestRecord
from blobstore.digest import Digest
from blobstore.names import RepositoryName
from blobstore.replication._order import batches, families

NAME = RepositoryName.parse("app")


def _digest(number: int) -> Digest:
    return Digest.of(str(number).encode())


def _node(number: int, children: set[int], subject: int | None) -> ManifestNode:
    key = ManifestKey(NAME, _digest(number))
    record = ManifestRecord(key, "m", None, None if subject is None else _digest(subject), 1, 0, 0, 0, False)
    return ManifestNode(record, tuple(map(_digest, sorted(children))), b"")


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[set[int], int | None]]:
    """Children are of smaller numbers, as bytes can't name those that are made after them; subjects are anything, also absent."""
    size = draw(st.integers(0, 12))
    return [
        (
            draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set(),
            draw(st.none() | st.integers(0, size + 2)),
        )
        for number in range(size)
    ]


@given(graphs())
def test_children_and_subjects_come_first(graph: list[tuple[set[int], int | None]]) -> None:
    """Each manifest once, none before its children; none before its subject unless subjects and children run in a circle."""
    nodes = [_node(number, *each) for number, each in enumerate(graph)]
    found = batches(nodes)
    place = {node.record.key.digest: at for at, batch in enumerate(found) for node in batch}
    assert sum(map(len, found)) == len(place) == len(nodes)
    is_one_way = all(subject is None or subject < number for number, (_, subject) in enumerate(graph))
    for number, (children, subject) in enumerate(graph):
        at = place[_digest(number)]
        assert all(place[_digest(child)] < at for child in children)
        if subject is not None and is_one_way:
            assert place[_digest(subject)] < at


@given(graphs())
def test_relatives_are_of_one_family(graph: list[tuple[set[int], int | None]]) -> None:
    """Each manifest is in one, with its children and its subject; and nobody is in one without a relative there."""
    nodes = [_node(number, *each) for number, each in enumerate(graph)]
    found = families(nodes)
    place = {node.record.key.digest: at for at, family in enumerate(found) for node in family}
    assert sum(map(len, found)) == len(place) == len(nodes)
    links = [(number, other) for number, (children, subject) in enumerate(graph) for other in (*children, subject)]
    links = [(one, other) for one, other in links if other is not None and other < len(nodes) and other != one]
    assert all(place[_digest(one)] == place[_digest(other)] for one, other in links)
    # As many families as a forest of their links has trees.
    trees = {number: {number} for number in range(len(nodes))}
    for one, other in links:
        trees[one] |= trees[other]
        for each in trees[one]:
            trees[each] = trees[one]
    assert len(found) == len({id(tree) for tree in trees.values()})


def test_a_circle_is_broken_at_the_subject() -> None:
    """An image index that is the subject of its own child: the child goes first."""
    found = batches([_node(0, set(), 1), _node(1, {0}, None)])
    assert [[node.record.key.digest for node in batch] for batch in found] == [[_digest(0)], [_digest(1)]]


def test_nothing_needs_no_order() -> None:
    """No manifests, no families, no batches."""
    assert batches([]) == families([]) == []
