"""What the engine wrote itself and a disk may have changed: rows of the index, journal and checkpoint objects, hash states."""

from __future__ import annotations

import hashlib
from typing import Any

import blake3
import msgpack
import msgspec

from blobstore.abc.records import ManifestKey
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Algorithm, Digest
from blobstore.errors import FormatUnsupported, IndexDamaged, JournalDamaged
from blobstore.generation import Generation
from blobstore.hashing import new_sha256, resume_sha256
from blobstore.index import _records as records
from blobstore.index import _state as state
from blobstore.index._uploads import _intent
from blobstore.journal import recover
from blobstore.layout import checkpoint_key, journal_key
from blobstore.names import RepositoryName, UploadId
from blobstore.references import References, RowEncoder, apply_all, decode_rows
from tests.fuzz.attempts import check_message, finished, taken

DECODERS: tuple[records.RowDecoder[Any], ...] = (
    records.BLOB,
    records.REPOSITORY,
    records.MANIFEST,
    records.TAG,
    records.HOLD,
    records.INTENT,
    records.TRASH,
    records.RUN,
    records.DROPPED,
    records.IDENTITY,
    records.TOTALS,
)
_RAW = bytes(32)
_KEY = ManifestKey(RepositoryName("a"), Digest.from_sha256(_RAW))
_NUMBER_MAX = 2**63 - 1
_GENERATION = Generation(1, 2)


def fuzz_index_row(data: bytes) -> None:
    """The first byte says which kind. A row is all of what was written, of this version, and can be used; or it is refused."""
    if not data:
        return
    decoder, value = DECODERS[data[0] % len(DECODERS)], data[1:]
    row = taken(decoder.decode, value, raises=FormatUnsupported)
    if row is None:
        return
    fields = [getattr(row, name) for name in row.__struct_fields__]
    assert msgpack.unpackb(value) == [1, *fields]
    assert decoder.decode(records.encode(row)) == row
    for other in ([2, *fields], fields, [1, *fields, None], [1, *fields][:-1]):
        assert taken(decoder.decode, msgpack.packb(other), raises=FormatUnsupported) is None
    taken(_use, row, raises=IndexDamaged)


def _use(row: msgspec.Struct) -> None:
    """As the verbs that read it do."""
    match row:
        case records.BlobRow():
            blob = state.blob_value(_RAW, row)
            assert blob.generation.key == row.generation
            assert 0 <= blob.size_bytes <= _NUMBER_MAX
            assert all(records.digest_key(records.digest_from_key(alias)) == alias for alias in row.aliases)
        case records.RepositoryRow():
            assert records.from_u32(records.u32(row.id)) == row.id
        case records.ManifestRow():
            state.manifest_value(_KEY, row)
            records.u64(row.lost_at_ms)
        case records.TagRow():
            Digest.from_sha256(row.digest)
        case records.HoldRow():
            records.u64(row.renewed_at_ms)
        case records.IntentRow():
            _intent(UploadId("0" * 32), row)
            records.u64(row.renewed_at_ms)
        case records.TrashRow():
            state.trash_value(_GENERATION.key, row)
            records.u64(row.not_before_ms)


def fuzz_digest_key(data: bytes) -> None:
    """A key that names a digest is that digest's, or the index is damaged."""
    digest = taken(records.digest_from_key, data, raises=IndexDamaged)
    if digest is not None:
        assert records.digest_key(digest) == data
        assert Digest.parse(str(digest)) == digest


def fuzz_journal(data: bytes) -> None:
    """The first byte says which kind of object, and whether its check is made right, which no mutation would find. Replayed it
    gives only values that an index can hold, or it is damaged; a rebuild goes on in either case."""
    if not data:
        return
    kind = "journal" if data[0] & 1 else "checkpoint"
    found = data[1:] if data[0] & 2 else data[1:] + blake3.blake3(data[1:]).digest()
    key = journal_key(1, 3, _GENERATION) if data[0] & 1 else checkpoint_key(3, _GENERATION)
    decoded = taken(decode_rows, kind, found, key, raises=(JournalDamaged, FormatUnsupported))
    if decoded is not None:
        _check_written_again(kind, found, *decoded)
    backend = MemoryBackend()
    backend._objects[key] = found
    recovered = taken(lambda: finished(recover(backend)), raises=FormatUnsupported)
    if recovered is None:
        return
    for problem in recovered.problems:
        check_message(problem)
    assert 0 <= recovered.sequence <= _NUMBER_MAX
    assert recovered.sequence == 0 or decoded is not None
    for repository in recovered.references.repositories.values():
        times = [entry.pushed_at_ms for entry in repository.manifests.values()]
        times += [target.updated_at_ms for target in repository.tags.values()]
        assert all(0 <= time <= _NUMBER_MAX and type(time) is int for time in times)
    if kind == "checkpoint" and decoded is not None and not recovered.problems:
        _check_replays_twice(decoded[1])


