"""The values that go in and out of an index: what it says of blobs, manifests, uploads, trash and runs."""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

import msgspec

from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.names import RepositoryName, TagName, UploadId
from blobstore.promises import Activity

Item = TypeVar("Item")


class Slice(msgspec.Struct, Generic[Item], frozen=True):
    """Part of a scan: its items, and the cursor to go on from; None at the end."""

    items: tuple[Item, ...]
    next: bytes | None


class IndexIdentity(msgspec.Struct, frozen=True):
    """Which store an index belongs to, and which of that store's indexes it is."""

    store_id: str
    index_id: str


class BlobState(enum.StrEnum):
    """present: may be used. condemned: going, unless somebody asks for it. suspect: its bytes are missing or wrong."""

    PRESENT = "present"
    CONDEMNED = "condemned"
    SUSPECT = "suspect"


class Blob(msgspec.Struct, frozen=True):
    """What the index says of one blob. `digest` is its sha256; `names` are all its keys on the backend."""

    digest: Digest
    state: BlobState
    generation: Generation
    size_bytes: int
    blake3: bytes | None
    names: tuple[str, ...]


class Content(msgspec.Struct, frozen=True):
    """What an upload's bytes turned out to be. `aliases` are digests of other algorithms that a client used."""

    digest: Digest
    size_bytes: int
    blake3: bytes | None = None
    aliases: tuple[Digest, ...] = ()


class Intent(msgspec.Struct, frozen=True):
    """An open upload. `offset`, `hash_state` and `boot` are what was saved when its bytes were last made durable."""

    upload: UploadId
    generation: Generation
    repository: RepositoryName | None
    names: tuple[str, ...]
    offset: int
    hash_state: bytes | None
    boot: str
    renewed_at_ms: int


class CommitOutcome(enum.StrEnum):
    """How the commit of an upload ended."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REVIVED = "revived"
    NOT_PUBLISHED = "not published"
    """The bytes are needed, but the caller has not published them yet; nothing was written."""
    INTERRUPTED = "interrupted"
    """The intent was gone: expired or cancelled. What the caller published is trash now."""


class Committed(msgspec.Struct, frozen=True):
    """The commit of an upload. `trash` is the generation to delete now, if the bytes turned out not to be needed;
    `sequence` is what the answer has to wait for in the journal, 0 for nothing."""

    outcome: CommitOutcome
    trash: Generation | None = None
    sequence: int = 0


class ManifestPut(msgspec.Struct, frozen=True):
    """The outcome of putting a manifest. With `missing` or `needed` nothing was put: `missing` are digests this repository
    doesn't have; `needed` are child manifests whose record is gone, to be handed in as replays."""

    outcome: CommitOutcome
    missing: tuple[Digest, ...] = ()
    needed: tuple[Digest, ...] = ()
    trash: Generation | None = None
    sequence: int = 0


class ManifestKey(msgspec.Struct, frozen=True, order=True):
    """A manifest in a repository: the same bytes in two repositories are two."""

    repository: RepositoryName
    digest: Digest

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}"


class ManifestRecord(msgspec.Struct, frozen=True):
    """What the index says of a manifest in a repository.

    `lost_at_ms` is when it was pushed, or last lost a tag, a parent or its subject, or was renewed without any of them.
    `tagged_as` is the digest of another algorithm that the tag, if it was asked for by one, was pushed with.
    """

    key: ManifestKey
    media_type: str
    artifact_type: str | None
    subject: Digest | None
    size_bytes: int
    pushed_at_ms: int
    tag_count: int
    lost_at_ms: int
    is_subject_gone: bool
    tagged_as: Digest | None = None


class ManifestNode(msgspec.Struct, frozen=True):
    """What marking needs of a manifest: `children` are those that are manifests of the same repository, `token` is the
    index's own short name for the record."""

    record: ManifestRecord
    children: tuple[Digest, ...]
    token: bytes


class TagEntry(msgspec.Struct, frozen=True):
    """A tag and what it names."""

    tag: TagName
    digest: Digest
    updated_at_ms: int


class Alias(msgspec.Struct, frozen=True):
    """A digest of another algorithm that a client used for a blob."""

    alias: Digest
    digest: Digest


class Change(msgspec.Struct, frozen=True):
    """A change of references; an answer waits until the journal holds `sequence`."""

    sequence: int


class Unreferenced(msgspec.Struct, frozen=True):
    """A blob that no manifest keeps but dropped or spared ones, if any do: see `CollectorIndex.scan_unreferenced`."""

    digest: Digest
    state: BlobState
    size_bytes: int
    is_dropped: bool
    is_spared: bool
    last_referrer: ManifestKey | None


