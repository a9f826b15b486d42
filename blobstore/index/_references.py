"""The steps of manifests, tags and repositories, each a function over one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from blobstore.abc.records import (
    CommitOutcome,
    Content,
    Intent,
    ManifestKey,
    ManifestPut,
    ManifestRecord,
    TagEntry,
)
from blobstore.digest import Digest
from blobstore.errors import ManifestUnknown, RepositoryUnknown, StillReferenced, TagUnknown
from blobstore.index import _records as records
from blobstore.index import _state as state
from blobstore.index._outbox import emit
from blobstore.index._records import EDGE_BLOB, EDGE_MANIFEST, EDGE_SELF, u32
from blobstore.index._tables import Table, Transaction
from blobstore.index._uploads import add_aliases, note_fenced, settle_bytes
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName, TagName
from blobstore.promises import HoldTerms


class Child(msgspec.Struct, frozen=True):
    """A blob that a manifest is about to keep."""

    kind: bytes
    size: int
    is_suspect: bool = False


class _Checked(msgspec.Struct):
    """What the check of one put found: by manifest to insert, its children by raw digest."""

    edges: dict[bytes, dict[bytes, Child]]
    condemned: set[bytes]
    missing: list[Digest]
    needed: list[Digest]


def put_manifest(
    tx: Transaction,
    intent: Intent,
    content: Content,
    names: Sequence[str],
    manifest: Manifest,
    tags: Sequence[TagName],
    now_ms: int,
    terms: HoldTerms,
    replays: Sequence[Manifest],
) -> ManifestPut:
    """A manifest's bytes become a record with edges, subject and tags, if all it refers to is here."""
    assert intent.repository is not None
    number = state.repository_id(tx, intent.repository)
    by_raw = {replay.digest.value: replay for replay in replays}
    checked = _Checked({}, set(), [], [])
    _check_children(tx, manifest, number, by_raw, now_ms, terms, checked)
    if checked.missing:
        return _refuse(tx, intent, content, names, now_ms, checked.missing)
    if checked.needed:
        return ManifestPut(CommitOutcome.NOT_PUBLISHED, needed=tuple(checked.needed))
    committed = settle_bytes(tx, intent, content, names, now_ms)
    if committed.outcome in (CommitOutcome.NOT_PUBLISHED, CommitOutcome.INTERRUPTED):
        return ManifestPut(committed.outcome, trash=committed.trash)
    tx.add("pushed_bytes", content.size_bytes)
    number = state.make_repository(tx, intent.repository)
    for raw in checked.condemned:
        row = state.get_blob(tx, raw)
        if row is not None and row.state == records.STATE_CONDEMNED:
            state.revive(tx, raw, row)
    changes = add_aliases(tx, content.digest.value, content.aliases)
    # Children first, so that a record never stands before those it refers to.
    for raw, edges in reversed(checked.edges.items()):
        changes += insert_record(tx, number, by_raw.get(raw, manifest), edges, now_ms)
    for tag in tags:
        changes += _set_tag(tx, u32(number) + manifest.digest.value, tag, now_ms, content.aliases)
    changes += _known_records(tx, u32(number) + manifest.digest.value)
    return ManifestPut(committed.outcome, trash=committed.trash, sequence=emit(tx, changes))


def _refuse(
    tx: Transaction, intent: Intent, content: Content, names: Sequence[str], now_ms: int, missing: list[Digest]
) -> ManifestPut:
    """The manifest's own bytes are trash; the intent goes with them."""
    row = state.get_intent(tx, intent.upload)
    if row is not None:
        state.delete_intent(tx, intent.upload, row)
    elif names:
        note_fenced(tx, intent.upload)
    if row is not None or names:
        state.trash_names(
            tx, intent.generation.key, [*intent.names, *names], content.size_bytes, now_ms, "refused manifest"
        )
    return ManifestPut(CommitOutcome.INTERRUPTED, missing=tuple(missing), trash=intent.generation)


