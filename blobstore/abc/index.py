"""Index: the only authority on what exists and what refers to what.

One verb is one transaction and one step of docs/storage.md ("Steps"). A verb that raises changed nothing. Verbs may share
one synced commit, and return only when it is durable. No verb reads the clock: the caller says what time it is.

Raised by any verb: IndexPoisoned (a sync failed earlier), FormatUnsupported (a record of another version), StorageFull.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from blobstore.abc.records import (
    Alias,
    Blob,
    Change,
    Committed,
    Condemned,
    Content,
    Drop,
    Dropped,
    DroppedManifest,
    Guards,
    Hold,
    IndexIdentity,
    Intent,
    LetGo,
    ManifestKey,
    ManifestNode,
    ManifestPut,
    ManifestRecord,
    OutboxRow,
    ReferencedBlob,
    Retired,
    RunRecord,
    Seen,
    Slice,
    Standing,
    TagEntry,
    Totals,
    Trash,
    Undone,
    Unreferenced,
    Verdict,
)
from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName, TagName, UploadId
from blobstore.promises import HoldTerms


class UploadIndex(abc.ABC):
    """The verbs of a push of bytes."""

    @abc.abstractmethod
    async def start_upload(
        self, upload: UploadId, repository: RepositoryName | None, digest: Digest | None, now_ms: int, boot: str
    ) -> Intent:
        """Mint a generation and insert the intent, before the first byte. With `digest`, the sha256 the bytes are said to
        have, the intent also knows the name they will be published under."""

    @abc.abstractmethod
    async def find_upload(self, upload: UploadId) -> Intent | None:
        """The intent of an open upload."""

    @abc.abstractmethod
    async def renew_upload(
        self,
        upload: UploadId,
        now_ms: int,
        terms: HoldTerms,
        *,
        offset: int | None = None,
        hash_state: bytes | None = None,
        boot: str = "",
    ) -> bool:
        """Bytes arrived: renew the intent and its repository's activity; with `offset`, save how far the bytes are durable.
        False: the intent is gone."""

    @abc.abstractmethod
    async def commit_blob(
        self, intent: Intent, content: Content, names: Sequence[str], now_ms: int, *, is_pinned: bool = False
    ) -> Committed:
        """Turn durable bytes into a blob of the intent's repository, with a hold; or learn that they aren't needed. `names` is
        where they were published, empty while they were not."""

    @abc.abstractmethod
    async def cancel_upload(self, upload: UploadId, now_ms: int, names: Sequence[str] = ()) -> Trash | None:
        """End an upload; its names, and `names` where its bytes may have been published, are trash and may be deleted at once.
        None: there was none."""

    @abc.abstractmethod
    async def close_intent(self, upload: UploadId) -> None:
        """Forget the intent of bytes that became no blob (a checkpoint) and are done. Repeatable."""

    @abc.abstractmethod
    async def list_uploads(self, before_ms: int, limit: int) -> Sequence[Intent]:
        """Intents last renewed before a time, oldest first."""

    @abc.abstractmethod
    async def expire_upload(self, upload: UploadId, before_ms: int, now_ms: int) -> Trash | None:
        """As `cancel_upload`, if the intent still is as old as that; a later commit finds it gone."""


class BlobIndex(abc.ABC):
    """The verbs that answer for single blobs."""

    @abc.abstractmethod
    async def find_blob(self, digest: Digest) -> Blob | None:
        """What is known of a blob, whoever sees it; any algorithm."""

    @abc.abstractmethod
    async def view_blob(self, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms) -> Blob | None:
        """A blob as a repository sees it, to be read: changes and promises nothing. Suspect ones are not seen."""

    @abc.abstractmethod
    async def touch_blob(
        self, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
    ) -> Blob | None:
        """A blob as a repository sees it, promised: HEAD. Renews its hold, revives it if it was condemned."""

    @abc.abstractmethod
    async def mount_blob(
        self, source: RepositoryName, target: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
    ) -> Blob | None:
        """Promise to `target` a blob that `source` sees; None if it doesn't."""

    @abc.abstractmethod
    async def list_viewers(self, digest: Digest, limit: int, now_ms: int, terms: HoldTerms) -> Sequence[RepositoryName]:
        """Repositories that see a blob, up to `limit` that keep it and `limit` that hold it, each once: where it could be mounted
        from. A hint: `mount_blob` looks again."""

    @abc.abstractmethod
    async def delete_blob(self, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms) -> None:
        """Let go of a repository's hold.

        Raises:
            BlobUnknown: this repository doesn't see it.
            StillReferenced: one of its manifests refers to it.
        """

    @abc.abstractmethod
    async def pin_blob(self, digest: Digest, now_ms: int) -> Change:
        """Hold a blob of no repository until `unpin_blob`.

        Raises:
            BlobUnknown: it is absent or suspect.
        """

    @abc.abstractmethod
    async def unpin_blob(self, digest: Digest, now_ms: int) -> Change:
        """End a pin.

        Raises:
            BlobUnknown: no such pin.
        """

    @abc.abstractmethod
    async def list_pins(self, after: Digest | None, limit: int) -> Sequence[Digest]:
        """Pinned blobs in order of digest."""


