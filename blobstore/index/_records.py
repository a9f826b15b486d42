"""Keys and values of the index tables: fixed-width binary keys, MessagePack arrays that begin with their version."""

from __future__ import annotations

from typing import Annotated, Generic, Self, TypeVar

import msgspec
from msgspec import Meta

from blobstore.digest import Algorithm, Digest
from blobstore.errors import FormatUnsupported, IndexDamaged

NO_REPOSITORY = 0
"""The repository id of pins, and of holds whose repository let go of them."""

META_FORMAT = b"format"
META_IDENTITY = b"identity"
META_NEXT_REPOSITORY = b"next repository"
META_SEQUENCE = b"sequence"
META_TOTALS = b"totals"
META_FROZEN = b"frozen"
META_QUIET_SINCE = b"quiet since"
META_CLOCK_HIGH = b"clock high"
META_ORPHAN_SCAN = b"orphan scan due"
META_ORPHAN_SCAN_ASKED = b"orphan scan asked"

EDGE_SELF, EDGE_BLOB, EDGE_MANIFEST = b"s", b"b", b"m"

_ALGORITHM_BYTES = {Algorithm.SHA256: b"\x01", Algorithm.SHA512: b"\x02", Algorithm.BLAKE3: b"\x03"}
_ALGORITHMS = {code[0]: algorithm for algorithm, code in _ALGORITHM_BYTES.items()}

STATE_PRESENT, STATE_CONDEMNED, STATE_SUSPECT = 0, 1, 2
TRASH_WAITING, TRASH_RETIRING = 0, 1


Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Bytes, rows, or milliseconds since 1970."""
Raw = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A hash of 32 bytes: a sha256, or a blake3 beside it."""
DigestKey = Annotated[bytes, Meta(min_length=33, max_length=65)]
"""See `digest_key`."""
GenerationKey = Annotated[bytes, Meta(min_length=16, max_length=16)]


class BlobRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """`names` is empty where the bytes lie under the name that digest and generation give."""

    state: Annotated[int, Meta(ge=0, le=2)]
    generation: GenerationKey
    size: Count
    blake3: Raw | None
    names: list[str]
    aliases: list[DigestKey]


class RepositoryRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """The short id that stands for a name in keys, and since and until when bytes have been arriving."""

    id: Annotated[int, Meta(ge=0, lt=2**32)]
    since_ms: Count
    until_ms: Count


class ManifestRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """`loose_at_ms` is its place in LOOSE_BY_TIME, 0 for none."""

    media_type: str
    artifact_type: str | None
    subject: DigestKey | None
    size: Count
    pushed_at_ms: Count
    lost_at_ms: Count
    loose_at_ms: Count
    tag_count: Count
    is_subject_gone: bool


class TagRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """What a tag names, and since when."""

    digest: Raw
    updated_at_ms: Count


class HoldRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """`last_referrer` is the MANIFESTS key of the manifest whose going made this hold."""

    renewed_at_ms: Count
    last_referrer: Annotated[bytes, Meta(min_length=36, max_length=36)] | None


class IntentRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """See abc.records.Intent."""

    generation: GenerationKey
    repository: str | None
    names: list[str]
    offset: Count
    hash_state: bytes | None
    boot: str
    renewed_at_ms: Count


class TrashRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """`due_ms` is its place in TRASH_BY_TIME: its time, or 0 when it is retiring."""

    digest: Raw | None
    names: list[str]
    size: Count
    not_before_ms: Count
    state: Annotated[int, Meta(ge=0, le=1)]
    why: str
    run: str | None


class RunRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """A collection; `report` is JSON."""

    run: str
    started_at_ms: Count
    finished_at_ms: Count
    report: bytes


class DroppedRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """A manifest record that a run dropped."""

    repository: str
    media_type: str
    reason: str


class IdentityRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """Whose index this is."""

    store_id: str
    index_id: str


class TotalsRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag=1):
    """Counters; see abc.records.Totals."""

    present_blobs: int
    present_bytes: int
    unreferenced_blobs: int
    unreferenced_bytes: int
    condemned_blobs: int
    condemned_bytes: int
    suspect_blobs: int
    suspect_bytes: int
    pushed_bytes: int
    freed_bytes: int

    @classmethod
    def zero(cls) -> Self:
        """Of an index that holds nothing. Not as defaults: a row that was cut would be taken for one of zeros."""
        return cls(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


Row = TypeVar("Row", bound=msgspec.Struct)


def _plain(value: object) -> str:
    """Names are subclasses of str, which msgspec does not take by itself."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"a row can't hold {value!r}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)


class RowDecoder(Generic[Row]):
    """Reads one kind of row; an unknown version or shape is refused, never guessed at."""

    def __init__(self, row: type[Row]) -> None:
        self._decode = msgspec.msgpack.Decoder(row).decode
        self._kind = row.__name__

    def decode(self, value: bytes) -> Row:
        """The row that `value` encodes.

        Raises:
            FormatUnsupported: it is of another version, or holds what this one never wrote.
        """
        try:
            return self._decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FormatUnsupported(
                f"the index holds a {self._kind} that this version can't read ({error}); "
                "open the store with the version that wrote it, or run `blobstore index rebuild`"
            ) from error


def encode(row: msgspec.Struct) -> bytes:
    """The bytes of a row."""
    return _encoder.encode(row)


BLOB = RowDecoder(BlobRow)
REPOSITORY = RowDecoder(RepositoryRow)
MANIFEST = RowDecoder(ManifestRow)
TAG = RowDecoder(TagRow)
HOLD = RowDecoder(HoldRow)
INTENT = RowDecoder(IntentRow)
TRASH = RowDecoder(TrashRow)
RUN = RowDecoder(RunRow)
DROPPED = RowDecoder(DroppedRow)
IDENTITY = RowDecoder(IdentityRow)
TOTALS = RowDecoder(TotalsRow)


def u32(number: int) -> bytes:
    """Four bytes that sort as the number does."""
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    """Eight bytes that sort as the number does."""
    return number.to_bytes(8, "big")


def from_u32(key: bytes) -> int:
    """The number in four bytes."""
    return int.from_bytes(key, "big")


def from_u64(key: bytes) -> int:
    """The number in eight bytes."""
    return int.from_bytes(key, "big")


def digest_key(digest: Digest) -> bytes:
    """A digest of any algorithm: one byte for that, then the hash."""
    return _ALGORITHM_BYTES[digest.algorithm] + digest.value


def digest_from_key(key: bytes) -> Digest:
    """The digest of `digest_key`.

    Raises:
        IndexDamaged: the key is none.
    """
    algorithm = _ALGORITHMS.get(key[0]) if key else None
    if algorithm is None or len(key) != 1 + algorithm.size_bytes:
        raise IndexDamaged(f"{key.hex():.140} is no digest, where the index should hold one")
    return Digest(algorithm, key[1:])