def _check_children(
    tx: Transaction,
    manifest: Manifest,
    number: int | None,
    replays: Mapping[bytes, Manifest],
    now_ms: int,
    terms: HoldTerms,
    into: _Checked,
) -> None:
    """Look at every child anew, whatever was answered of it before; and at the children of those that are put with it."""
    waiting = [manifest]
    into.edges[manifest.digest.value] = {}
    while waiting:
        for child in _check_one(tx, waiting.pop(), number, now_ms, terms, into):
            if child.value in into.edges:
                continue
            if child.value in replays:
                into.edges[child.value] = {}
                waiting.append(replays[child.value])
            else:
                into.needed.append(child)


def _check_one(
    tx: Transaction, manifest: Manifest, number: int | None, now_ms: int, terms: HoldTerms, into: _Checked
) -> list[Digest]:
    """The children of one manifest; returns those that are manifests without a record here."""
    edges = into.edges[manifest.digest.value]
    without_record: list[Digest] = []
    for reference in manifest.references:
        raw = state.canonical(tx, reference.digest)
        row = state.get_blob(tx, raw) if raw is not None else None
        if raw is None or row is None or number is None or not state.is_visible(tx, raw, row, number, now_ms, terms):
            # A foreign layer need not be here; where its bytes were pushed all the same, they are kept.
            if reference.kind != "foreign":
                into.missing.append(reference.digest)
            continue
        if row.state == records.STATE_CONDEMNED:
            into.condemned.add(raw)
        edges[raw] = Child(EDGE_MANIFEST if reference.kind == "manifest" else EDGE_BLOB, row.size)
        if reference.kind == "manifest" and tx.get(Table.MANIFESTS, u32(number) + raw) is None:
            without_record.append(Digest.from_sha256(raw))
    return without_record


def insert_record(
    tx: Transaction, number: int, manifest: Manifest, edges: Mapping[bytes, Child], now_ms: int
) -> list[list[object]]:
    """Record, edges and subject of a manifest; pushed again, it only has its grace renewed."""
    key = u32(number) + manifest.digest.value
    known = state.get_manifest(tx, key)
    if known is not None:
        for raw, child in edges.items():
            # One that a rebuild found lost under another digest, and that has come since.
            if tx.get(Table.EDGES_FROM, key + raw) is None:
                _add_edge(tx, key, raw, child)
        state.put_manifest_row(tx, key, state.changed(known, lost_at_ms=max(now_ms, known.lost_at_ms)), known)
        return []
    subject = _subject_key(tx, manifest.subject.digest) if manifest.subject is not None else None
    # By the size that was counted: that of the bytes a rebuild has found may be another than the manifest's.
    own = state.get_blob(tx, manifest.digest.value)
    assert own is not None, manifest.digest
    _add_edge(tx, key, manifest.digest.value, Child(EDGE_SELF, own.size, is_suspect=own.state == records.STATE_SUSPECT))
    for raw, child in edges.items():
        _add_edge(tx, key, raw, child)
    row = records.ManifestRow(
        media_type=manifest.media_type,
        artifact_type=manifest.listed_artifact_type,
        subject=subject,
        size=manifest.size_bytes,
        pushed_at_ms=now_ms,
        lost_at_ms=now_ms,
        loose_at_ms=0,
        tag_count=0,
        is_subject_gone=False,
    )
    if subject is not None:
        tx.put(Table.REFERRERS, u32(number) + subject + manifest.digest.value, b"")
    state.put_manifest_row(tx, key, row, None)
    for referrer in referrers(tx, key):
        # Pushed before its subject, or left behind by it: now it lives with it.
        found = state.get_manifest(tx, referrer)
        assert found is not None
        state.put_manifest_row(tx, referrer, state.changed(found, is_subject_gone=False), found)
    for raw, child in edges.items():
        if child.kind == EDGE_MANIFEST:
            _look_again(tx, u32(number) + raw, now_ms, is_loss=False)
    name = state.repository_name(tx, number)
    return [["manifest", name, str(manifest.digest), manifest.media_type, now_ms]]


