"""What collectors and reports read: slices of tables, each one transaction, hints all of them."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import msgspec

from blobstore.abc.records import (
    Alias,
    Guards,
    Hold,
    LetGo,
    ManifestKey,
    ManifestNode,
    ReferencedBlob,
    Slice,
    Standing,
    Totals,
    Trash,
    Unreferenced,
)
from blobstore.digest import Digest
from blobstore.errors import IndexDamaged
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.index import _references as references
from blobstore.index import _state as state
from blobstore.index._outbox import last_sequence
from blobstore.index._records import EDGE_MANIFEST
from blobstore.index._tables import Table, Transaction
from blobstore.names import RepositoryName
from blobstore.promises import PINNED_MS, Activity, HoldTerms

_LAPSED_SEEN_MAX = 50_000


def totals(tx: Transaction) -> Totals:
    """Counters, read at once."""
    stored = tx.get(Table.META, records.META_TOTALS)
    row = records.TOTALS.decode(stored) if stored else records.TotalsRow.zero()
    return Totals(
        **{name: getattr(row, name) for name in row.__struct_fields__},
        manifests=tx.count(Table.MANIFESTS),
        loose_manifests=tx.count(Table.LOOSE_BY_TIME),
        tags=tx.count(Table.TAGS),
        repositories=tx.count(Table.REPOSITORIES),
        uploads=tx.count(Table.INTENTS),
        trash=tx.count(Table.TRASH),
    )


def guards(tx: Transaction) -> Guards:
    """What keeps collectors from acting."""
    frozen = tx.get(Table.META, records.META_FROZEN)
    quiet = tx.get(Table.META, records.META_QUIET_SINCE)
    high = tx.get(Table.META, records.META_CLOCK_HIGH)
    orphan_scan = tx.get(Table.META, records.META_ORPHAN_SCAN)
    return Guards(
        frozen.decode() if frozen else None,
        records.from_u64(quiet) if quiet else 0,
        records.from_u64(high) if high else 0,
        orphan_scan is not None,
        last_sequence(tx),
        orphan_scan or b"",
    )


def node(tx: Transaction, key: bytes, row: records.ManifestRow) -> ManifestNode | None:
    """A record as marking needs it; None in a repository that is being removed."""
    name = _visible_name(tx, key[:4])
    if name is None:
        return None
    edges = tx.scan_prefix(Table.EDGES_FROM, key)
    children = [Digest.from_sha256(found[36:]) for found, kind in edges if kind == EDGE_MANIFEST]
    return _node(tx, key, ManifestKey(name, Digest.from_sha256(key[4:])), row, children)


def _visible_name(tx: Transaction, prefix: bytes) -> RepositoryName | None:
    name = state.repository_name(tx, records.from_u32(prefix))
    return name if tx.get(Table.REMOVALS, prefix) is None else None


def _node(
    tx: Transaction, key: bytes, named: ManifestKey, row: records.ManifestRow, children: list[Digest]
) -> ManifestNode:
    record = state.manifest_value(named, row)
    subject = state.canonical(tx, record.subject) if record.subject is not None else None
    if subject is not None:
        record = msgspec.structs.replace(record, subject=Digest.from_sha256(subject))
    return ManifestNode(record, tuple(children), key)


def find_node(tx: Transaction, key: ManifestKey) -> ManifestNode | None:
    """One manifest, as marking needs it."""
    place = state.manifest_key(tx, key)
    row = state.get_manifest(tx, place) if place is not None else None
    return node(tx, place, row) if place is not None and row is not None else None


def scan_manifests(tx: Transaction, after: bytes | None, limit: int) -> Slice[ManifestNode]:
    """A slice of all records, those of one repository together; their edges are read by a second cursor in step."""
    found: list[ManifestNode] = []
    edges = tx.scan(Table.EDGES_FROM, after + b"\xff" * 33 if after else b"")
    edge = next(edges, None)
    prefix, name = b"", None
    seen, last = 0, b""
    for key, value in tx.scan(Table.MANIFESTS, after + b"\0" if after else b""):
        if seen == limit:
            return Slice(tuple(found), last)
        seen, last = seen + 1, key
        if key[:4] != prefix:
            prefix, name = key[:4], _visible_name(tx, key[:4])
        children: list[Digest] = []
        while edge is not None and edge[0][:36] <= key:
            if edge[1] == EDGE_MANIFEST and edge[0][:36] == key:
                children.append(Digest.from_sha256(edge[0][36:]))
            edge = next(edges, None)
        if name is not None:
            named = ManifestKey(name, Digest.from_sha256(key[4:]))
            found.append(_node(tx, key, named, records.MANIFEST.decode(value), children))
    return Slice(tuple(found), None)


def scan_references(tx: Transaction, after: bytes | None, limit: int) -> Slice[ReferencedBlob]:
    """A slice of all blobs with their parents."""
    found: list[ReferencedBlob] = []
    for raw, value in tx.scan(Table.BLOBS, after + b"\0" if after else b""):
        if len(found) == limit:
            return Slice(tuple(found), found[-1].blob.digest.value)
        keys = [key[32:] for key, _ in tx.scan_prefix(Table.EDGES_TO, raw)]
        parents = tuple(each for key in keys if (each := state.manifest_key_value(tx, key)) is not None)
        found.append(ReferencedBlob(state.blob_value(raw, records.BLOB.decode(value)), parents))
    return Slice(tuple(found), None)


def scan_unreferenced(
    tx: Transaction, after: bytes | None, limit: int, dropped: AbstractSet[bytes], spared: AbstractSet[bytes]
) -> Slice[Unreferenced]:
    """The anti-join: two cursors in step, one over blobs and one over edges, both sorted by digest."""
    start = after + b"\0" if after else b""
    edges = tx.scan(Table.EDGES_TO, after + b"\xff" * 36 if after else b"")
    edge = next(edges, None)
    found: list[tuple[bytes, bytes, bytes | None, bool, bool]] = []
    seen, last = 0, b""
    end: bytes | None = None
    are_all_live = not dropped and not spared
    for raw, value in tx.scan(Table.BLOBS, start):
        if seen == limit:
            end = last
            break
        seen, last = seen + 1, raw
        is_kept = is_dropped = is_spared = False
        token: bytes | None = None
        while edge is not None and (child := edge[0][:32]) <= raw:
            if child != raw:
                raise _dangling(child)
            token = edge[0][32:]
            if are_all_live:
                is_kept = True
            elif token in dropped:
                is_dropped = True
            elif token in spared:
                is_spared = True
            else:
                is_kept = True
            edge = next(edges, None)
        if not is_kept:
            found.append((raw, value, token, is_dropped, is_spared))
    if end is None and edge is not None:
        raise _dangling(edge[0][:32])
    items = [
        _unreferenced(
            raw,
            records.BLOB.decode(value),
            is_dropped,
            is_spared,
            state.manifest_key_value(tx, token) if token is not None else None,
        )
        for raw, value, token, is_dropped, is_spared in found
    ]
    return Slice(tuple(items), end)


def _unreferenced(
    raw: bytes,
    row: records.BlobRow,
    is_dropped: bool,  # noqa: FBT001
    is_spared: bool,  # noqa: FBT001
    keeper: ManifestKey | None,
) -> Unreferenced:
    digest, status = Digest.from_sha256(raw), state.blob_state(row)
    return Unreferenced(digest, status, row.size, is_dropped, is_spared, keeper)


def _dangling(raw: bytes) -> IndexDamaged:
    return IndexDamaged(
        f"a manifest refers to sha256:{raw.hex()}, of which the index has no row; nothing was collected, "
        "run `blobstore index rebuild`"
    )


def sum_edges(tx: Transaction, after: bytes | None, limit: int, is_reverse: bool) -> tuple[int, bytes | None]:  # noqa: FBT001
    """A sum of (salted) hashes over a slice of edges, the same from either table whatever their order."""
    total = seen = 0
    last = after
    table = Table.EDGES_TO if is_reverse else Table.EDGES_FROM
    for key in tx.scan_keys(table, after + b"\0" if after else b""):
        if seen == limit:
            return total, last
        seen, last = seen + 1, key
        total += hash(key) if is_reverse else hash(key[36:] + key[:36])
    return total, None


def check_edges(tx: Transaction, after: bytes | None, limit: int) -> bytes | None:
    """Each forward edge must have its reverse, and there must be as many of both."""
    seen = 0
    get = tx.get
    last = after
    for key, _ in tx.scan(Table.EDGES_FROM, after + b"\0" if after else b""):
        if seen == limit:
            return last
        seen, last = seen + 1, key
        if get(Table.EDGES_TO, key[36:] + key[:36]) is None:
            raise IndexDamaged(
                f"the edge from manifest sha256:{key[4:36].hex()} to sha256:{key[36:].hex()} has no reverse; "
                "nothing was collected, run `blobstore index rebuild`"
            )
    forward, reverse = tx.count(Table.EDGES_FROM), tx.count(Table.EDGES_TO)
    if forward != reverse:
        raise IndexDamaged(
            f"{forward} edges lead from manifests and {reverse} to blobs; nothing was collected, "
            "run `blobstore index rebuild`"
        )
    return None


def scan_aliases(tx: Transaction, after: bytes | None, limit: int) -> Slice[Alias]:
    """A slice of all aliases."""
    found: list[Alias] = []
    last = b""
    for key, raw in tx.scan(Table.ALIASES, after + b"\0" if after else b""):
        if len(found) == limit:
            return Slice(tuple(found), last)
        last = key
        found.append(Alias(records.digest_from_key(key), Digest.from_sha256(raw)))
    return Slice(tuple(found), None)


def list_lapsed_holds(tx: Transaction, terms: HoldTerms, now_ms: int, after: bytes | None, limit: int) -> Slice[Digest]:
    """Lapsed holds that no condemning batch has worked off yet, oldest first."""
    found: list[Digest] = []
    seen, last = 0, b""
    for key, _ in tx.scan(Table.HOLDS_BY_TIME, after + b"\0" if after else b""):
        renewed_at_ms = records.from_u64(key[:8])
        if renewed_at_ms + terms.term_ms > now_ms:
            return Slice(tuple(found), None)
        if len(found) == limit or seen == _LAPSED_SEEN_MAX:
            return Slice(tuple(found), last)
        seen, last = seen + 1, key
        if state.is_hold_lapsed(tx, key[8:], records.HoldRow(renewed_at_ms, None), now_ms, terms):
            found.append(Digest.from_sha256(key[8:40]))
    return Slice(tuple(found), None)


def list_holds(tx: Transaction, digest: Digest) -> list[Hold]:
    """Every hold of a blob."""
    raw = state.canonical(tx, digest)
    found: list[Hold] = []
    for key, row in state.holds(tx, raw) if raw is not None else ():
        number = records.from_u32(key[32:])
        found.append(
            Hold(
                Digest.from_sha256(key[:32]),
                state.repository_name(tx, number),
                row.renewed_at_ms,
                state.activity(tx, number),
                state.manifest_key_value(tx, row.last_referrer) if row.last_referrer else None,
            )
        )
    return found


def list_loose_manifests(
    tx: Transaction,
    before_ms: int,
    after: bytes | None,
    limit: int,
    is_subject_gone: bool,  # noqa: FBT001
) -> Slice[ManifestNode]:
    """Manifests that lost tag, parent and subject before a time."""
    kind = b"\x01" if is_subject_gone else b"\x00"
    found: list[ManifestNode] = []
    seen, last = 0, b""
    for key, _ in tx.scan(Table.LOOSE_BY_TIME, after + b"\0" if after else kind):
        if not key.startswith(kind) or records.from_u64(key[1:9]) > before_ms:
            return Slice(tuple(found), None)
        if seen == limit:
            return Slice(tuple(found), last)
        seen, last = seen + 1, key
        row = state.get_manifest(tx, key[9:])
        assert row is not None, key.hex()
        each = node(tx, key[9:], row)
        if each is not None:
            found.append(each)
    return Slice(tuple(found), None)


def list_referrer_nodes(tx: Transaction, key: ManifestKey) -> list[ManifestNode]:
    """The referrers of a manifest, as marking needs them."""
    place = state.manifest_key(tx, key)
    found: list[ManifestNode] = []
    for referrer in references.referrers(tx, place) if place is not None else ():
        row = state.get_manifest(tx, referrer)
        each = node(tx, referrer, row) if row is not None else None
        if each is not None:
            found.append(each)
    return found


def standings(tx: Transaction, digests: Sequence[Digest], now_ms: int, terms: HoldTerms) -> list[Standing]:
    """What keeps each of some blobs."""
    found: list[Standing] = []
    activities: dict[bytes, Activity] = {}
    for digest in digests:
        row = state.get_blob(tx, digest.value)
        if row is None:
            continue
        until_ms, is_held = 0, False
        last: bytes | None = None
        for key, hold in state.holds(tx, digest.value):
            activity = activities.get(key[32:])
            if activity is None:
                activity = activities[key[32:]] = state.activity(tx, records.from_u32(key[32:]))
            lapses_ms = terms.lapses_at_ms(hold.renewed_at_ms, activity)
            is_held = is_held or hold.renewed_at_ms >= PINNED_MS or lapses_ms > now_ms
            if lapses_ms >= until_ms:
                # A hold that was let go ended at no time of its own.
                until_ms, last = lapses_ms if hold.renewed_at_ms else until_ms, hold.last_referrer or last
        referrer = state.manifest_key_value(tx, last) if last is not None else None
        has_edge = state.has_edge(tx, digest.value)
        found.append(Standing(digest, state.blob_state(row), row.size, has_edge, is_held, until_ms, referrer))
    return found


def list_let_go(tx: Transaction, keys: Sequence[ManifestKey], going: AbstractSet[ManifestKey]) -> list[LetGo]:
    """What only going records keep."""
    places = {state.manifest_key(tx, key) for key in going}
    keepers: dict[bytes, ManifestKey] = {}
    for key in keys:
        place = state.manifest_key(tx, key)
        for edge, _ in tx.scan_prefix(Table.EDGES_FROM, place) if place is not None else ():
            raw = edge[36:]
            if raw not in keepers and all(to[32:] in places for to, _ in tx.scan_prefix(Table.EDGES_TO, raw)):
                keepers[raw] = key
    return [LetGo(Digest.from_sha256(raw), keeper) for raw, keeper in keepers.items()]


def list_due_trash(tx: Transaction, now_ms: int, terms: HoldTerms, after: bytes | None, limit: int) -> Slice[Trash]:
    """All that is retiring, then what is due and not wanted back."""
    found: list[Trash] = []
    seen, last = 0, b""
    for key, _ in tx.scan(Table.TRASH_BY_TIME, after + b"\0" if after else b""):
        if records.from_u64(key[:8]) > now_ms:
            break
        if seen == limit:
            return Slice(tuple(found), last)
        seen, last = seen + 1, key
        row = state.get_trash(tx, key[8:])
        assert row is not None, key.hex()
        if row.state == records.TRASH_RETIRING or not _is_wanted(tx, key[8:], row, now_ms, terms):
            found.append(state.trash_value(key[8:], row))
    return Slice(tuple(found), None)


def _is_wanted(tx: Transaction, generation: bytes, row: records.TrashRow, now_ms: int, terms: HoldTerms) -> bool:
    """Whether `retire` would give this back, or find it given back already."""
    blob = state.get_blob(tx, row.digest) if row.digest is not None else None
    if blob is None or row.digest is None or blob.generation != generation:
        return False
    if blob.state != records.STATE_CONDEMNED or state.has_edge(tx, row.digest):
        return True
    return any(not state.is_hold_lapsed(tx, key, hold, now_ms, terms) for key, hold in state.holds(tx, row.digest))


def find_trash(tx: Transaction, generation: Generation) -> Trash | None:
    """One row of the trash."""
    row = state.get_trash(tx, generation.key)
    return state.trash_value(generation.key, row) if row is not None else None
