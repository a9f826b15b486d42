"""What the protocol's guards look at: the rows of an index as plain values, apart from the engine that keeps them."""

from __future__ import annotations

import msgspec

from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.index._tables import Table, Transaction
from blobstore.layout import blob_key
from tests.model.plain import plain

FIRST_REPOSITORY = records.NO_REPOSITORY + 1
PRESENT, CONDEMNED, SUSPECT = "present", "condemned", "suspect"
WAITING, RETIRING = "waiting", "retiring"


class BlobRow(msgspec.Struct):
    """A blob by its digest."""

    state: str
    generation: str
    names: list[str]


class HoldRow(msgspec.Struct):
    """A promise by digest and repository. One that a condemning took out of the order of time has done its work."""

    renewed_at_ms: int
    is_in_order: bool = True


class IntentRow(msgspec.Struct):
    """An open upload."""

    generation: str
    repository: str | None
    names: list[str]
    renewed_at_ms: int


class TrashRow(msgspec.Struct):
    """Names that are to go, by their generation."""

    digest: str | None
    state: str
    not_before_ms: int
    names: list[str]
    run: str | None


class RecordRow(msgspec.Struct):
    """A manifest in a repository; `children` are its edges by kind, its own blob among them."""

    subject: str | None
    lost_at_ms: int
    is_subject_gone: bool
    children: dict[str, str]


class RepositoryRow(msgspec.Struct):
    """A repository's short id, and since and until when bytes have been arriving."""

    number: int
    since_ms: int = 0
    until_ms: int = 0


class State(msgspec.Struct):
    """All of it. Digests are shortened to their first 64 bits; a record's key is `<repository>/<digest>`."""

    blobs: dict[str, BlobRow] = {}
    aliases: dict[str, str] = {}
    holds: dict[str, dict[int, HoldRow]] = {}
    intents: dict[str, IntentRow] = {}
    trash: dict[str, TrashRow] = {}
    records: dict[str, RecordRow] = {}
    tags: dict[str, str] = {}
    repositories: dict[str, RepositoryRow] = {}
    hidden: dict[int, str] = {}
    next_repository: int = FIRST_REPOSITORY
    epochs: dict[str, int] = {}
    is_frozen: bool = False


def read_state(tx: Transaction) -> State:
    """The state as the tables of an index have it, at one moment."""
    state = State()
    stored = tx.get(Table.META, records.META_NEXT_REPOSITORY)
    state.next_repository = records.from_u32(stored) if stored else FIRST_REPOSITORY
    for name, value in tx.scan(Table.REPOSITORIES, b""):
        repository = records.REPOSITORY.decode(value)
        state.repositories[name.decode()] = RepositoryRow(repository.id, repository.since_ms, repository.until_ms)
    state.hidden = {records.from_u32(key): name.decode() for key, name in tx.scan(Table.REMOVALS, b"")}
    state.epochs = {f"{records.from_u64(key):x}": records.from_u64(value) for key, value in tx.scan(Table.EPOCHS, b"")}
    state.is_frozen = tx.get(Table.META, records.META_FROZEN) is not None
    _read_blobs(tx, state)
    _read_uploads_and_trash(tx, state)
    _read_records(tx, state)
    return state


def _read_blobs(tx: Transaction, state: State) -> None:
    for raw, value in tx.scan(Table.BLOBS, b""):
        blob = records.BLOB.decode(value)
        digest, generation = Digest.from_sha256(raw), Generation.from_key(blob.generation)
        state.blobs[_short(raw)] = BlobRow(
            (PRESENT, CONDEMNED, SUSPECT)[blob.state],
            plain(generation),
            plain(blob.names or [blob_key(digest, generation)]),
        )
    for key, raw in tx.scan(Table.ALIASES, b""):
        state.aliases[plain(records.digest_from_key(key))] = _short(raw)
    in_order = {key[8:] for key, _ in tx.scan(Table.HOLDS_BY_TIME, b"")}
    for key, value in tx.scan(Table.HOLDS, b""):
        row = HoldRow(records.HOLD.decode(value).renewed_at_ms, key in in_order)
        state.holds.setdefault(_short(key[:32]), {})[records.from_u32(key[32:])] = row


def _read_uploads_and_trash(tx: Transaction, state: State) -> None:
    for key, value in tx.scan(Table.INTENTS, b""):
        intent = records.INTENT.decode(value)
        generation = plain(Generation.from_key(intent.generation))
        state.intents[key.hex()] = IntentRow(generation, intent.repository, plain(intent.names), intent.renewed_at_ms)
    for key, value in tx.scan(Table.TRASH, b""):
        trash = records.TRASH.decode(value)
        state.trash[plain(Generation.from_key(key))] = TrashRow(
            _short(trash.digest) if trash.digest else None,
            (WAITING, RETIRING)[trash.state],
            trash.not_before_ms,
            plain(trash.names),
            trash.run,
        )


def _read_records(tx: Transaction, state: State) -> None:
    for key, value in tx.scan(Table.MANIFESTS, b""):
        row = records.MANIFEST.decode(value)
        subject = _subject(records.digest_from_key(row.subject)) if row.subject else None
        children = {_short(found[36:]): kind.decode() for found, kind in tx.scan_prefix(Table.EDGES_FROM, key)}
        state.records[_record_key(key)] = RecordRow(subject, row.lost_at_ms, row.is_subject_gone, children)
    for key, value in tx.scan(Table.TAGS, b""):
        state.tags[f"{records.from_u32(key[:4])}/{key[4:].decode()}"] = _short(records.TAG.decode(value).digest)


def _record_key(key: bytes) -> str:
    return f"{records.from_u32(key[:4])}/{_short(key[4:])}"


def _subject(digest: Digest) -> str:
    return str(plain(digest))


def _short(raw: bytes) -> str:
    return str(plain(Digest.from_sha256(raw)))


def differences(model: State, index: State) -> list[str]:
    """What two states disagree on, a line each; empty for equal ones."""
    found: list[str] = []
    for table in State.__struct_fields__:
        ours, theirs = getattr(model, table), getattr(index, table)
        if ours == theirs:
            continue
        if not isinstance(ours, dict):
            found.append(f"{table}: the model has {ours}, the index {theirs}")
            continue
        found += [
            f"{table} {key}: the model has {ours.get(key)}, the index {theirs.get(key)}"
            for key in sorted(ours.keys() | theirs.keys(), key=str)
            if ours.get(key) != theirs.get(key)
        ]
    return found
