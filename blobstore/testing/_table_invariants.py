"""What the tables of a key-value index must say of each other, looked at in one transaction."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from blobstore.index import _records as records
from blobstore.index import _state as state
from blobstore.index._outbox import last_sequence
from blobstore.index._records import EDGE_MANIFEST, EDGE_SELF, u32, u64
from blobstore.index._tables import Table, Transaction

_DIGEST = 32
_NO_EPOCH = bytes(8)
"""Of the generation of a blob that a rebuild found lost: nothing lies under it."""
_UNRECORDED = 1 << 63


def broken_tables(tx: Transaction) -> list[str]:
    """Each row that contradicts another one, a line each."""
    return [problem for check in _CHECKS for problem in check(tx)]


def _rows(tx: Transaction, table: Table) -> Iterator[tuple[bytes, bytes]]:
    return tx.scan(table, b"")


def _mirror(tx: Transaction, table: Table, expected: set[bytes]) -> Iterator[str]:
    """A secondary table holds exactly the keys that its primary rows ask for."""
    found = {key for key, _ in _rows(tx, table)}
    for key in sorted(expected - found):
        yield f"{table.name} lacks {key.hex()}"
    for key in sorted(found - expected):
        yield f"{table.name} has {key.hex()}, which no row asks for"


def _blobs(tx: Transaction) -> Iterator[str]:
    aliases: set[bytes] = set()
    seen: dict[bytes, bytes] = {}
    for raw, value in _rows(tx, Table.BLOBS):
        row = records.BLOB.decode(value)
        aliases.update(row.aliases)
        if seen.setdefault(row.generation, raw) != raw:
            yield f"I7: generation {row.generation.hex()} belongs to two blobs"
        if not state.has_edge(tx, raw) and not state.holds(tx, raw):
            yield f"blob {raw.hex()} has neither edge nor hold"
        trash = state.get_trash(tx, row.generation)
        if row.state == records.STATE_CONDEMNED:
            if trash is None or trash.state != records.TRASH_WAITING or trash.digest != raw:
                yield f"condemned blob {raw.hex()} has no trash row that waits"
        elif trash is not None and not set(trash.names).isdisjoint(state.blob_value(raw, row).names):
            # What another session of its upload had left may be there, under the same generation.
            yield f"I7: blob {raw.hex()} lives, but its name of generation {row.generation.hex()} is in the trash"
    yield from _mirror(tx, Table.ALIASES, aliases)


def _edges(tx: Transaction) -> Iterator[str]:
    reverse: set[bytes] = set()
    own: set[bytes] = set()
    for key, kind in _rows(tx, Table.EDGES_FROM):
        parent, child = key[: 4 + _DIGEST], key[4 + _DIGEST :]
        reverse.add(child + parent)
        if tx.get(Table.MANIFESTS, parent) is None:
            yield f"an edge of {parent.hex()}, which has no record"
        if state.get_blob(tx, child) is None:
            yield f"I2: {parent.hex()} refers to {child.hex()}, which is gone"
        if kind == EDGE_MANIFEST and tx.get(Table.MANIFESTS, key[:4] + child) is None:
            yield f"I2: {parent.hex()} lists the manifest {child.hex()}, which has no record"
        if kind == EDGE_SELF:
            own.add(parent)
    yield from _mirror(tx, Table.EDGES_TO, reverse)
    yield from _mirror(tx, Table.MANIFESTS, own)


def _edges_of_condemned(tx: Transaction) -> Iterator[str]:
    """What a manifest refers to lives: condemning, and putting a manifest, look at the same rows."""
    for raw, value in _rows(tx, Table.BLOBS):
        if records.BLOB.decode(value).state == records.STATE_CONDEMNED and state.has_edge(tx, raw):
            yield f"I2: {raw.hex()} is condemned, but a manifest refers to it"


def _manifests(tx: Transaction) -> Iterator[str]:
    loose: set[bytes] = set()
    referrers: set[bytes] = set()
    tags = Counter(key[: 4 + _DIGEST] for key, _ in _rows(tx, Table.TAGS_OF))
    for key, value in _rows(tx, Table.MANIFESTS):
        row = records.MANIFEST.decode(value)
        if tx.get(Table.REPOSITORY_NAMES, key[:4]) is None:
            yield f"manifest {key.hex()} belongs to no repository"
        if row.tag_count != tags[key]:
            yield f"manifest {key.hex()} counts {row.tag_count} tags, and has {tags[key]}"
        if bool(row.loose_at_ms) != state.is_loose(tx, key, row):
            yield f"manifest {key.hex()} is {'not ' if row.loose_at_ms else ''}loose, and its row says otherwise"
        if row.loose_at_ms:
            loose.add((b"\x01" if row.is_subject_gone else b"\x00") + u64(row.loose_at_ms) + key)
        if row.subject is not None:
            referrers.add(key[:4] + row.subject + key[4:])
    yield from _mirror(tx, Table.LOOSE_BY_TIME, loose)
    yield from _mirror(tx, Table.REFERRERS, referrers)


def _tags(tx: Transaction) -> Iterator[str]:
    of: set[bytes] = set()
    for key, value in _rows(tx, Table.TAGS):
        manifest = key[:4] + records.TAG.decode(value).digest
        of.add(manifest + key[4:])
        if tx.get(Table.MANIFESTS, manifest) is None:
            yield f"I2: tag {key[4:].decode()} names {manifest.hex()}, which has no record"
    yield from _mirror(tx, Table.TAGS_OF, of)


def _holds(tx: Transaction) -> Iterator[str]:
    by_time: set[bytes] = set()
    for key, value in _rows(tx, Table.HOLDS):
        row = state.get_blob(tx, key[:_DIGEST])
        if row is None:
            yield f"a hold of {key[:_DIGEST].hex()}, which is gone"
            continue
        place = u64(records.HOLD.decode(value).renewed_at_ms) + key
        # Condemning takes a hold that has done its work out of the order of time.
        if row.state != records.STATE_CONDEMNED or tx.get(Table.HOLDS_BY_TIME, place) is not None:
            by_time.add(place)
    yield from _mirror(tx, Table.HOLDS_BY_TIME, by_time)


def _trash(tx: Transaction) -> Iterator[str]:
    by_time: set[bytes] = set()
    for generation, value in _rows(tx, Table.TRASH):
        row = records.TRASH.decode(value)
        by_time.add(u64(0 if row.state == records.TRASH_RETIRING else row.not_before_ms) + generation)
        if tx.get(Table.INTENTS_BY_GENERATION, generation) is not None:
            yield f"I7: an open upload writes to {generation.hex()}, which is in the trash"
    yield from _mirror(tx, Table.TRASH_BY_TIME, by_time)


def _intents(tx: Transaction) -> Iterator[str]:
    by_time: set[bytes] = set()
    by_generation: set[bytes] = set()
    for key, value in _rows(tx, Table.INTENTS):
        row = records.INTENT.decode(value)
        by_time.add(u64(row.renewed_at_ms) + key)
        if row.generation in by_generation:
            yield f"I7: two open uploads write to {row.generation.hex()}"
        by_generation.add(row.generation)
    yield from _mirror(tx, Table.INTENTS_BY_TIME, by_time)
    yield from _mirror(tx, Table.INTENTS_BY_GENERATION, by_generation)


def _epochs(tx: Transaction) -> Iterator[str]:
    """Every generation in use was minted by an epoch the index knows, not beyond what that minted."""
    used = [records.BLOB.decode(value).generation for _, value in _rows(tx, Table.BLOBS)]
    used += [key for key, _ in _rows(tx, Table.INTENTS_BY_GENERATION)]
    used += [key for key, _ in _rows(tx, Table.TRASH)]
    for generation in used:
        stored = tx.get(Table.EPOCHS, generation[:8])
        counter = records.from_u64(generation[8:])
        is_minted = stored is not None and counter <= records.from_u64(stored)
        if generation[:8] != _NO_EPOCH and counter < _UNRECORDED and not is_minted:
            yield f"I7: generation {generation.hex()} is in use, but no epoch minted it"


def _repositories(tx: Transaction) -> Iterator[str]:
    ids = {u32(records.REPOSITORY.decode(value).id): name for name, value in _rows(tx, Table.REPOSITORIES)}
    names = dict(_rows(tx, Table.REPOSITORY_NAMES))
    hidden = dict(_rows(tx, Table.REMOVALS))
    for number, name in names.items():
        if ids.get(number) != name and hidden.get(number) != name:
            yield f"repository {name.decode()} has an id, {number.hex()}, but no row"
    for number in (ids.keys() | hidden.keys()) - names.keys():
        yield f"repository id {number.hex()} has no name"


def _totals(tx: Transaction) -> Iterator[str]:
    stored = tx.get(Table.META, records.META_TOTALS)
    totals = records.TOTALS.decode(stored) if stored else records.TotalsRow.zero()
    counted: dict[str, int] = defaultdict(int)
    for raw, value in _rows(tx, Table.BLOBS):
        row = records.BLOB.decode(value)
        kinds = [("present", "condemned", "suspect")[row.state]]
        if row.state == records.STATE_PRESENT and not state.has_edge(tx, raw):
            kinds.append("unreferenced")
        for kind in kinds:
            counted[f"{kind}_blobs"] += 1
            counted[f"{kind}_bytes"] += row.size
    for kind in ("present", "unreferenced", "condemned", "suspect"):
        for unit in ("blobs", "bytes"):
            name = f"{kind}_{unit}"
            if getattr(totals, name) != counted[name]:
                yield f"the index counts {getattr(totals, name)} {name}, and holds {counted[name]}"


def _outbox(tx: Transaction) -> Iterator[str]:
    last = last_sequence(tx)
    for key, _ in _rows(tx, Table.OUTBOX):
        if records.from_u64(key) > last:
            yield f"change {records.from_u64(key)} waits for the journal, but only {last} were numbered"


_CHECKS: tuple[Callable[[Transaction], Iterator[str]], ...] = (
    _blobs,
    _edges,
    _edges_of_condemned,
    _manifests,
    _tags,
    _holds,
    _trash,
    _intents,
    _epochs,
    _repositories,
    _totals,
    _outbox,
)
