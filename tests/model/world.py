"""The abstract state with what several guards ask of it, and the few ways in which it may change."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.model.state import (
    CONDEMNED,
    PRESENT,
    RETIRING,
    SUSPECT,
    WAITING,
    BlobRow,
    HoldRow,
    RecordRow,
    RepositoryRow,
    State,
    TrashRow,
)

NOBODY = 0
PINNED_MS = 2**63 - 1
_PAUSE_MS = (24 * 3600 + 60) * 1000

Terms = dict[str, float]


class Broken(Exception):
    """The state itself was broken by a verb: an invariant, whatever the guards say."""


class Refused(Exception):
    """The guards want this verb refused, with an error of this name."""


class World:
    """One index as the protocol sees it. Written from the design, not from the engine."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self.parents: dict[str, set[str]] = defaultdict(set)
        """Records that keep a blob."""
        self.subjects: dict[str, set[str]] = defaultdict(set)
        """Records by `<repository>/<subject>`."""
        self.retired: set[str] = set()
        """Generations whose bytes may have been deleted: none ever comes back."""
        self.tags: dict[str, set[str]] = defaultdict(set)
        """Tags by the record they name."""
        for key, record in self.state.records.items():
            for child in record.children:
                self.parents[child].add(key)
            if record.subject is not None:
                self.subjects[f"{number_of(key)}/{record.subject}"].add(key)
        for tag, digest in self.state.tags.items():
            self.tags[f"{number_of(tag)}/{digest}"].add(tag)

    # Repositories

    def find_repository(self, name: str) -> int | None:
        row = self.state.repositories.get(name)
        return row.number if row is not None else None

    def make_repository(self, name: str) -> int:
        if name not in self.state.repositories:
            self.state.repositories[name] = RepositoryRow(self.state.next_repository)
            self.state.next_repository += 1
        return self.state.repositories[name].number

    def note_activity(self, name: str, now_ms: int, terms: Terms) -> None:
        self.make_repository(name)
        row = self.state.repositories[name]
        if now_ms - row.until_ms > max(term_ms(terms), _PAUSE_MS):
            row.since_ms = now_ms
        row.until_ms = max(row.until_ms, now_ms)

    # Blobs

    def canonical(self, digest: str) -> str | None:
        """The sha256 that any digest stands for."""
        return self.state.aliases.get(digest) if ":" in digest else digest

    def blob(self, digest: str | None) -> BlobRow | None:
        return self.state.blobs.get(digest) if digest is not None else None

    def install(self, digest: str, generation: str, names: list[str], now_ms: int) -> None:
        """New bytes for a digest that has none, or suspect ones, or none that a frozen index can be sure of."""
        if generation in self.retired:
            raise Broken(f"{generation} was retired and comes back as {digest}")
        old = self.state.blobs.get(digest)
        if old is not None:
            assert old.state == SUSPECT or self.state.is_frozen, old
        self.state.blobs[digest] = BlobRow(PRESENT, generation, list(names))
        if old is not None:
            self.trash(old.generation, old.names, now_ms)

    def revive(self, digest: str) -> None:
        row = self.state.blobs[digest]
        assert row.state == CONDEMNED, row
        row.state = PRESENT
        self.state.trash.pop(row.generation, None)
        for hold in self.state.holds.get(digest, {}).values():
            hold.is_in_order = True

    def remove_blob(self, digest: str) -> None:
        """Its row, aliases and holds. The names are the caller's to put into the trash."""
        if self.parents.get(digest):
            raise Broken(f"{digest} went while {sorted(self.parents[digest])} keep it")
        del self.state.blobs[digest]
        self.state.holds.pop(digest, None)
        for alias in [alias for alias, of in self.state.aliases.items() if of == digest]:
            del self.state.aliases[alias]

    def add_aliases(self, digest: str, aliases: list[str]) -> None:
        for alias in aliases:
            self.state.aliases[alias] = digest

    # Holds

    def hold(self, digest: str, repository: int, renewed_at_ms: int) -> None:
        """Make or renew a hold; a longer one stays."""
        rows = self.state.holds.setdefault(digest, {})
        before = rows.get(repository)
        rows[repository] = HoldRow(max(renewed_at_ms, before.renewed_at_ms if before else 0))

    def drop_hold(self, digest: str, repository: int) -> None:
        del self.state.holds[digest][repository]
        if not self.state.holds[digest]:
            del self.state.holds[digest]

    def let_go(self, digest: str, repository: int) -> None:
        """A hold ends; a lapsed one of nobody lets the collector find the blob."""
        self.drop_hold(digest, repository)
        if NOBODY not in self.state.holds.get(digest, {}):
            self.hold(digest, NOBODY, 0)

    def is_lapsed(self, digest: str, repository: int, now_ms: int, terms: Terms) -> bool:
        """Whether nothing is owed for a hold any more: docs/storage.md, Promises."""
        renewed_ms, term = self.state.holds[digest][repository].renewed_at_ms, term_ms(terms)
        if renewed_ms == PINNED_MS:
            return False
        lapses_ms = renewed_ms + term
        since_ms, until_ms = self._activity(repository)
        if term and renewed_ms and since_ms <= lapses_ms:
            longest_ms = renewed_ms + max(term, int(terms["activity_max_s"] * 1000))
            lapses_ms = max(lapses_ms, min(until_ms + term, longest_ms))
        return now_ms >= lapses_ms

    def _activity(self, number: int) -> tuple[int, int]:
        for row in self.state.repositories.values():
            if row.number == number:
                return row.since_ms, row.until_ms
        return 0, 0

    def split_holds(self, digest: str, now_ms: int, terms: Terms) -> tuple[list[int], bool]:
        """The repositories whose hold has lapsed, and whether another one stands."""
        rows = self.state.holds.get(digest, {})
        lapsed = [number for number in rows if self.is_lapsed(digest, number, now_ms, terms)]
        return lapsed, len(lapsed) < len(rows)

    # Edges

    def has_edge(self, digest: str) -> bool:
        return bool(self.parents.get(digest))

    def has_edge_from(self, digest: str, repository: int) -> bool:
        return any(number_of(key) == repository for key in self.parents.get(digest, ()))

    def is_visible(self, digest: str, repository: int | None, now_ms: int, terms: Terms) -> bool:
        """By an edge, or by a hold that stands; a lapsed one will do while the blob is condemned."""
        row = self.blob(digest)
        if row is None or row.state == SUSPECT or repository is None:
            return False
        if self.has_edge_from(digest, repository):
            return True
        if repository not in self.state.holds.get(digest, {}):
            return False
        return row.state == CONDEMNED or not self.is_lapsed(digest, repository, now_ms, terms)

    def add_edge(self, key: str, child: str, kind: str) -> None:
        row = self.blob(child)
        if row is None or row.state == CONDEMNED:
            raise Broken(f"an edge of {key} to {child}, which is {row.state if row else 'absent'}")
        self.state.records[key].children[child] = kind
        self.parents[child].add(key)

    def index_parents(self, key: str) -> list[str]:
        """The image indexes of its repository that list a manifest."""
        number, digest = number_of(key), digest_of(key)
        found = [parent for parent in self.parents.get(digest, ()) if number_of(parent) == number]
        return [parent for parent in found if self.state.records[parent].children[digest] == "m"]

    def subject_key(self, key: str) -> str | None:
        """The record of a manifest's subject, if it is here."""
        subject = self.state.records[key].subject
        raw = self.canonical(subject) if subject is not None else None
        found = f"{number_of(key)}/{raw}"
        return found if raw is not None and found in self.state.records else None

    def referrers(self, key: str) -> list[str]:
        digest = digest_of(key)
        names = [digest, *(alias for alias, of in self.state.aliases.items() if of == digest)]
        return [found for name in names for found in self.subjects.get(f"{number_of(key)}/{name}", ())]

    def set_tag(self, key: str, tag: str, now_ms: int) -> None:
        """Point a tag at a record; the one it named before lost it."""
        place = f"{number_of(key)}/{tag}"
        if self.state.tags.get(place) != digest_of(key):
            if place in self.state.tags:
                self.untag(place, now_ms)
            self.state.tags[place] = digest_of(key)
            self.tags[key].add(place)

    def untag(self, place: str, now_ms: int) -> None:
        """A tag goes, and the record it named lost it."""
        key = f"{number_of(place)}/{self.state.tags.pop(place)}"
        self.tags[key].discard(place)
        self.lose(key, now_ms)

    def is_loose(self, key: str) -> bool:
        return not self.tags[key] and not self.index_parents(key) and self.subject_key(key) is None

    def lose(self, key: str, now_ms: int) -> None:
        """Something that held a manifest went."""
        record = self.state.records.get(key)
        if record is not None:
            record.lost_at_ms = max(now_ms, record.lost_at_ms)

    def insert_record(self, key: str, manifest: dict[str, Any], edges: dict[str, str], now_ms: int) -> None:
        """Record, edges and subject; pushed again, only its grace is renewed."""
        known = self.state.records.get(key)
        if known is not None:
            known.lost_at_ms = max(now_ms, known.lost_at_ms)
            for child, kind in edges.items():
                if child not in known.children:
                    self.add_edge(key, child, kind)
            return
        subject = manifest["subject"]
        subject = (self.canonical(subject) or subject) if subject is not None else None
        self.state.records[key] = RecordRow(subject, now_ms, False, {})
        for child, kind in {digest_of(key): "s", **edges}.items():
            self.add_edge(key, child, kind)
        if subject is not None:
            self.subjects[f"{number_of(key)}/{subject}"].add(key)
        for referrer in self.referrers(key):
            self.state.records[referrer].is_subject_gone = False

    def remove_record(self, key: str, now_ms: int) -> None:
        """Tags, record and edges go. What it kept is promised from now on; its referrers note that it went."""
        number = number_of(key)
        for tag in self.tags.pop(key, ()):
            del self.state.tags[tag]
        record = self.state.records.pop(key)
        if record.subject is not None:
            self.subjects[f"{number}/{record.subject}"].discard(key)
        for child in record.children:
            self.parents[child].discard(key)
            if not self.has_edge_from(child, number):
                self.hold(child, number, now_ms)
        for child, kind in record.children.items():
            if kind == "m":
                self.lose(f"{number}/{child}", now_ms)
        for referrer in self.referrers(key):
            self.state.records[referrer].is_subject_gone = True
            self.lose(referrer, now_ms)

    # Trash

    def trash(self, generation: str, names: list[str], now_ms: int) -> None:
        """Bytes that nobody can reach any more: never those of a blob; and beside a condemned one's they wait with it."""
        of_blobs = {name for row in self.state.blobs.values() if row.generation == generation for name in row.names}
        others = [name for name in names if name not in of_blobs]
        before = self.state.trash.get(generation)
        if before is not None and before.state == WAITING:
            self.put_trash(generation, TrashRow(before.digest, WAITING, before.not_before_ms, others, before.run))
            return
        self.put_trash(generation, TrashRow(None, RETIRING, now_ms, others, None))
        self.note_retired(generation)

    def note_retired(self, generation: str) -> None:
        """It never comes back; unless a blob has it, of whose upload another session had left something."""
        if all(row.generation != generation for row in self.state.blobs.values()):
            self.retired.add(generation)

    def put_trash(self, generation: str, row: TrashRow) -> None:
        """A row, with the names that were there before."""
        before = self.state.trash.get(generation)
        row.names = list(dict.fromkeys([*(before.names if before is not None else ()), *row.names]))
        self.state.trash[generation] = row


def term_ms(terms: Terms) -> int:
    """How long a hold lasts."""
    return int((terms["grace_s"] + terms["renew_s"]) * 1000) if terms["grace_s"] > 0 else 0


def number_of(key: str) -> int:
    """The repository of a record's key."""
    return int(key.split("/", 1)[0])


def digest_of(key: str) -> str:
    """The digest of a record's key."""
    return key.split("/", 1)[1]