def _known_records(tx: Transaction, key: bytes) -> list[list[object]]:
    """For the journal of a frozen index, a manifest and all below it: it may know that they were deleted, as this index
    doesn't, and a rebuild would believe it. What was not deleted is not changed by being said twice."""
    changes: list[list[object]] = []
    waiting, seen = [key] if state.is_frozen(tx) else [], {key}
    name = state.repository_name(tx, records.from_u32(key[:4]))
    while waiting:
        place = waiting.pop()
        row = state.get_manifest(tx, place)
        if row is None:
            # Lost before a rebuild.
            continue
        changes.append(["manifest", name, str(Digest.from_sha256(place[4:])), row.media_type, row.pushed_at_ms])
        below = {
            key[:4] + edge[-32:] for edge, kind in tx.scan_prefix(Table.EDGES_FROM, place) if kind == EDGE_MANIFEST
        }
        waiting += below - seen
        seen |= below
    return changes


def plain_edges(tx: Transaction, manifest: Manifest) -> tuple[dict[bytes, Child], list[Digest]]:
    """The children of a manifest that have a row, by their kind, and those that have none; asks nothing about visibility."""
    kinds: dict[bytes, Child] = {}
    lost: list[Digest] = []
    for reference in manifest.references:
        raw = state.canonical(tx, reference.digest)
        row = state.get_blob(tx, raw) if raw is not None else None
        if raw is not None and row is not None:
            kind = EDGE_MANIFEST if reference.kind == "manifest" else EDGE_BLOB
            kinds[raw] = Child(kind, row.size, row.state == records.STATE_SUSPECT)
        elif reference.kind != "foreign":
            lost.append(reference.digest)
    return kinds, lost


def _add_edge(tx: Transaction, key: bytes, raw: bytes, child: Child) -> None:
    if not child.is_suspect and not state.has_edge(tx, raw):
        tx.add("unreferenced_blobs", -1)
        tx.add("unreferenced_bytes", -child.size)
    tx.put(Table.EDGES_FROM, key + raw, child.kind)
    tx.put(Table.EDGES_TO, raw + key, b"")


def _subject_key(tx: Transaction, subject: Digest) -> bytes:
    """What a record keeps of its subject: the sha256 where that is known, as an alias goes with its blob."""
    raw = state.canonical(tx, subject)
    return records.digest_key(Digest.from_sha256(raw) if raw is not None else subject)


def _look_again(tx: Transaction, key: bytes, now_ms: int, *, is_loss: bool) -> None:
    """Something that held a manifest came or went: its place among the loose ones may have changed."""
    row = state.get_manifest(tx, key)
    if row is not None:
        state.put_manifest_row(
            tx, key, state.changed(row, lost_at_ms=max(now_ms, row.lost_at_ms)) if is_loss else row, row
        )


def remove_record(tx: Transaction, key: bytes, row: records.ManifestRow, now_ms: int) -> None:
    """Take a manifest's tags, record and edges away. What it kept is promised to its repository from now on; its referrers
    note that their subject went."""
    number = records.from_u32(key[:4])
    for tag in list_tags_of(tx, key):
        tx.delete(Table.TAGS, key[:4] + tag.encode())
        tx.delete(Table.TAGS_OF, key + tag.encode())
    if row.subject is not None:
        tx.delete(Table.REFERRERS, u32(number) + row.subject + key[4:])
    state.delete_manifest_row(tx, key, row)
    edges = [(found[36:], kind) for found, kind in tx.scan_prefix(Table.EDGES_FROM, key)]
    for child, _ in edges:
        _remove_edge(tx, key, child, now_ms)
    for child, kind in edges:
        if kind == EDGE_MANIFEST:
            _look_again(tx, key[:4] + child, now_ms, is_loss=True)
    for referrer in referrers(tx, key):
        found = state.get_manifest(tx, referrer)
        if found is not None:
            gone = state.changed(found, is_subject_gone=True, lost_at_ms=max(now_ms, found.lost_at_ms))
            state.put_manifest_row(tx, referrer, gone, found)