class LetGo(msgspec.Struct, frozen=True):
    """A blob that only going records keep, and the first of them."""

    digest: Digest
    keeper: ManifestKey


class Standing(msgspec.Struct, frozen=True):
    """What keeps a blob at one moment. `held_until_ms` is the end of its longest hold, 0 without one."""

    digest: Digest
    state: BlobState
    size_bytes: int
    has_edge: bool
    is_held: bool
    held_until_ms: int
    last_referrer: ManifestKey | None


class ReferencedBlob(msgspec.Struct, frozen=True):
    """A blob and every manifest that keeps it."""

    blob: Blob
    parents: tuple[ManifestKey, ...]


class Hold(msgspec.Struct, frozen=True):
    """A promise to keep a blob for a repository, or a pin where `repository` is None."""

    digest: Digest
    repository: RepositoryName | None
    renewed_at_ms: int
    activity: Activity
    last_referrer: ManifestKey | None


class Totals(msgspec.Struct, frozen=True):
    """Counters the index keeps as it goes, so that a report needs no scan. Blobs include manifests."""

    present_blobs: int = 0
    present_bytes: int = 0
    unreferenced_blobs: int = 0
    """Of the present ones, those without an edge."""
    unreferenced_bytes: int = 0
    condemned_blobs: int = 0
    condemned_bytes: int = 0
    suspect_blobs: int = 0
    suspect_bytes: int = 0
    pushed_bytes: int = 0
    """Bytes of all blobs ever committed, duplicates counted each time."""
    freed_bytes: int = 0
    manifests: int = 0
    loose_manifests: int = 0
    tags: int = 0
    repositories: int = 0
    uploads: int = 0
    trash: int = 0


class Guards(msgspec.Struct, frozen=True):
    """What keeps collectors from acting. `quiet_since_ms`: nothing is condemned for one grace after that time."""

    frozen: str | None
    quiet_since_ms: int
    clock_high_ms: int
    is_orphan_scan_due: bool
    sequence: int
    orphan_scan_token: bytes = b""
    """Which request of an orphan scan was the last one."""


class TrashState(enum.StrEnum):
    """waiting: in quarantine, or not yet looked at. retiring: nobody can reach it, its bytes may go."""

    WAITING = "waiting"
    RETIRING = "retiring"


class Trash(msgspec.Struct, frozen=True):
    """Names on the backend that are to go. `digest` is None for bytes that never became a blob."""

    generation: Generation
    digest: Digest | None
    names: tuple[str, ...]
    size_bytes: int
    not_before_ms: int
    state: TrashState
    why: str
    run: str | None


class Drop(msgspec.Struct, frozen=True):
    """A manifest record that a collection lets go, and why: "untagged" or "subject-gone"."""

    key: ManifestKey
    reason: str


class Dropped(msgspec.Struct, frozen=True):
    """Which of the drops asked for were carried out, and what the journal must hold before bytes go."""

    drops: tuple[Drop, ...]
    sequence: int


class Condemned(msgspec.Struct, frozen=True):
    """What a condemning batch did: `blobs` are going, `swept_holds` lapsed rows of living blobs went."""

    blobs: tuple[Blob, ...]
    swept_holds: int


class Retired(msgspec.Struct, frozen=True):
    """What a retiring batch did: the bytes of `retiring` may be deleted; `revived` blobs were wanted again."""

    retiring: tuple[Trash, ...]
    revived: tuple[Digest, ...]


class Undone(msgspec.Struct, frozen=True):
    """What `undo` brought back: blobs out of quarantine, and the manifests that the run had dropped."""

    blobs: tuple[Digest, ...]
    too_late: tuple[Digest, ...]


class RunRecord(msgspec.Struct, frozen=True):
    """A collection that changed something, or tried to; `report` is its JSON."""

    run: str
    started_at_ms: int
    finished_at_ms: int
    report: bytes


class DroppedManifest(msgspec.Struct, frozen=True):
    """What a run remembers of a manifest it dropped, enough to put it back."""

    key: ManifestKey
    media_type: str
    reason: str


class Verdict(enum.StrEnum):
    """What the index knows of a generation seen on the backend."""

    KNOWN = "known"
    ORPHAN = "orphan"
    """Minted by an epoch that this index knows, not beyond its high-water, and in no row: left by a crash."""
    ALIEN = "alien"
    """From an epoch this index doesn't know, or beyond what it minted: the index went back, or isn't alone."""


class Seen(msgspec.Struct, frozen=True):
    """A name of ours found on the backend; `digest` is None where the name tells none."""

    key: str
    generation: Generation
    digest: Digest | None
    size_bytes: int


class OutboxRow(msgspec.Struct, frozen=True):
    """A change of references on its way to the journal."""

    sequence: int
    payload: bytes
