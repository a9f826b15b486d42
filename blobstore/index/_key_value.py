"""An Index over ordered tables: hands each verb to its function, inside one transaction of the engine below."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Concatenate, ParamSpec, TypeVar

from blobstore.abc.index import Index
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
from blobstore.index import _blobs, _collecting, _outbox, _references, _safety, _scanning, _state, _uploads
from blobstore.index._minting import Minter
from blobstore.index._tables import Transaction
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName, TagName, UploadId
from blobstore.promises import HoldTerms

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class KeyValueIndex(Index):
    """What the memory and the LMDB index share: all of it but the engine."""

    def __init__(self) -> None:
        self._minter = Minter()

    # The engine

    @abc.abstractmethod
    def _read(
        self,
        verb: Callable[Concatenate[Transaction, Arguments], Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Run a short verb that writes nothing, at once and where it is called."""

    @abc.abstractmethod
    async def _scan(
        self,
        verb: Callable[Concatenate[Transaction, Arguments], Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Run a long verb that writes nothing, off the event loop."""

    @abc.abstractmethod
    async def _write(
        self,
        verb: Callable[Concatenate[Transaction, Arguments], Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Run a verb and return when what it wrote is durable. A verb may be run more than once; only the last counts."""

    # Uploads

    async def start_upload(
        self, upload: UploadId, repository: RepositoryName | None, digest: Digest | None, now_ms: int, boot: str
    ) -> Intent:
        """See `UploadIndex.start_upload`."""
        return await self._write(_uploads.start_upload, self._minter, upload, repository, digest, now_ms, boot)

    async def find_upload(self, upload: UploadId) -> Intent | None:
        """See `UploadIndex.find_upload`."""
        return self._read(_uploads.find_upload, upload)

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
        """See `UploadIndex.renew_upload`."""
        return await self._write(_uploads.renew_upload, upload, now_ms, terms, offset, hash_state, boot)

    async def commit_blob(
        self, intent: Intent, content: Content, names: Sequence[str], now_ms: int, *, is_pinned: bool = False
    ) -> Committed:
        """See `UploadIndex.commit_blob`."""
        return await self._write(_uploads.commit_blob, intent, content, names, now_ms, is_pinned)

    async def cancel_upload(self, upload: UploadId, now_ms: int, names: Sequence[str] = ()) -> Trash | None:
        """See `UploadIndex.cancel_upload`."""
        return await self._write(_uploads.cancel_upload, upload, now_ms, names)

    async def close_intent(self, upload: UploadId) -> None:
        """See `UploadIndex.close_intent`."""
        await self._write(_uploads.close_intent, upload)

    async def list_uploads(self, before_ms: int, limit: int) -> Sequence[Intent]:
        """See `UploadIndex.list_uploads`."""
        return await self._scan(_uploads.list_uploads, before_ms, limit)

    async def expire_upload(self, upload: UploadId, before_ms: int, now_ms: int) -> Trash | None:
        """See `UploadIndex.expire_upload`."""
        return await self._write(_uploads.expire_upload, upload, before_ms, now_ms)

    # Blobs

    async def find_blob(self, digest: Digest) -> Blob | None:
        """See `BlobIndex.find_blob`."""
        return self._read(_blobs.find_blob, digest)

    async def view_blob(self, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms) -> Blob | None:
        """See `BlobIndex.view_blob`."""
        return self._read(_blobs.view_blob, repository, digest, now_ms, terms)

    async def touch_blob(
        self, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
    ) -> Blob | None:
        """See `BlobIndex.touch_blob`."""
        seen, needs_promise = self._read(_blobs.peek_blob, repository, digest, now_ms, terms)
        return await self._write(_blobs.touch_blob, repository, digest, now_ms, terms) if needs_promise else seen

    async def mount_blob(
        self, source: RepositoryName, target: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
    ) -> Blob | None:
        """See `BlobIndex.mount_blob`."""
        return await self._write(_blobs.mount_blob, source, target, digest, now_ms, terms)

    async def list_viewers(self, digest: Digest, limit: int, now_ms: int, terms: HoldTerms) -> Sequence[RepositoryName]:
        """See `BlobIndex.list_viewers`."""
        return await self._scan(_blobs.list_viewers, digest, limit, now_ms, terms)

    async def delete_blob(self, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms) -> None:
        """See `BlobIndex.delete_blob`."""
        await self._write(_blobs.delete_blob, repository, digest, now_ms, terms)

    async def pin_blob(self, digest: Digest, now_ms: int) -> Change:
        """See `BlobIndex.pin_blob`."""
        return Change(await self._write(_uploads.pin_blob, digest, now_ms))

    async def unpin_blob(self, digest: Digest, now_ms: int) -> Change:
        """See `BlobIndex.unpin_blob`."""
        return Change(await self._write(_blobs.unpin_blob, digest, now_ms))

    async def list_pins(self, after: Digest | None, limit: int) -> Sequence[Digest]:
        """See `BlobIndex.list_pins`."""
        return await self._scan(_blobs.list_pins, after, limit)

    # References

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
        """See `ReferenceIndex.put_manifest`."""
        return await self._write(
            _references.put_manifest, intent, content, names, manifest, tags, now_ms, terms, replays
        )

    async def resolve(self, repository: RepositoryName, reference: TagName | Digest) -> ManifestRecord | None:
        """See `ReferenceIndex.resolve`."""
        return self._read(_references.resolve, repository, reference)

    async def touch_manifest(self, key: ManifestKey, now_ms: int, terms: HoldTerms) -> bool:
        """See `ReferenceIndex.touch_manifest`."""
        needed = self._read(_references.needs_manifest_touch, key, now_ms, terms)
        return await self._write(_references.touch_manifest, key, now_ms, terms) if needed else needed is not None

    async def put_tag(self, key: ManifestKey, tag: TagName, now_ms: int) -> Change:
        """See `ReferenceIndex.put_tag`."""
        return Change(await self._write(_references.put_tag, key, tag, now_ms))

    async def delete_tag(self, repository: RepositoryName, tag: TagName, now_ms: int) -> Change:
        """See `ReferenceIndex.delete_tag`."""
        return Change(await self._write(_references.delete_tag, repository, tag, now_ms))

    async def delete_manifest(self, key: ManifestKey, now_ms: int) -> Change:
        """See `ReferenceIndex.delete_manifest`."""
        return Change(await self._write(_references.delete_manifest, key, now_ms))

    async def hide_repository(self, repository: RepositoryName, now_ms: int) -> Change:
        """See `ReferenceIndex.hide_repository`."""
        return Change(await self._write(_references.hide_repository, repository, now_ms))

    async def continue_removals(self, limit: int, now_ms: int) -> bool:
        """See `ReferenceIndex.continue_removals`."""
        return await self._write(_references.continue_removals, limit, now_ms)

    async def list_repositories(self, after: RepositoryName | None, limit: int) -> Sequence[RepositoryName]:
        """See `ReferenceIndex.list_repositories`."""
        return await self._scan(_references.list_repositories, after, limit)

    async def list_tags(self, repository: RepositoryName, after: TagName | None, limit: int) -> Sequence[TagEntry]:
        """See `ReferenceIndex.list_tags`."""
        return await self._scan(_references.list_tags, repository, after, limit)

    async def list_tags_of(self, key: ManifestKey) -> Sequence[TagName]:
        """See `ReferenceIndex.list_tags_of`."""
        place = self._read(_state.manifest_key, key)
        return await self._scan(_references.list_tags_of, place) if place is not None else []

    async def list_referrers(
        self, repository: RepositoryName, subject: Digest, after: Digest | None, limit: int
    ) -> Sequence[ManifestRecord]:
        """See `ReferenceIndex.list_referrers`."""
        return await self._scan(_references.list_referrers, repository, subject, after, limit)

    async def list_children(self, key: ManifestKey) -> Sequence[Digest]:
        """See `ReferenceIndex.list_children`."""
        return await self._scan(_references.list_children, key)

    async def list_parents(self, digest: Digest, limit: int) -> Sequence[ManifestKey]:
        """See `ReferenceIndex.list_parents`."""
        return await self._scan(_references.list_parents, digest, limit)

    async def list_aliases(self, digest: Digest) -> Sequence[Digest]:
        """See `ReferenceIndex.list_aliases`."""
        return self._read(_references.list_aliases, digest)

    # The collector

    async def totals(self) -> Totals:
        """See `CollectorIndex.totals`."""
        return self._read(_scanning.totals)

    async def guards(self) -> Guards:
        """See `CollectorIndex.guards`."""
        return self._read(_scanning.guards)

    async def scan_manifests(self, after: bytes | None, limit: int) -> Slice[ManifestNode]:
        """See `CollectorIndex.scan_manifests`."""
        return await self._scan(_scanning.scan_manifests, after, limit)

    async def scan_references(self, after: bytes | None, limit: int) -> Slice[ReferencedBlob]:
        """See `CollectorIndex.scan_references`."""
        return await self._scan(_scanning.scan_references, after, limit)

    async def scan_unreferenced(
        self, after: bytes | None, limit: int, dropped: AbstractSet[bytes], spared: AbstractSet[bytes]
    ) -> Slice[Unreferenced]:
        """See `CollectorIndex.scan_unreferenced`."""
        return await self._scan(_scanning.scan_unreferenced, after, limit, dropped, spared)

    async def check_edges(self, after: bytes | None, limit: int) -> bytes | None:
        """See `CollectorIndex.check_edges`."""
        # First by sums, which is several times faster: equal ones mean that both tables hold the same edges. Different ones may
        # only mean that somebody pushed meanwhile; then each edge is looked up.
        if after is None and await self._sum_edges(limit, is_reverse=False) == await self._sum_edges(
            limit, is_reverse=True
        ):
            return None
        return await self._scan(_scanning.check_edges, after, limit)

    async def _sum_edges(self, limit: int, *, is_reverse: bool) -> int:
        total, after = await self._scan(_scanning.sum_edges, None, limit, is_reverse)
        while after is not None:
            more, after = await self._scan(_scanning.sum_edges, after, limit, is_reverse)
            total += more
        return total

    async def list_lapsed_holds(self, terms: HoldTerms, now_ms: int, after: bytes | None, limit: int) -> Slice[Digest]:
        """See `CollectorIndex.list_lapsed_holds`."""
        return await self._scan(_scanning.list_lapsed_holds, terms, now_ms, after, limit)

    async def list_holds(self, digest: Digest) -> Sequence[Hold]:
        """See `CollectorIndex.list_holds`."""
        return self._read(_scanning.list_holds, digest)

    async def list_loose_manifests(
        self, before_ms: int, after: bytes | None, limit: int, *, is_subject_gone: bool
    ) -> Slice[ManifestNode]:
        """See `CollectorIndex.list_loose_manifests`."""
        return await self._scan(_scanning.list_loose_manifests, before_ms, after, limit, is_subject_gone)

    async def standings(self, digests: Sequence[Digest], now_ms: int, terms: HoldTerms) -> Sequence[Standing]:
        """See `CollectorIndex.standings`."""
        return await self._scan(_scanning.standings, digests, now_ms, terms)

    async def list_let_go(self, keys: Sequence[ManifestKey], going: AbstractSet[ManifestKey]) -> Sequence[LetGo]:
        """See `CollectorIndex.list_let_go`."""
        return await self._scan(_scanning.list_let_go, keys, going)

    async def sweep_holds(self, now_ms: int, terms: HoldTerms, after: bytes | None, limit: int) -> bytes | None:
        """See `CollectorIndex.sweep_holds`."""
        return await self._write(_collecting.sweep_holds, now_ms, terms, after, limit)

    async def list_due_trash(self, now_ms: int, terms: HoldTerms, after: bytes | None, limit: int) -> Slice[Trash]:
        """See `CollectorIndex.list_due_trash`."""
        return await self._scan(_scanning.list_due_trash, now_ms, terms, after, limit)

    async def list_referrer_nodes(self, key: ManifestKey) -> Sequence[ManifestNode]:
        """See `CollectorIndex.list_referrer_nodes`."""
        return await self._scan(_scanning.list_referrer_nodes, key)

    async def find_node(self, key: ManifestKey) -> ManifestNode | None:
        """See `CollectorIndex.find_node`."""
        return self._read(_scanning.find_node, key)

    async def find_trash(self, generation: Generation) -> Trash | None:
        """See `CollectorIndex.find_trash`."""
        return self._read(_scanning.find_trash, generation)

    async def drop_manifests(
        self, drops: Sequence[Drop], judged_at_ms: int, now_ms: int, terms: HoldTerms, run: str
    ) -> Dropped:
        """See `CollectorIndex.drop_manifests`."""
        return await self._write(_collecting.drop_manifests, drops, judged_at_ms, now_ms, terms, run)

    async def condemn(
        self, digests: Sequence[Digest], judged_at_ms: int, terms: HoldTerms, not_before_ms: int, run: str
    ) -> Condemned:
        """See `CollectorIndex.condemn`."""
        return await self._write(_collecting.condemn, digests, judged_at_ms, terms, not_before_ms, run)

    async def retire(self, generations: Sequence[Generation], now_ms: int, terms: HoldTerms) -> Retired:
        """See `CollectorIndex.retire`."""
        return await self._write(_collecting.retire, generations, now_ms, terms)

    async def forget_trash(self, trash: Sequence[Trash]) -> Sequence[Trash]:
        """See `CollectorIndex.forget_trash`."""
        return await self._write(_collecting.forget_trash, trash)

    async def undo_condemned(self, run: str, now_ms: int) -> Undone:
        """See `CollectorIndex.undo_condemned`."""
        return await self._write(_collecting.undo_condemned, run, now_ms)

    async def reinstate_manifest(self, repository: RepositoryName, manifest: Manifest, now_ms: int) -> Change | None:
        """See `CollectorIndex.reinstate_manifest`."""
        sequence = await self._write(_collecting.reinstate_manifest, repository, manifest, now_ms)
        return Change(sequence) if sequence is not None else None

    async def list_dropped(self, run: str) -> Sequence[DroppedManifest]:
        """See `CollectorIndex.list_dropped`."""
        return await self._scan(_collecting.list_dropped, run)

    async def save_run(self, record: RunRecord) -> None:
        """See `CollectorIndex.save_run`."""
        await self._write(_collecting.save_run, record)

    async def list_runs(self, limit: int) -> Sequence[RunRecord]:
        """See `CollectorIndex.list_runs`."""
        return await self._scan(_collecting.list_runs, limit)

    # Safety

    async def freeze(self, why: str, *, numbered: int = 0) -> None:
        """See `SafetyIndex.freeze`."""
        await self._write(_safety.freeze, why, numbered)

    async def note_clock(self, now_ms: int, *, is_jump: bool) -> None:
        """See `SafetyIndex.note_clock`."""
        await self._write(_safety.note_clock, now_ms, is_jump)

    async def note_orphan_scan(self, *, is_due: bool, token: bytes | None = None) -> None:
        """See `SafetyIndex.note_orphan_scan`."""
        await self._write(_safety.note_orphan_scan, is_due, token)

    async def ask_orphan_scan(self, boot: str, now_ms: int, every_ms: int) -> None:
        """See `SafetyIndex.ask_orphan_scan`."""
        await self._write(_safety.ask_orphan_scan, boot, now_ms, every_ms)

    def unrecorded_generation(self) -> Generation:
        """See `SafetyIndex.unrecorded_generation`."""
        return self._minter.unrecorded()

    async def list_outbox(self, after: int, limit: int) -> Sequence[OutboxRow]:
        """See `SafetyIndex.list_outbox`."""
        return await self._scan(_outbox.list_outbox, after, limit)

    async def scan_aliases(self, after: bytes | None, limit: int) -> Slice[Alias]:
        """See `SafetyIndex.scan_aliases`."""
        return await self._scan(_scanning.scan_aliases, after, limit)

    async def trim_outbox(self, through: int) -> None:
        """See `SafetyIndex.trim_outbox`."""
        await self._write(_outbox.trim_outbox, through)

    async def judge(self, found: Sequence[Seen]) -> Sequence[Verdict]:
        """See `SafetyIndex.judge`."""
        return await self._scan(_safety.judge, found)

    async def trash_orphans(self, found: Sequence[Seen], now_ms: int) -> int:
        """See `SafetyIndex.trash_orphans`."""
        return await self._write(_safety.trash_orphans, found, now_ms)

    async def suspect_blob(self, digest: Digest, generation: Generation) -> bool:
        """See `SafetyIndex.suspect_blob`."""
        return await self._write(_safety.suspect_blob, digest, generation)

    async def restore_blobs(self, blobs: Sequence[Blob], now_ms: int) -> None:
        """See `SafetyIndex.restore_blobs`."""
        await self._write(_safety.restore_blobs, blobs, now_ms)

    async def restore_trash(self, trash: Sequence[Trash]) -> None:
        """See `SafetyIndex.restore_trash`."""
        await self._write(_safety.restore_trash, trash)

    async def restore_epochs(self, high: Sequence[Generation]) -> None:
        """See `SafetyIndex.restore_epochs`."""
        await self._write(_safety.restore_epochs, high)

    async def restore_manifest(
        self, repository: RepositoryName, manifest: Manifest, pushed_at_ms: int, now_ms: int, *, is_subject_gone: bool
    ) -> Sequence[Digest]:
        """See `SafetyIndex.restore_manifest`."""
        return await self._write(_safety.restore_manifest, repository, manifest, pushed_at_ms, now_ms, is_subject_gone)

    async def restore_tag(self, key: ManifestKey, tag: TagName, updated_at_ms: int) -> None:
        """See `SafetyIndex.restore_tag`."""
        await self._write(_safety.restore_tag, key, tag, updated_at_ms)

    async def restore_pin(self, digest: Digest) -> None:
        """See `SafetyIndex.restore_pin`."""
        await self._write(_safety.restore_pin, digest)

    async def restore_alias(self, alias: Digest, digest: Digest) -> None:
        """See `SafetyIndex.restore_alias`."""
        await self._write(_safety.restore_alias, alias, digest)

    async def finish_rebuild(self, sequence: int, now_ms: int) -> None:
        """See `SafetyIndex.finish_rebuild`."""
        await self._write(_safety.finish_rebuild, sequence, now_ms)

    # Life

    async def identity(self) -> IndexIdentity | None:
        """See `Index.identity`."""
        return self._read(_safety.identity)

    async def initialise(self, identity: IndexIdentity) -> None:
        """See `Index.initialise`."""
        await self._write(_safety.initialise, identity)
