"""The oracle: what was acknowledged, so what must be there, what must not, and of what nothing can be said. Plain dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from blobstore.digest import Digest
from tests.simulation.catalogue import BY_DIGEST, NAMES, children


class Tag(NamedTuple):
    """What a tag names: a digest, or None."""

    repository: str
    tag: str


class Record(NamedTuple):
    """Whether a repository has a manifest."""

    repository: str
    digest: Digest

    def __repr__(self) -> str:
        return f"the record of {NAMES[self.digest]!r} in {self.repository}"


class Pin(NamedTuple):
    """Whether a blob is pinned."""

    digest: Digest

    def __repr__(self) -> str:
        return f"the pin of {NAMES[self.digest]!r}"


Fact = Tag | Record | Pin
Place = tuple[str | None, Digest]
"""A blob in a repository; with None, in the store."""


class Change:
    """What a request asks for. `facts` become so; `promises` are owed from its answer on; `sees` may be seen by a repository
    from its beginning on; `lets_go` is owed no longer from its beginning on, and not seen after its answer."""

    def __init__(
        self,
        facts: Mapping[Fact, object] | None = None,
        *,
        promises: Iterable[Place] = (),
        sees: Iterable[Place] = (),
        lets_go: Iterable[Place] = (),
    ) -> None:
        self.facts = {fact: frozenset({value}) for fact, value in (facts or {}).items()}
        self.promises, self.lets_go = set(promises), set(lets_go)
        self.sees = {*sees, *self.promises}


class Oracle:
    """Knows nothing of how the store works. Of each fact it knows the values it may have: one, unless a request died."""

    def __init__(self) -> None:
        self.facts: dict[Fact, frozenset[object]] = {}
        self.promises: dict[Place, int] = {}
        """When each was made or renewed last."""
        self.may_see: set[Place] = set()
        """What is not in here must not be seen."""
        self.kept_at: dict[Record, int] = {}
        """When a record was pushed, or was kept by a tag, for the last time."""
        self.undecided: set[Fact] = set()
        """Facts that stay in doubt until a request decides them."""
        self.lost: set[Digest] = set()
        """Blobs whose bytes the disk destroyed, until they are pushed anew."""

    def values(self, fact: Fact) -> frozenset[object]:
        """The values a fact may have."""
        return self.facts.get(fact, frozenset({None if isinstance(fact, Tag) else False}))

    def records(self) -> list[Record]:
        """The records that must be there."""
        return [fact for fact in self.facts if isinstance(fact, Record) and self.values(fact) == {True}]

    def untagging(self, repository: str, digest: Digest) -> dict[Fact, frozenset[object]]:
        """What becomes of a repository's tags when a manifest goes."""
        tags = [fact for fact in self.facts if isinstance(fact, Tag) and fact.repository == repository]
        return {tag: self.values(tag) - {digest} | {None} for tag in tags if digest in self.values(tag)}

    # Requests

    def begin(self, change: Change, now_ms: int) -> Oracle:
        """A request is on its way: from now on its changes may be seen, or not. Returns what was known before."""
        before = Oracle()
        before.facts, before.promises = dict(self.facts), dict(self.promises)
        for fact, values in change.facts.items():
            self.facts[fact] = self.values(fact) | values
            if isinstance(fact, Record) and values == {True}:
                # Should nobody hear the answer, and it be found later.
                self.kept_at.setdefault(fact, now_ms)
        self.may_see |= change.sees
        for place in change.lets_go:
            self.promises.pop(place, None)
        return before

    def answered(self, change: Change, now_ms: int) -> None:
        """It was answered with success."""
        self.facts.update(change.facts)
        self.undecided -= change.facts.keys()
        for fact, values in change.facts.items():
            if isinstance(fact, Record) and values == {True}:
                self.kept_at[fact] = now_ms
        self.may_see -= change.lets_go
        self.promises.update(dict.fromkeys(change.promises, now_ms))

    def refused(self, before: Oracle) -> None:
        """It was refused: nothing changed."""
        self.facts, self.promises = before.facts, before.promises

    def narrow(self, fact: Fact, value: object) -> None:
        """A fact in doubt was looked at, and the journal knows of it: that is how it is."""
        if fact not in self.undecided:
            self.facts[fact] = frozenset({value})

    # Time and collections

    def kept(self, *, keeps_untagged: bool) -> set[Record]:
        """The records that no collection may drop, whatever the time: from tags (and from untagged manifests that are
        nobody's referrer, if those are kept) to all that is below and beside them."""
        there = set(self.records())
        waiting = [Record(tag.repository, digest) for tag, digest in self.certain_tags()]
        if keeps_untagged:
            waiting += [record for record in there if BY_DIGEST[record.digest].subject is None]
        reached = set(waiting)
        while waiting:
            for found in self._beside(waiting.pop()) & there - reached:
                reached.add(found)
                waiting.append(found)
        return reached

    def certain_tags(self) -> list[tuple[Tag, Digest]]:
        """The tags that must name a certain manifest."""
        found = [(fact, values) for fact, values in self.facts.items() if isinstance(fact, Tag) and len(values) == 1]
        return [(fact, digest) for fact, values in found for digest in values if isinstance(digest, Digest)]

    def _beside(self, record: Record) -> set[Record]:
        below = children(BY_DIGEST[record.digest])
        referrers = [each for each in BY_DIGEST.values() if each.subject and each.subject.digest == record.digest]
        return {Record(record.repository, each.digest) for each in (*below, *referrers)}

    def time_is(self, now_ms: int, term_ms: int) -> None:
        """Promises older than their term are owed no longer; what a tag keeps is kept until now at least."""
        self.promises = {place: made_ms for place, made_ms in self.promises.items() if now_ms < made_ms + term_ms}
        self.kept_at.update(dict.fromkeys(self.kept(keeps_untagged=False), now_ms))

    def collecting(self, now_ms: int, term_ms: int, *, keeps_untagged: bool) -> None:
        """A collection of that grace is about to run."""
        self.promises = {place: made_ms for place, made_ms in self.promises.items() if now_ms < made_ms + term_ms}
        kept = self.kept(keeps_untagged=keeps_untagged)
        for record in self.records():
            if record not in kept and now_ms >= self.kept_at[record] + term_ms:
                self.facts[record] = frozenset({True, False})

    def rebuilt(self, now_ms: int) -> None:
        """The index was made anew: whom a blob without a manifest was promised to is forgotten, but not the blob. A manifest
        whose bytes are gone can't be read, so its record and its tags may be gone; they come back where a later rebuild begins
        with a checkpoint that is older than this one. A pin needs no bytes."""
        for fact in self.facts:
            if isinstance(fact, Record) and fact.digest in self.lost and True in self.facts[fact]:
                self.facts[fact] |= {False}
                self.undecided.add(fact)
            elif isinstance(fact, Tag) and self.facts[fact] & self.lost:
                self.facts[fact] |= {None}
                self.undecided.add(fact)
        self.promises = {(None, digest): now_ms for _, digest in self.promises if digest not in self.lost}
        self.kept_at = dict.fromkeys(self.kept_at, now_ms)