def _remove_edge(tx: Transaction, key: bytes, child: bytes, now_ms: int) -> None:
    number = records.from_u32(key[:4])
    tx.delete(Table.EDGES_FROM, key + child)
    tx.delete(Table.EDGES_TO, child + key)
    # A yes that an edge stood behind is owed still: where it was this repository's last, a hold takes its place.
    if not state.has_edge_from(tx, child, number):
        state.set_hold(tx, child, number, now_ms, key)
    if not state.has_edge(tx, child):
        row = state.get_blob(tx, child)
        if row is not None:
            state.count_unreferenced(tx, row, +1)


def referrers(tx: Transaction, key: bytes) -> list[bytes]:
    """MANIFESTS keys of the manifests whose subject is this one, under whatever digest they named it."""
    found: list[bytes] = []
    for subject in _names_of(tx, key[4:]):
        prefix = key[:4] + subject
        found += [key[:4] + each[len(prefix) :] for each, _ in tx.scan_prefix(Table.REFERRERS, prefix)]
    return found


def _names_of(tx: Transaction, raw: bytes) -> list[bytes]:
    row = state.get_blob(tx, raw)
    return [records.digest_key(Digest.from_sha256(raw)), *(row.aliases if row is not None else ())]


# Tags


def _set_tag(
    tx: Transaction, key: bytes, tag: TagName, now_ms: int, aliases: Sequence[Digest] = ()
) -> list[list[object]]:
    """`aliases` is the digest it was pushed under with its tags, where that is another than its sha256: who pulls the tag is told
    it. The journal says nothing of it, so that a rebuild leaves the sha256."""
    place = key[:4] + tag.encode()
    stored = tx.get(Table.TAGS, place)
    before = records.TAG.decode(stored) if stored else None
    if before is None or before.digest != key[4:]:
        if before is not None:
            _untag(tx, key[:4] + before.digest, tag, now_ms)
        row = state.get_manifest(tx, key)
        assert row is not None
        state.put_manifest_row(tx, key, state.changed(row, tag_count=row.tag_count + 1), row)
    tx.put(Table.TAGS_OF, key + tag.encode(), records.digest_key(aliases[0]) if aliases else b"")
    tx.put(Table.TAGS, place, records.encode(records.TagRow(key[4:], now_ms)))
    name = state.repository_name(tx, records.from_u32(key[:4]))
    return [["tag", name, tag, str(Digest.from_sha256(key[4:])), now_ms]]


def _untag(tx: Transaction, key: bytes, tag: TagName, now_ms: int) -> None:
    row = state.get_manifest(tx, key)
    assert row is not None
    tx.delete(Table.TAGS_OF, key + tag.encode())
    state.put_manifest_row(
        tx, key, state.changed(row, tag_count=row.tag_count - 1, lost_at_ms=max(now_ms, row.lost_at_ms)), row
    )


def put_tag(tx: Transaction, key: ManifestKey, tag: TagName, now_ms: int) -> int:
    """Point a tag at a manifest."""
    changes = put_tag_row(tx, key, tag, now_ms)
    place = state.manifest_key(tx, key)
    assert place is not None
    return emit(tx, [*changes, *_known_records(tx, place)])


def put_tag_row(tx: Transaction, key: ManifestKey, tag: TagName, now_ms: int) -> list[list[object]]:
    """Point a tag at a manifest; returns what the journal must know."""
    place = state.manifest_key(tx, key)
    if place is None or tx.get(Table.MANIFESTS, place) is None:
        raise ManifestUnknown(f"{key.repository} has no manifest {key.digest}")
    return _set_tag(tx, place, tag, now_ms)