def _check_written_again(kind: str, data: bytes, header: list[Any], rows: list[Any]) -> None:
    encoder = RowEncoder()
    written = b"".join([encoder.header(kind, *header), *[encoder.row(row) for row in rows], encoder.end()])
    assert decode_rows(kind, written, "again") == (header, rows)
    # Nothing was skipped: a number may be written longer than needed, but not a byte may be left over. A fraction, which no
    # change has, is always written in eight bytes.
    assert len(written) <= len(data) + 4 * _fractions(rows)


def _fractions(value: object) -> int:
    if isinstance(value, dict):
        return sum(_fractions(part) for item in value.items() for part in item)
    return sum(map(_fractions, value)) if isinstance(value, list) else int(isinstance(value, float))


def _check_replays_twice(changes: list[Any]) -> None:
    once, twice = References(), References()
    apply_all(once, changes, "once")
    apply_all(twice, [*changes, *changes], "twice")
    assert _state_of(once) == _state_of(twice)


def _state_of(references: References) -> object:
    repositories = {
        name: ({digest: (entry.media_type, entry.is_orphaned) for digest, entry in found.manifests.items()}, found.tags)
        for name, found in references.repositories.items()
    }
    return repositories, references.pins, references.aliases


def fuzz_hash_state(data: bytes) -> None:
    """A saved state that can't be one of so many bytes is not resumed, and never writes outside of its buffer."""
    hashed_bytes, saved = int.from_bytes(data[:8], "big"), data[8:]
    resumed = taken(resume_sha256, saved, hashed_bytes, raises=())
    if resumed is None:
        return
    assert resumed.save() == saved
    resumed.update(b"x" * 130)
    assert len(resumed.digest()) == 32


def _saved_state(size_bytes: int) -> bytes:
    running = new_sha256()
    running.update(b"a" * size_bytes)
    assert running.digest() == hashlib.sha256(b"a" * size_bytes).digest()
    return size_bytes.to_bytes(8, "big") + (running.save() or b"")


def _object(kind: str, changes: list[Any]) -> bytes:
    encoder = RowEncoder()
    if kind == "journal":
        rows = [[at, [change]] for at, change in enumerate(changes, start=1)]
        pieces = [encoder.header(kind, 1, len(rows)), *[encoder.row(row) for row in rows]]
    else:
        pieces = [encoder.header(kind, 3), *[encoder.row(change) for change in changes]]
    whole = b"".join([*pieces, encoder.end()])
    return bytes([kind == "journal"]) + whole[:-32]


_TIME = 1_700_000_000_000
_A, _ALIAS = str(Digest.of(b"a")), str(Digest.of(b"a", Algorithm.SHA512))
_CHANGES = [
    ["manifest", "a/b", _A, "type", _TIME],
    ["tag", "a/b", "latest", _A, _TIME],
    ["orphaned", "a/b", _A],
    ["alias", _ALIAS, _A],
    ["pin", _A],
]
_GONE = [["untag", "a/b", "latest"], ["delete", "a/b", _A], ["remove", "a/b"], ["unpin", _A]]
JOURNAL_SEEDS = [
    _object(kind, changes) for kind in ("journal", "checkpoint") for changes in (_CHANGES, _CHANGES + _GONE)
]
JOURNAL_SEEDS += [bytes([seed[0] | 2]) + seed[1:] + blake3.blake3(seed[1:]).digest() for seed in JOURNAL_SEEDS]

_ROWS: list[msgspec.Struct] = [
    records.BlobRow(records.STATE_PRESENT, _GENERATION.key, 5, None, [], []),
    records.BlobRow(records.STATE_CONDEMNED, _GENERATION.key, 2**40, _RAW, ["blobs/x"], [b"\x02" + _RAW + _RAW]),
    records.RepositoryRow(7, _TIME, _TIME),
    records.ManifestRow("type", "artifact", b"\x01" + _RAW, 9, _TIME, _TIME, _TIME, 1, False),
    records.TagRow(_RAW, _TIME),
    records.HoldRow(2**63 - 1, b"\0\0\0\x07" + _RAW),
    records.IntentRow(_GENERATION.key, "a/b", ["uploads/x"], 4096, b"state", "boot", _TIME),
    records.TrashRow(_RAW, ["x", "y"], 3, _TIME, records.TRASH_WAITING, "unreferenced", "run-1"),
    records.RunRow("run-1", _TIME, _TIME + 5, b"{}"),
    records.DroppedRow("a/b", "type", "untagged"),
    records.IdentityRow("store", "index"),
    records.TotalsRow(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
]
_KINDS = [decoder._kind for decoder in DECODERS]
INDEX_ROW_SEEDS = [bytes([_KINDS.index(type(row).__name__)]) + records.encode(row) for row in _ROWS]
DIGEST_KEY_SEEDS = [records.digest_key(Digest.of(b"a", algorithm)) for algorithm in Algorithm]
HASH_STATE_SEEDS = [_saved_state(size) for size in (0, 1, 64, 1000)]
