"""The names that lie on a backend (docs/storage.md, The tree on the backend). Pure text, no I/O."""

from __future__ import annotations

import hashlib
import re

import msgspec

from blobstore.digest import Digest
from blobstore.generation import Generation

MARKER_KEY = "blobstore.json"
BLOBS_PREFIX = "blobs/sha256/"
DATA_PREFIX = "data/"
RECORDS_PREFIX = "commits/sha256/"
UPLOADS_PREFIX = "uploads/"
JOURNAL_PREFIX = "journal/"
CHECKPOINT_PREFIX = "checkpoint/"
FORMAT_VERSION = 1
SEQUENCE_MAX = 2**63 - 1
"""What the index can count. A name with a larger number is none of ours."""

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})\.([0-9a-f]{32})", re.ASCII)
_DATA = re.compile(r"data/([0-9a-f]{2})/([0-9a-f]{32})", re.ASCII)
_JOURNAL = re.compile(r"journal/([0-9]{20})-([0-9]{20})\.([0-9a-f]{32})", re.ASCII)
_CHECKPOINT = re.compile(r"checkpoint/([0-9]{20})\.([0-9a-f]{32})", re.ASCII)


class BlobName(msgspec.Struct, frozen=True):
    """What the name of a blob's bytes says."""

    digest: Digest
    generation: Generation


class JournalName(msgspec.Struct, frozen=True):
    """What the name of a journal object says: it holds every sequence from `first` to `last`."""

    key: str
    first: int
    last: int


def blob_key(digest: Digest, generation: Generation) -> str:
    """Where the bytes of one generation of a blob lie."""
    hexed = digest.hex
    return f"{BLOBS_PREFIX}{hexed[:2]}/{hexed}.{generation}"


def parse_blob_key(key: str) -> BlobName | None:
    """What a key says if it is a blob's, else None: it is not a name of ours."""
    match = _BLOB.fullmatch(key)
    if match is None:
        return None
    generation = Generation.parse(match[3])
    assert generation is not None, key
    return BlobName(Digest.from_sha256(bytes.fromhex(match[2])), generation)


def data_key(generation: Generation) -> str:
    """Where an object store keeps the bytes of a blob that were sent before their digest was known. What the directories spread
    is not the generation itself, as those of one process follow each other."""
    text = str(generation)
    return f"{DATA_PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:2]}/{text}"


def parse_data_key(key: str) -> Generation | None:
    """The generation of bytes that wait for, or have, a commit record; or None."""
    match = _DATA.fullmatch(key)
    generation = Generation.parse(match[2]) if match else None
    return generation if generation is not None and data_key(generation) == key else None


def record_key(key: str) -> str:
    """Where the commit record of a blob lies, whose own key would be `key`: an empty object that says which digest the bytes of a
    generation are, for the day the index is lost."""
    assert key.startswith(BLOBS_PREFIX), key
    return RECORDS_PREFIX + key.removeprefix(BLOBS_PREFIX)


def published_names(key: str, generation: Generation) -> tuple[str, str]:
    """The names of a blob whose bytes were sent before `key` was known to a backend that can't rename them, the bytes first."""
    return data_key(generation), record_key(key)


def is_record_key(key: str) -> bool:
    """Whether a key is that of a commit record. It is deleted before the bytes it speaks of."""
    return key.startswith(RECORDS_PREFIX)


def parse_record_key(key: str) -> BlobName | None:
    """What the key of a commit record says, or None."""
    return parse_blob_key(BLOBS_PREFIX + key.removeprefix(RECORDS_PREFIX)) if is_record_key(key) else None


def upload_key(generation: Generation) -> str:
    """Where a file system keeps the bytes of an open upload."""
    return f"{UPLOADS_PREFIX}{generation}"


def parse_upload_key(key: str) -> Generation | None:
    """The generation of an open upload's bytes, or None."""
    return Generation.parse(key.removeprefix(UPLOADS_PREFIX)) if key.startswith(UPLOADS_PREFIX) else None


def journal_key(first: int, last: int, generation: Generation) -> str:
    """Where the journal object of a range of sequences lies; zero-padded, so that a listing is in order."""
    return f"{JOURNAL_PREFIX}{first:020d}-{last:020d}.{generation}"


def parse_journal_key(key: str) -> JournalName | None:
    """The range a journal object's name tells, or None."""
    match = _JOURNAL.fullmatch(key)
    if match is None or max(int(match[1]), int(match[2])) > SEQUENCE_MAX:
        return None
    return JournalName(key, int(match[1]), int(match[2]))


def checkpoint_key(sequence: int, generation: Generation) -> str:
    """Where the checkpoint that covers every sequence up to `sequence` lies."""
    return f"{CHECKPOINT_PREFIX}{sequence:020d}.{generation}"


def parse_checkpoint_key(key: str) -> int | None:
    """The sequence a checkpoint's name tells, or None."""
    match = _CHECKPOINT.fullmatch(key)
    return int(match[1]) if match and int(match[1]) <= SEQUENCE_MAX else None