def delete_tag(tx: Transaction, repository: RepositoryName, tag: TagName, now_ms: int) -> int:
    """Remove a tag."""
    number = state.repository_id(tx, repository)
    stored = tx.get(Table.TAGS, u32(number) + tag.encode()) if number is not None else None
    if number is None or stored is None:
        raise TagUnknown(f"{repository} has no tag {tag}")
    tx.delete(Table.TAGS, u32(number) + tag.encode())
    _untag(tx, u32(number) + records.TAG.decode(stored).digest, tag, now_ms)
    return emit(tx, [["untag", repository, tag]])


# Deleting


def delete_manifest(tx: Transaction, key: ManifestKey, now_ms: int) -> int:
    """Remove a manifest that no image index of its repository refers to."""
    place = state.manifest_key(tx, key)
    row = state.get_manifest(tx, place) if place is not None else None
    if place is None or row is None:
        raise ManifestUnknown(f"{key.repository} has no manifest {key.digest}")
    found = state.parents(tx, place[4:], records.from_u32(place[:4]))
    if found:
        raise StillReferenced(key, [state.manifest_key_value(tx, parent) for parent in found])
    remove_record(tx, place, row, now_ms)
    return emit(tx, [["delete", key.repository, str(Digest.from_sha256(place[4:]))]])


def hide_repository(tx: Transaction, repository: RepositoryName, now_ms: int) -> int:
    """Make a repository's name free at once; what stood under it is taken apart later."""
    del now_ms
    number = state.repository_id(tx, repository)
    if number is None or not tx.has_prefix(Table.MANIFESTS, u32(number)):
        raise RepositoryUnknown(f"there is no repository {repository}")
    tx.delete(Table.REPOSITORIES, repository.encode())
    tx.repository_ids.clear()
    tx.put(Table.REMOVALS, u32(number), repository.encode())
    return emit(tx, [["remove", repository]])


def continue_removals(tx: Transaction, limit: int, now_ms: int) -> bool:
    """Take apart some manifests of hidden repositories."""
    for hidden, _ in tx.scan(Table.REMOVALS, b""):
        keys = []
        for key, _ in tx.scan_prefix(Table.MANIFESTS, hidden):
            keys.append(key)
            if len(keys) == limit:
                break
        for key in keys:
            row = state.get_manifest(tx, key)
            assert row is not None
            remove_record(tx, key, row, now_ms)
        if len(keys) < limit:
            tx.delete(Table.REMOVALS, hidden)
            tx.delete(Table.REPOSITORY_NAMES, hidden)
        return True
    return False


# Reading


def resolve(tx: Transaction, repository: RepositoryName, reference: TagName | Digest) -> ManifestRecord | None:
    """The manifest that a tag or digest names."""
    number = state.repository_id(tx, repository)
    if number is None:
        return None
    if isinstance(reference, Digest):
        raw = state.canonical(tx, reference)
    else:
        stored = tx.get(Table.TAGS, u32(number) + reference.encode())
        raw = records.TAG.decode(stored).digest if stored else None
    row = state.get_manifest(tx, u32(number) + raw) if raw is not None else None
    if raw is None or row is None:
        return None
    alias = tx.get(Table.TAGS_OF, u32(number) + raw + reference.encode()) if isinstance(reference, TagName) else None
    key = ManifestKey(repository, Digest.from_sha256(raw))
    return state.manifest_value(key, row, records.digest_from_key(alias) if alias else None)


def needs_manifest_touch(tx: Transaction, key: ManifestKey, now_ms: int, terms: HoldTerms) -> bool | None:
    """Whether a manifest that was asked for needs its grace renewed; None: no record."""
    place = state.manifest_key(tx, key)
    row = state.get_manifest(tx, place) if place is not None else None
    if row is None:
        return None
    return bool(row.loose_at_ms) and now_ms - row.lost_at_ms > terms.renew_ms


def touch_manifest(tx: Transaction, key: ManifestKey, now_ms: int, terms: HoldTerms) -> bool:
    """Renew the grace of a manifest that nothing holds."""
    needed = needs_manifest_touch(tx, key, now_ms, terms)
    if needed:
        place = state.manifest_key(tx, key)
        assert place is not None
        _look_again(tx, place, now_ms, is_loss=True)
    return needed is not None


