"""What refers to what, as changes that can be replayed: the content of journal and checkpoint objects. Pure."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import blake3
import msgpack
import msgspec

from blobstore.digest import Algorithm, Digest
from blobstore.errors import BlobstoreError, DigestInvalid, FormatUnsupported, JournalDamaged
from blobstore.layout import SEQUENCE_MAX
from blobstore.names import RepositoryName, TagName

VERSION = 1
object_size_max_bytes = 1 << 30
_CHECK_BYTES = 32

Change = list[Any]
"""One of: manifest REPOSITORY DIGEST MEDIA-TYPE PUSHED-AT · tag REPOSITORY TAG DIGEST UPDATED-AT · untag REPOSITORY TAG ·
delete REPOSITORY DIGEST · orphaned REPOSITORY DIGEST · remove REPOSITORY · pin DIGEST · unpin DIGEST · alias ALIAS DIGEST."""


class ManifestEntry(msgspec.Struct, frozen=True):
    """A manifest as the journal knows it."""

    media_type: str
    pushed_at_ms: int
    position: int
    """How many changes were replayed before it."""
    is_orphaned: bool = False
    """Whether its subject was here and went."""


class TagTarget(msgspec.Struct, frozen=True):
    """A tag as the journal knows it."""

    digest: Digest
    updated_at_ms: int


class RepositoryReferences(msgspec.Struct):
    """The manifests and tags of one repository, and at which change the manifests went that were here before."""

    manifests: dict[Digest, ManifestEntry]
    tags: dict[TagName, TagTarget]
    gone_at: dict[Digest, int]


class References:
    """All references of a store, rebuilt change by change. A change sets a state, so that replaying it twice does no harm."""

    def __init__(self) -> None:
        self.repositories: dict[RepositoryName, RepositoryReferences] = {}
        self.pins: set[Digest] = set()
        self.aliases: dict[Digest, Digest] = {}
        self._replayed = 0

    def apply(self, change: Change) -> None:
        """Replay one change.

        Raises:
            FormatUnsupported: a kind of change that this version doesn't know.
        """
        self._replayed += 1
        match change:
            case ["manifest", str(repository), str(digest), str(media_type), int(pushed_at_ms)] if _is_count(
                pushed_at_ms
            ):
                # One that is known already is a change that a checkpoint has taken in before.
                entry = ManifestEntry(media_type, pushed_at_ms, self._replayed)
                self._of(repository).manifests.setdefault(_parse_sha256(digest), entry)
            case ["tag", str(repository), str(tag), str(digest), int(updated_at_ms)] if _is_count(updated_at_ms):
                target = TagTarget(_parse_sha256(digest), updated_at_ms)
                self._of(repository).tags[TagName.parse(tag)] = target
            case ["untag", str(repository), str(tag)]:
                self._of(repository).tags.pop(TagName.parse(tag), None)
            case ["delete", str(repository), str(digest)]:
                self._delete(self._of(repository), _parse_sha256(digest))
            case ["orphaned", str(repository), str(digest)]:
                self._orphan(self._of(repository), _parse_sha256(digest))
            case ["remove", str(repository)]:
                self.repositories.pop(RepositoryName.parse(repository), None)
            case ["pin", str(digest)]:
                self.pins.add(_parse_sha256(digest))
            case ["unpin", str(digest)]:
                self.pins.discard(_parse_sha256(digest))
            case ["alias", str(alias), str(digest)]:
                self.aliases[Digest.parse(alias)] = _parse_sha256(digest)
            case _:
                raise FormatUnsupported(f"the journal holds a change that this version does not know: {change!r:.200}")

    def _of(self, repository: str) -> RepositoryReferences:
        name = RepositoryName.parse(repository)
        found = self.repositories.get(name)
        if found is None:
            found = self.repositories[name] = RepositoryReferences({}, {}, {})
        return found

    @staticmethod
    def _orphan(repository: RepositoryReferences, digest: Digest) -> None:
        entry = repository.manifests.get(digest)
        if entry is not None:
            repository.manifests[digest] = msgspec.structs.replace(entry, is_orphaned=True)

    def is_subject_gone(self, repository: RepositoryName, digest: Digest, subject: Digest) -> bool:
        """Whether the subject of a manifest was here after it came, and went."""
        found, subject = self.repositories[repository], self.aliases.get(subject, subject)
        entry = found.manifests[digest]
        if subject in found.manifests:
            return False
        return entry.is_orphaned or found.gone_at.get(subject, -1) > entry.position

    def _delete(self, repository: RepositoryReferences, digest: Digest) -> None:
        repository.manifests.pop(digest, None)
        repository.gone_at[digest] = self._replayed
        for tag in [tag for tag, target in repository.tags.items() if target.digest == digest]:
            del repository.tags[tag]


def _parse_sha256(text: str) -> Digest:
    """Of what the index keeps under its sha256; only an alias may be of another algorithm."""
    digest = Digest.parse(text)
    if digest.algorithm is not Algorithm.SHA256:
        raise DigestInvalid(f"{text} is no sha256")
    return digest


def _is_count(number: int) -> bool:
    """Whether a row of the index can hold it."""
    return type(number) is int and 0 <= number <= SEQUENCE_MAX


class RowEncoder:
    """A journal or checkpoint object, piece by piece: a header, rows, and at the end their number and a hash of all before, so
    that a cut or a flipped bit is seen."""

    def __init__(self) -> None:
        self._hasher = blake3.blake3()
        self._count = 0

    def header(self, kind: str, *fields: object) -> bytes:
        """The first piece."""
        return self._piece([kind, VERSION, *fields])

    def row(self, row: object) -> bytes:
        """One row."""
        self._count += 1
        return self._piece(row)

    def end(self) -> bytes:
        """The last piece."""
        return self._piece(["end", self._count]) + self._hasher.digest()

    def _piece(self, value: object) -> bytes:
        piece: bytes = msgpack.packb(value)
        self._hasher.update(piece)
        return piece


def decode_rows(kind: str, data: bytes, where: str) -> tuple[list[Any], list[Any]]:
    """The header (behind kind and version) and the rows of an object.

    Raises:
        JournalDamaged: cut, changed, or not such an object, its header without the sequence that it begins at or covers.
        FormatUnsupported: of another version.
    """
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if len(check) != _CHECK_BYTES or blake3.blake3(body).digest() != check:
        raise JournalDamaged(f"{where} is damaged: its check does not match")
    try:
        unpacker = msgpack.Unpacker(io.BytesIO(body), max_buffer_size=object_size_max_bytes)
        rows = list(unpacker)
        is_whole = unpacker.tell() == len(body)
    except (msgpack.UnpackException, ValueError) as error:
        raise JournalDamaged(f"{where} is damaged: {error}") from error
    if len(rows) < 2 or not all(isinstance(row, list) for row in rows) or rows[0][:1] != [kind]:
        raise JournalDamaged(f"{where} is not a {kind} object")
    if rows[0][1:2] != [VERSION]:
        raise FormatUnsupported(f"{where} has version {rows[0][1:2]}; this version of blobstore knows {VERSION}")
    if not is_whole or rows[-1] != ["end", len(rows) - 2]:
        raise JournalDamaged(f"{where} is damaged: it does not hold the rows it says")
    if not rows[0][2:] or not _is_count(rows[0][2]):
        raise JournalDamaged(f"{where} is damaged: its header names no sequence")
    return rows[0][2:], rows[1:-1]


def apply_all(references: References, changes: Iterable[Change], where: str) -> None:
    """Replay changes, naming the object they come from if one can't be."""
    for change in changes:
        try:
            references.apply(change)
        except FormatUnsupported:
            raise
        except BlobstoreError as error:
            raise JournalDamaged(f"{where}: {error}") from error
