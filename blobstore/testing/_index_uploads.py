"""The index suite, pushes: start, renew, commit, cancel, expire."""

from __future__ import annotations

import pytest

from blobstore.abc.records import BlobState, CommitOutcome, Content, TrashState
from blobstore.digest import Algorithm, Digest
from blobstore.layout import blob_key, upload_key
from blobstore.names import UploadId
from blobstore.promises import PINNED_MS
from blobstore.testing._index_scene import ALPHA, BETA, IndexTests, Scene

DATA = b"some layer"
DIGEST = Digest.of(DATA)
FENCES = ("cancel", "expire")


class UploadTests(IndexTests):
    """The verbs of `UploadIndex`."""

    async def test_start_records_names_before_the_first_byte(self, scene: Scene) -> None:
        """An upload started with its digest knows where its bytes are staged and where they will lie."""
        intent = await scene.start(ALPHA, DIGEST)
        assert intent.names == (upload_key(intent.generation), blob_key(DIGEST, intent.generation))
        assert await scene.index.find_upload(intent.upload) == intent

    async def test_generations_are_never_minted_twice(self, scene: Scene) -> None:
        """Every upload has a generation of its own, each greater than the one before."""
        generations = [(await scene.start()).generation for _ in range(50)]
        assert generations == sorted(set(generations))

    async def test_an_unknown_upload_is_not_found(self, scene: Scene) -> None:
        """Finding, renewing, cancelling and expiring an unknown upload change nothing."""
        upload = UploadId.random()
        assert await scene.index.find_upload(upload) is None
        assert not await scene.index.renew_upload(upload, scene.now_ms, scene.terms)
        assert await scene.index.cancel_upload(upload, scene.now_ms) is None
        assert await scene.index.expire_upload(upload, scene.now_ms, scene.now_ms) is None
        await scene.index.close_intent(upload)
        assert (await scene.index.totals()).trash == 0

    async def test_renewing_saves_progress(self, scene: Scene) -> None:
        """Offset, hash state and boot are kept; renewing without them leaves what was saved."""
        intent = await scene.start()
        scene.clock.advance(5)
        assert await scene.index.renew_upload(
            intent.upload, scene.now_ms, scene.terms, offset=7, hash_state=b"state", boot="boot-2"
        )
        scene.clock.advance(5)
        assert await scene.index.renew_upload(intent.upload, scene.now_ms, scene.terms)
        found = await scene.index.find_upload(intent.upload)
        assert found is not None
        assert (found.offset, found.hash_state, found.boot) == (7, b"state", "boot-2")
        assert found.renewed_at_ms == scene.now_ms

    async def test_a_commit_stores_and_holds(self, scene: Scene) -> None:
        """The blob is present under its published name and seen by its repository alone."""
        intent = await scene.start(ALPHA, DIGEST)
        committed = await scene.commit(intent, DATA)
        assert (committed.outcome, committed.trash) == (CommitOutcome.STORED, None)
        blob = await scene.index.find_blob(DIGEST)
        assert blob is not None
        assert (blob.state, blob.size_bytes, blob.generation) == (BlobState.PRESENT, len(DATA), intent.generation)
        assert blob.names == (blob_key(DIGEST, intent.generation),)
        assert await scene.sees(ALPHA, DIGEST)
        assert not await scene.sees(BETA, DIGEST)
        assert await scene.index.find_upload(intent.upload) is None

    async def test_a_published_name_of_another_shape_is_kept(self, scene: Scene) -> None:
        """A blob lies where it was published, also under a name that does not follow from its digest."""
        intent = await scene.start()
        names = ["blobs/elsewhere", "blobs/more"]
        committed = await scene.index.commit_blob(intent, Content(DIGEST, len(DATA)), names, scene.now_ms)
        assert committed.outcome is CommitOutcome.STORED
        found = await scene.index.find_blob(DIGEST)
        assert found is not None
        assert found.names == tuple(names)

    async def test_a_duplicate_is_trash(self, scene: Scene) -> None:
        """The second upload of a digest keeps the first bytes; its own names may be deleted at once."""
        await scene.push(DATA, ALPHA)
        first = await scene.index.find_blob(DIGEST)
        intent = await scene.start(BETA, DIGEST)
        committed = await scene.commit(intent, DATA)
        assert (committed.outcome, committed.trash) == (CommitOutcome.DUPLICATE, intent.generation)
        assert await scene.index.find_blob(DIGEST) == first
        trash = await scene.index.find_trash(intent.generation)
        assert trash is not None
        assert (trash.state, set(trash.names)) == (TrashState.RETIRING, set(intent.names))
        assert await scene.sees(BETA, DIGEST)

    async def test_bytes_that_are_needed_must_be_published(self, scene: Scene) -> None:
        """A commit without names of an absent digest writes nothing, and can be made again with names."""
        intent = await scene.start()
        committed = await scene.commit(intent, DATA, is_published=False)
        assert committed.outcome is CommitOutcome.NOT_PUBLISHED
        assert await scene.index.find_upload(intent.upload) == intent
        assert await scene.state_of(DIGEST) is None
        assert (await scene.index.totals()).pushed_bytes == 0
        assert (await scene.commit(intent, DATA)).outcome is CommitOutcome.STORED

    async def test_a_duplicate_need_not_be_published(self, scene: Scene) -> None:
        """A commit of a present digest without names is a duplicate and held."""
        await scene.push(DATA, ALPHA)
        intent = await scene.start(BETA)
        assert (await scene.commit(intent, DATA, is_published=False)).outcome is CommitOutcome.DUPLICATE
        assert await scene.sees(BETA, DIGEST)

    async def test_a_push_of_a_condemned_digest_revives_it(self, scene: Scene) -> None:
        """The old bytes are kept, their trash row goes, the new bytes are trash."""
        await scene.push_condemned(DATA)
        old = await scene.index.find_blob(DIGEST)
        assert old is not None
        intent = await scene.start(BETA)
        committed = await scene.commit(intent, DATA)
        assert (committed.outcome, committed.trash) == (CommitOutcome.REVIVED, intent.generation)
        assert await scene.state_of(DIGEST) is BlobState.PRESENT
        assert await scene.index.find_trash(old.generation) is None
        assert await scene.index.find_trash(intent.generation) is not None
        scene.clock.advance(10**9)
        retired = await scene.index.retire([old.generation], scene.now_ms, scene.terms)
        assert (retired.retiring, retired.revived) == ((), ())

    async def test_a_push_heals_a_suspect_blob(self, scene: Scene) -> None:
        """A suspect blob gets the new generation, and its damaged bytes are trash at once."""
        await scene.push(DATA)
        old = await scene.index.find_blob(DIGEST)
        assert old is not None
        await scene.make_suspect(DIGEST)
        intent = await scene.start()
        assert (await scene.commit(intent, DATA, is_published=False)).outcome is CommitOutcome.NOT_PUBLISHED
        assert (await scene.commit(intent, DATA)).outcome is CommitOutcome.STORED
        healed = await scene.index.find_blob(DIGEST)
        assert healed is not None
        assert (healed.state, healed.generation) == (BlobState.PRESENT, intent.generation)
        trash = await scene.index.find_trash(old.generation)
        assert trash is not None
        assert (trash.state, trash.names) == (TrashState.RETIRING, old.names)

    @pytest.mark.parametrize("fence", FENCES)
    async def test_a_commit_behind_a_fence_is_interrupted(self, scene: Scene, fence: str) -> None:
        """Once the intent was cancelled or expired, a commit makes no blob; all its names are trash."""
        intent = await scene.start(ALPHA)
        await _fence(scene, intent.upload, fence)
        committed = await scene.commit(intent, DATA)
        assert (committed.outcome, committed.trash) == (CommitOutcome.INTERRUPTED, intent.generation)
        assert await scene.state_of(DIGEST) is None
        trash = await scene.index.find_trash(intent.generation)
        assert trash is not None
        assert set(trash.names) == {*intent.names, blob_key(DIGEST, intent.generation)}
        assert trash.state is TrashState.RETIRING

    @pytest.mark.parametrize("fence", FENCES)
    async def test_an_unpublished_commit_behind_a_fence_is_interrupted(self, scene: Scene, fence: str) -> None:
        """Also where nothing was published, and where the digest is present."""
        intent = await scene.start(BETA)
        await _fence(scene, intent.upload, fence)
        assert (await scene.commit(intent, DATA, is_published=False)).outcome is CommitOutcome.INTERRUPTED
        await scene.push(DATA, ALPHA)
        assert (await scene.commit(intent, DATA, is_published=False)).outcome is CommitOutcome.INTERRUPTED
        assert not await scene.sees(BETA, DIGEST)

    async def test_a_second_commit_is_interrupted_and_leaves_the_blob(self, scene: Scene) -> None:
        """A commit repeated after its answer was lost must not put the blob's own bytes into the trash."""
        intent = await scene.start(ALPHA, DIGEST)
        assert (await scene.commit(intent, DATA)).outcome is CommitOutcome.STORED
        again = await scene.commit(intent, DATA)
        blob = await scene.index.find_blob(DIGEST)
        assert blob is not None
        doomed = {name for trash in await scene.trash() for name in trash.names}
        assert not doomed.intersection(blob.names), again

    async def test_a_late_session_with_other_bytes_takes_no_name_of_the_blob(self, scene: Scene) -> None:
        """Two sessions of one upload: the one that comes second is fenced, and only its own name is trash. The first one's was
        announced when the upload began."""
        intent = await scene.start(ALPHA, DIGEST)
        assert (await scene.commit(intent, DATA)).outcome is CommitOutcome.STORED
        assert (await scene.commit(intent, b"other")).outcome is CommitOutcome.INTERRUPTED
        (trash,) = await scene.trash()
        assert set(trash.names) == {upload_key(intent.generation), blob_key(Digest.of(b"other"), intent.generation)}
        assert trash.state is TrashState.RETIRING

    async def test_what_a_late_session_left_waits_with_a_condemned_blob(self, scene: Scene) -> None:
        """They share a generation, and so a row of the trash; whoever revives the blob asks for a listing that finds the rest."""
        intent = await scene.start(ALPHA)
        await scene.commit(intent, DATA)
        scene.lapse()
        await scene.condemn(DIGEST)
        assert (await scene.commit(intent, b"other")).outcome is CommitOutcome.INTERRUPTED
        (trash,) = await scene.trash()
        others = [upload_key(intent.generation), blob_key(Digest.of(b"other"), intent.generation)]
        assert (trash.state, trash.digest) == (TrashState.WAITING, DIGEST)
        assert trash.names == (blob_key(DIGEST, intent.generation), *others)
        await scene.index.note_orphan_scan(is_due=False)
        await scene.push(DATA, ALPHA)
        assert await scene.state_of(DIGEST) is BlobState.PRESENT
        assert (await scene.index.guards()).is_orphan_scan_due

    async def test_a_blob_may_be_condemned_while_what_a_late_session_left_goes(self, scene: Scene) -> None:
        """The names stay in the row until all of them are gone."""
        intent = await scene.start(ALPHA)
        await scene.commit(intent, DATA)
        await scene.commit(intent, b"other")
        before = await scene.trash()
        scene.lapse()
        await scene.condemn(DIGEST)
        assert await scene.index.forget_trash(before) == []
        (trash,) = await scene.trash()
        assert (trash.state, trash.digest) == (TrashState.WAITING, DIGEST)
        assert set(trash.names) == {*before[0].names, blob_key(DIGEST, intent.generation)}

    async def test_cancel_gives_names_to_the_trash(self, scene: Scene) -> None:
        """A cancelled upload's names, and those it may have published under, may be deleted at once."""
        intent = await scene.start()
        trash = await scene.index.cancel_upload(intent.upload, scene.now_ms, ["blobs/maybe"])
        assert trash is not None
        assert (trash.state, set(trash.names)) == (TrashState.RETIRING, {*intent.names, "blobs/maybe"})
        assert trash.digest is None

    async def test_only_old_uploads_expire(self, scene: Scene) -> None:
        """An upload renewed since it was listed stays; an old one goes and makes an orphan scan due."""
        intent = await scene.start()
        scene.clock.advance(1000)
        before_ms = scene.now_ms
        assert [each.upload for each in await scene.index.list_uploads(before_ms, 10)] == [intent.upload]
        assert await scene.index.renew_upload(intent.upload, before_ms, scene.terms)
        assert await scene.index.list_uploads(before_ms, 10) == []
        assert await scene.index.expire_upload(intent.upload, before_ms, scene.now_ms) is None
        assert not (await scene.index.guards()).is_orphan_scan_due
        assert await scene.index.expire_upload(intent.upload, before_ms + 1, scene.now_ms) is not None
        assert (await scene.index.guards()).is_orphan_scan_due

    async def test_uploads_are_listed_oldest_first(self, scene: Scene) -> None:
        """In order of their last renewal, no more than asked for."""
        uploads = []
        for _ in range(4):
            uploads.append((await scene.start()).upload)
            scene.clock.advance(10)
        await scene.index.renew_upload(uploads[0], scene.now_ms, scene.terms)
        scene.clock.advance(10)
        found = await scene.index.list_uploads(scene.now_ms, 3)
        assert [each.upload for each in found] == uploads[1:]

    async def test_a_closed_intent_leaves_no_trash(self, scene: Scene) -> None:
        """A checkpoint's intent goes without a word; a second time changes nothing."""
        intent = await scene.start(None)
        await scene.index.close_intent(intent.upload)
        await scene.index.close_intent(intent.upload)
        assert await scene.index.find_upload(intent.upload) is None
        assert await scene.trash() == []

    async def test_a_pinned_commit_never_lapses(self, scene: Scene) -> None:
        """A pin outlives every grace, is journalled, and ends by `unpin`."""
        committed = await scene.commit(await scene.start(None), DATA, is_pinned=True)
        assert committed.sequence == 1
        scene.clock.advance(10**12)
        assert (await scene.condemn(DIGEST)).blobs == ()
        assert [hold.renewed_at_ms for hold in await scene.index.list_holds(DIGEST)] == [PINNED_MS]
        assert await scene.index.list_pins(None, 10) == [DIGEST]
        assert (await scene.index.unpin_blob(DIGEST, scene.now_ms)).sequence == 2
        assert await scene.index.list_pins(None, 10) == []
        assert [each.digest for each in (await scene.condemn(DIGEST)).blobs] == [DIGEST]

    async def test_aliases_name_the_same_blob(self, scene: Scene) -> None:
        """A blob pushed under sha512 and blake3 is found by each, and the aliases are journalled once."""
        aliases = [Digest.of(DATA, Algorithm.SHA512), Digest.of(DATA, Algorithm.BLAKE3)]
        first = await scene.commit(await scene.start(), DATA, aliases=aliases)
        again = await scene.commit(await scene.start(), DATA, aliases=aliases)
        assert (first.sequence, again.sequence) == (1, 0)
        for alias in aliases:
            assert await scene.index.find_blob(alias) == await scene.index.find_blob(DIGEST)
            assert await scene.sees(ALPHA, alias)
        assert set(await scene.index.list_aliases(DIGEST)) == set(aliases)
        found = (await scene.index.scan_aliases(None, 1)).items + (await scene.index.scan_aliases(None, 10)).items[1:]
        assert {each.alias: each.digest for each in found} == dict.fromkeys(aliases, DIGEST)

    async def test_aliases_go_with_their_blob(self, scene: Scene) -> None:
        """When the blob retires, its aliases are unknown again."""
        alias = Digest.of(DATA, Algorithm.SHA512)
        await scene.push(DATA, aliases=[alias])
        scene.lapse()
        (blob,) = (await scene.condemn(DIGEST)).blobs
        scene.clock.advance(10**9)
        await scene.index.retire([blob.generation], scene.now_ms, scene.terms)
        assert await scene.index.find_blob(alias) is None
        assert (await scene.index.scan_aliases(None, 10)).items == ()

    async def test_pushed_bytes_count_duplicates(self, scene: Scene) -> None:
        """`pushed_bytes` grows with every commit, stored or not."""
        await scene.push(DATA, ALPHA)
        await scene.push(DATA, BETA)
        assert (await scene.index.totals()).pushed_bytes == 2 * len(DATA)

    async def test_an_empty_blob_is_a_blob(self, scene: Scene) -> None:
        """0 bytes are content like any other."""
        digest = await scene.push(b"")
        blob = await scene.index.find_blob(digest)
        assert blob is not None
        assert blob.size_bytes == 0


async def _fence(scene: Scene, upload: UploadId, fence: str) -> None:
    if fence == "cancel":
        assert await scene.index.cancel_upload(upload, scene.now_ms) is not None
    else:
        assert await scene.index.expire_upload(upload, scene.now_ms + 1, scene.now_ms) is not None