class ReferenceIndex(abc.ABC):
    """The verbs of manifests, tags and repositories."""

    @abc.abstractmethod
    async def put_manifest(
        self,
        intent: Intent,
        content: Content,
        names: Sequence[str],
        manifest: Manifest,
        tags: Sequence[TagName],
        now_ms: int,
        terms: HoldTerms,
        replays: Sequence[Manifest] = (),
    ) -> ManifestPut:
        """Commit a manifest's bytes, re-check every child, insert record, edges, subject and tags: all in one."""

    @abc.abstractmethod
    async def resolve(self, repository: RepositoryName, reference: TagName | Digest) -> ManifestRecord | None:
        """The manifest a tag or digest names."""

    @abc.abstractmethod
    async def touch_manifest(self, key: ManifestKey, now_ms: int, terms: HoldTerms) -> bool:
        """A manifest was asked for: renew the grace of one that nothing holds. False: no record."""

    @abc.abstractmethod
    async def put_tag(self, key: ManifestKey, tag: TagName, now_ms: int) -> Change:
        """Point a tag at a manifest.

        Raises:
            ManifestUnknown: no such record.
        """

    @abc.abstractmethod
    async def delete_tag(self, repository: RepositoryName, tag: TagName, now_ms: int) -> Change:
        """Remove a tag.

        Raises:
            TagUnknown: no such tag.
        """

    @abc.abstractmethod
    async def delete_manifest(self, key: ManifestKey, now_ms: int) -> Change:
        """Remove a manifest's record, tags and edges.

        Raises:
            ManifestUnknown: no such record.
            StillReferenced: an image index of the repository refers to it.
        """

    @abc.abstractmethod
    async def hide_repository(self, repository: RepositoryName, now_ms: int) -> Change:
        """Make a repository and all in it invisible at once; `continue_removals` does the rest.

        Raises:
            RepositoryUnknown: no such repository.
        """

    @abc.abstractmethod
    async def continue_removals(self, limit: int, now_ms: int) -> bool:
        """Take apart up to `limit` manifests of hidden repositories; False when none is left."""

    @abc.abstractmethod
    async def list_repositories(self, after: RepositoryName | None, limit: int) -> Sequence[RepositoryName]:
        """Repositories that hold a manifest, in byte order."""

    @abc.abstractmethod
    async def list_tags(self, repository: RepositoryName, after: TagName | None, limit: int) -> Sequence[TagEntry]:
        """A repository's tags, in byte order.

        Raises:
            RepositoryUnknown: it holds no manifest.
        """

    @abc.abstractmethod
    async def list_tags_of(self, key: ManifestKey) -> Sequence[TagName]:
        """The tags that name a manifest."""

    @abc.abstractmethod
    async def list_referrers(
        self, repository: RepositoryName, subject: Digest, after: Digest | None, limit: int
    ) -> Sequence[ManifestRecord]:
        """Manifests whose subject is `subject`, in order of digest."""

    @abc.abstractmethod
    async def list_children(self, key: ManifestKey) -> Sequence[Digest]:
        """What a manifest keeps alive, its own blob not among them."""

    @abc.abstractmethod
    async def list_parents(self, digest: Digest, limit: int) -> Sequence[ManifestKey]:
        """Manifests that keep a blob alive, its own record among them."""

    @abc.abstractmethod
    async def list_aliases(self, digest: Digest) -> Sequence[Digest]:
        """The digests of other algorithms that clients used for a blob."""