def list_repositories(tx: Transaction, after: RepositoryName | None, limit: int) -> list[RepositoryName]:
    """Repositories that hold a manifest."""
    found: list[RepositoryName] = []
    for name, value in tx.scan(Table.REPOSITORIES, after.encode() + b"\0" if after is not None else b""):
        if tx.has_prefix(Table.MANIFESTS, u32(records.REPOSITORY.decode(value).id)):
            found.append(RepositoryName(name.decode()))
            if len(found) == limit:
                break
    return found


def list_tags(tx: Transaction, repository: RepositoryName, after: TagName | None, limit: int) -> list[TagEntry]:
    """A repository's tags."""
    number = state.repository_id(tx, repository)
    if number is None or not tx.has_prefix(Table.MANIFESTS, u32(number)):
        raise RepositoryUnknown(f"there is no repository {repository}")
    start = u32(number) + (after.encode() + b"\0" if after is not None else b"")
    found: list[TagEntry] = []
    for key, value in _until_other(tx, Table.TAGS, start, u32(number)):
        row = records.TAG.decode(value)
        found.append(TagEntry(TagName(key[4:].decode()), Digest.from_sha256(row.digest), row.updated_at_ms))
        if len(found) == limit:
            break
    return found


def list_tags_of(tx: Transaction, key: bytes) -> list[TagName]:
    """The tags that name a manifest."""
    return [TagName(found[36:].decode()) for found, _ in tx.scan_prefix(Table.TAGS_OF, key)]


def list_referrers(
    tx: Transaction, repository: RepositoryName, subject: Digest, after: Digest | None, limit: int
) -> list[ManifestRecord]:
    """Manifests that name `subject` as theirs."""
    number = state.repository_id(tx, repository)
    if number is None:
        return []
    raw = state.canonical(tx, subject)
    names = {records.digest_key(subject), *(_names_of(tx, raw) if raw is not None else ())}
    start = after.value + b"\0" if after is not None else b""
    digests: set[bytes] = set()
    for name in names:
        prefix = u32(number) + name
        page = _until_other(tx, Table.REFERRERS, prefix + start, prefix)
        digests.update(key[len(prefix) :] for key, _ in _first(page, limit))
    found: list[ManifestRecord] = []
    for digest in sorted(digests)[:limit]:
        row = state.get_manifest(tx, u32(number) + digest)
        assert row is not None
        found.append(state.manifest_value(ManifestKey(repository, Digest.from_sha256(digest)), row))
    return found


def _until_other(tx: Transaction, table: Table, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    for key, value in tx.scan(table, start):
        if not key.startswith(prefix):
            return
        yield key, value


def _first(pairs: Iterator[tuple[bytes, bytes]], limit: int) -> Iterator[tuple[bytes, bytes]]:
    for _, pair in zip(range(limit), pairs, strict=False):
        yield pair


def list_children(tx: Transaction, key: ManifestKey) -> list[Digest]:
    """What a manifest keeps alive beside its own blob."""
    place = state.manifest_key(tx, key)
    if place is None:
        return []
    pairs = tx.scan_prefix(Table.EDGES_FROM, place)
    return [Digest.from_sha256(found[36:]) for found, kind in pairs if kind != EDGE_SELF]


def list_parents(tx: Transaction, digest: Digest, limit: int) -> list[ManifestKey]:
    """Manifests that keep a blob alive."""
    raw = state.canonical(tx, digest)
    if raw is None:
        return []
    keys = [key[32:] for key, _ in _first(tx.scan_prefix(Table.EDGES_TO, raw), limit)]
    return [found for key in keys if (found := state.manifest_key_value(tx, key)) is not None]


def list_aliases(tx: Transaction, digest: Digest) -> list[Digest]:
    """What else clients call a blob."""
    raw = state.canonical(tx, digest)
    row = state.get_blob(tx, raw) if raw is not None else None
    return [records.digest_from_key(alias) for alias in row.aliases] if row is not None else []