class CollectorIndex(abc.ABC):
    """The verbs of the collector. Scans work in slices over a changing index and are hints; the others re-check all."""

    @abc.abstractmethod
    async def totals(self) -> Totals:
        """Counters, read at once."""

    @abc.abstractmethod
    async def guards(self) -> Guards:
        """What keeps collectors from acting."""

    @abc.abstractmethod
    async def scan_manifests(self, after: bytes | None, limit: int) -> Slice[ManifestNode]:
        """All records, those of one repository together."""

    @abc.abstractmethod
    async def scan_references(self, after: bytes | None, limit: int) -> Slice[ReferencedBlob]:
        """All blobs in order of digest, each with its parents."""

    @abc.abstractmethod
    async def scan_unreferenced(
        self, after: bytes | None, limit: int, dropped: AbstractSet[bytes], spared: AbstractSet[bytes]
    ) -> Slice[Unreferenced]:
        """Look at up to `limit` blobs in order of digest, and return those whose every edge, if they have any, comes from a
        record whose token is in `dropped` or `spared`: the anti-join of blobs and edges.

        Raises:
            IndexDamaged: an edge points at a blob that has no row.
        """

    @abc.abstractmethod
    async def check_edges(self, after: bytes | None, limit: int) -> bytes | None:
        """Compare up to `limit` forward edges with their reverse, in one transaction; where to go on, None at the end.

        Raises:
            IndexDamaged: one has no reverse, or their numbers differ.
        """

    @abc.abstractmethod
    async def list_lapsed_holds(self, terms: HoldTerms, now_ms: int, after: bytes | None, limit: int) -> Slice[Digest]:
        """Blobs with a lapsed hold not yet worked off, oldest hold first; a blob may come twice."""

    @abc.abstractmethod
    async def list_holds(self, digest: Digest) -> Sequence[Hold]:
        """Every hold of a blob, lapsed or not."""

    @abc.abstractmethod
    async def list_loose_manifests(
        self, before_ms: int, after: bytes | None, limit: int, *, is_subject_gone: bool
    ) -> Slice[ManifestNode]:
        """Manifests that lost tag, parent and subject before a time, oldest first."""

    @abc.abstractmethod
    async def standings(self, digests: Sequence[Digest], now_ms: int, terms: HoldTerms) -> Sequence[Standing]:
        """What keeps each of some blobs; those without a row are left out."""

    @abc.abstractmethod
    async def list_let_go(self, keys: Sequence[ManifestKey], going: AbstractSet[ManifestKey]) -> Sequence[LetGo]:
        """The blobs that the records of `keys` keep, and none outside of `going`."""

    @abc.abstractmethod
    async def sweep_holds(self, now_ms: int, terms: HoldTerms, after: bytes | None, limit: int) -> bytes | None:
        """Look at up to `limit` lapsed holds, oldest first, and remove those of blobs that an edge or another hold keeps; where
        to go on, None at the end."""

    @abc.abstractmethod
    async def list_due_trash(self, now_ms: int, terms: HoldTerms, after: bytes | None, limit: int) -> Slice[Trash]:
        """All that is retiring, then the trash whose time has come and that `retire` would not give back, oldest first."""

    @abc.abstractmethod
    async def list_referrer_nodes(self, key: ManifestKey) -> Sequence[ManifestNode]:
        """The referrers of a manifest, as marking needs them."""

    @abc.abstractmethod
    async def find_node(self, key: ManifestKey) -> ManifestNode | None:
        """One manifest, as marking needs it."""

    @abc.abstractmethod
    async def find_trash(self, generation: Generation) -> Trash | None:
        """One row of the trash."""

    @abc.abstractmethod
    async def drop_manifests(
        self, drops: Sequence[Drop], judged_at_ms: int, now_ms: int, terms: HoldTerms, run: str
    ) -> Dropped:
        """Drop records that still have no tag, no parent and no living subject outside this batch, and whose grace was over at
        `judged_at_ms`; what they kept is promised from `now_ms` on."""

    @abc.abstractmethod
    async def condemn(
        self, digests: Sequence[Digest], judged_at_ms: int, terms: HoldTerms, not_before_ms: int, run: str
    ) -> Condemned:
        """Condemn blobs that still have no edge, and no hold that lasted beyond `judged_at_ms`, and keep their bytes until
        `not_before_ms`; sweep lapsed holds of the others away."""

    @abc.abstractmethod
    async def retire(self, generations: Sequence[Generation], now_ms: int, terms: HoldTerms) -> Retired:
        """Take due trash out of everybody's reach, or revive what is wanted again."""

    @abc.abstractmethod
    async def forget_trash(self, trash: Sequence[Trash]) -> Sequence[Trash]:
        """Remove retiring rows whose names are all confirmed gone; returns those that this call removed. A row that has
        gained a name since stays."""

    @abc.abstractmethod
    async def undo_condemned(self, run: str, now_ms: int) -> Undone:
        """Revive what a run condemned and is still in quarantine."""

    @abc.abstractmethod
    async def reinstate_manifest(self, repository: RepositoryName, manifest: Manifest, now_ms: int) -> Change | None:
        """Put a dropped record back, reviving what it needs; None if some of that is gone."""

    @abc.abstractmethod
    async def list_dropped(self, run: str) -> Sequence[DroppedManifest]:
        """The manifests a run dropped."""

    @abc.abstractmethod
    async def save_run(self, record: RunRecord) -> None:
        """Remember a run; one of the same id is replaced. The oldest beyond a limit go."""

    @abc.abstractmethod
    async def list_runs(self, limit: int) -> Sequence[RunRecord]:
        """The newest runs, newest first."""


class SafetyIndex(abc.ABC):
    """The verbs of guards, journal, reconciliation and rebuilding."""

    @abc.abstractmethod
    async def freeze(self, why: str, *, numbered: int = 0) -> None:
        """Stop all collecting until a rebuild. The first reason stays. What is changed from now on is numbered behind
        `numbered`: those numbers are taken by changes that only the journal knows."""

    @abc.abstractmethod
    async def note_clock(self, now_ms: int, *, is_jump: bool) -> None:
        """Remember the latest time seen; a jump starts a quiet grace."""

    @abc.abstractmethod
    async def note_orphan_scan(self, *, is_due: bool, token: bytes | None = None) -> None:
        """Say whether bytes may lie on the backend that no row knows. With the `token` of `Guards` from before a listing, one
        that was asked for since stays due."""

    @abc.abstractmethod
    async def ask_orphan_scan(self, boot: str, now_ms: int, every_ms: int) -> None:
        """Ask for an orphan scan if this is another boot of the machine than when one was asked for last, or if that is as long
        ago. A power cut may bring back names that were taken away (seen on btrfs: an upload's, beside the blob's that it
        became), and a process that slept may publish what was given up long ago, and die."""

    @abc.abstractmethod
    def unrecorded_generation(self) -> Generation:
        """A generation for a journal or checkpoint object: unique, and not counted, as no row names those."""

    @abc.abstractmethod
    async def release_reserve(self) -> None:
        """The disk is full: give space back that was kept for such a time, if there is any. It is taken again later."""

    @abc.abstractmethod
    async def list_outbox(self, after: int, limit: int) -> Sequence[OutboxRow]:
        """Rows on their way to the journal, in order."""

    @abc.abstractmethod
    async def scan_aliases(self, after: bytes | None, limit: int) -> Slice[Alias]:
        """All aliases."""

    @abc.abstractmethod
    async def trim_outbox(self, through: int) -> None:
        """Forget rows that the journal holds."""

    @abc.abstractmethod
    async def judge(self, found: Sequence[Seen]) -> Sequence[Verdict]:
        """What is known of names seen on the backend; reads anew, so call it after the listing came back."""

    @abc.abstractmethod
    async def trash_orphans(self, found: Sequence[Seen], now_ms: int) -> int:
        """Put orphans into the trash, if they still are; how many were."""

    @abc.abstractmethod
    async def suspect_blob(self, digest: Digest, generation: Generation) -> bool:
        """Mark a present blob whose bytes are missing or wrong, if it still has this generation."""

    @abc.abstractmethod
    async def restore_blobs(self, blobs: Sequence[Blob], now_ms: int) -> None:
        """Rebuild: insert blobs that were found on the backend, each held now."""

    @abc.abstractmethod
    async def restore_trash(self, trash: Sequence[Trash]) -> None:
        """Rebuild: insert bytes that no blob needs."""

    @abc.abstractmethod
    async def restore_epochs(self, high: Sequence[Generation]) -> None:
        """Rebuild: know the epochs seen on the backend, each up to the highest counter seen."""

    @abc.abstractmethod
    async def restore_manifest(
        self, repository: RepositoryName, manifest: Manifest, pushed_at_ms: int, now_ms: int, *, is_subject_gone: bool
    ) -> Sequence[Digest]:
        """Rebuild: insert a record and its edges without checks; children whose bytes are lost become suspect blobs, and are
        returned."""

    @abc.abstractmethod
    async def restore_tag(self, key: ManifestKey, tag: TagName, updated_at_ms: int) -> None:
        """Rebuild: insert a tag."""

    @abc.abstractmethod
    async def restore_pin(self, digest: Digest) -> None:
        """Rebuild: insert a pin."""

    @abc.abstractmethod
    async def restore_alias(self, alias: Digest, digest: Digest) -> None:
        """Rebuild: insert an alias; of a blob that is lost, with a suspect row."""

    @abc.abstractmethod
    async def finish_rebuild(self, sequence: int, now_ms: int) -> None:
        """Rebuild: go on numbering behind `sequence`; nothing is condemned for one grace."""


class Index(UploadIndex, BlobIndex, ReferenceIndex, CollectorIndex, SafetyIndex):
    """All verbs, and the life of an index. `__init__` only stores; `open` connects, `aclose` releases."""

    @abc.abstractmethod
    async def open(self, *, create: bool = False) -> None:
        """Connect; must happen after any fork. With `create`, make an empty index where none is.

        Raises:
            IndexOnNetwork, FormatUnsupported, IndexMissing, StoreBusy: as their names say.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Finish what is under way and release all. Repeatable."""

    @abc.abstractmethod
    async def identity(self) -> IndexIdentity | None:
        """Whose index this is; None when it is new and empty."""

    @abc.abstractmethod
    async def initialise(self, identity: IndexIdentity) -> None:
        """Make an empty index that of a store. Repeatable with the same identity.

        Raises:
            ForeignStore: it already belongs to another.
        """
