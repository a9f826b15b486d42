"""The index suite, the collector's steps: drop, condemn, retire, forget, undo, each re-checking what it was told."""

from __future__ import annotations

import pytest

from blobstore.abc.records import BlobState, CommitOutcome, Drop, ManifestKey, TrashState
from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.names import TagName
from blobstore.promises import HoldTerms
from blobstore.testing._index_scene import ALPHA, BETA, LATEST, QUARANTINE_MS, RUN, IndexTests, Scene
from blobstore.testing.fakes import image, image_index

LAYER = b"layer"
DIGEST = Digest.of(LAYER)


class CollectingTests(IndexTests):
    """The verbs of `CollectorIndex`."""

    # Dropping records

    async def test_a_loose_manifest_is_dropped(self, scene: Scene) -> None:
        """Its record goes, what it kept is held for one grace more, and the run remembers it."""
        manifest = await scene.push_image(LAYER)
        scene.lapse()
        dropped = await scene.drop(manifest)
        assert [drop.key.digest for drop in dropped.drops] == [manifest.digest]
        assert dropped.sequence == (await scene.index.guards()).sequence > 0
        assert await scene.index.resolve(ALPHA, manifest.digest) is None
        for digest in (manifest.digest, DIGEST):
            assert await scene.sees(ALPHA, digest)
        (remembered,) = await scene.index.list_dropped(RUN)
        assert (remembered.key, remembered.reason) == (ManifestKey(ALPHA, manifest.digest), "untagged")
        assert await scene.index.list_dropped("run") == []

    async def test_a_drop_waits_for_the_grace(self, scene: Scene) -> None:
        """Up to its last millisecond, and longer if the manifest is asked for."""
        manifest = await scene.push_image(LAYER)
        scene.clock.advance(scene.terms.term_ms - 1)
        assert (await scene.drop(manifest)).drops == ()
        await scene.index.touch_manifest(ManifestKey(ALPHA, manifest.digest), scene.now_ms, scene.terms)
        scene.clock.advance(1)
        assert (await scene.drop(manifest)).drops == ()

    async def test_a_tagged_manifest_is_kept(self, scene: Scene) -> None:
        """A tag set after the plan was made saves it; nothing is journalled."""
        manifest = await scene.push_image(LAYER)
        scene.lapse()
        await scene.index.put_tag(ManifestKey(ALPHA, manifest.digest), LATEST, scene.now_ms)
        dropped = await scene.drop(manifest)
        assert (dropped.drops, dropped.sequence) == ((), 0)
        assert await scene.index.list_dropped(RUN) == []

    async def test_a_manifest_with_a_parent_is_kept(self, scene: Scene) -> None:
        """Unless the parent goes in the same batch, in whatever order they are named."""
        child = await scene.push_image(LAYER)
        parent = image_index([child])
        await scene.put(parent)
        scene.lapse()
        assert (await scene.drop(child)).drops == ()
        assert len((await scene.drop(child, parent)).drops) == 2

    async def test_a_batch_keeps_what_a_kept_parent_keeps(self, scene: Scene) -> None:
        """A tagged parent in the batch saves its child, and that one's child."""
        child = await scene.push_image(LAYER)
        middle = image_index([child])
        await scene.put(middle)
        top = image_index([middle])
        await scene.put(top, "latest")
        scene.lapse()
        assert (await scene.drop(child, middle, top)).drops == ()

    async def test_a_referrer_is_kept_by_its_subject(self, scene: Scene) -> None:
        """Unless that goes in the same batch."""
        subject = await scene.push_image(LAYER)
        referrer = await scene.push_image(b"signature", subject=subject)
        scene.lapse()
        assert (await scene.drop(referrer)).drops == ()
        assert len((await scene.drop(referrer, subject)).drops) == 2

    async def test_subject_gone_is_rechecked(self, scene: Scene) -> None:
        """A referrer whose subject never came is no case of "subject-gone"; one whose subject went is."""
        never = await scene.push_image(b"1", subject=image(b"{}", [b"never pushed"]))
        subject = await scene.push_image(LAYER)
        went = await scene.push_image(b"2", subject=subject)
        await scene.index.delete_manifest(ManifestKey(ALPHA, subject.digest), scene.now_ms)
        scene.lapse()
        dropped = await scene.drop(never, went, reason="subject-gone")
        assert [drop.key.digest for drop in dropped.drops] == [went.digest]

    async def test_a_hostile_circle_goes_only_as_one(self, scene: Scene) -> None:
        """An image index whose subject is its own child: each keeps the other, unless both go together."""
        child = await scene.push_image(LAYER)
        circle = image_index([child], subject=child)
        await scene.put(circle)
        scene.lapse()
        assert (await scene.drop(child)).drops == ()
        assert (await scene.drop(circle)).drops == ()
        assert len((await scene.drop(circle, child)).drops) == 2
        assert (await scene.index.totals()).manifests == 0

    async def test_a_tag_keeps_a_hostile_circle(self, scene: Scene) -> None:
        """The whole of it."""
        child = await scene.push_image(LAYER, tags=["latest"])
        circle = image_index([child], subject=child)
        await scene.put(circle)
        scene.lapse()
        assert (await scene.drop(circle, child)).drops == ()

    async def test_unknown_drops_are_left_out(self, scene: Scene) -> None:
        """No record, no repository."""
        manifest = image(b"{}")
        drops = [Drop(ManifestKey(repository, manifest.digest), "untagged") for repository in (ALPHA, BETA)]
        assert (await scene.index.drop_manifests(drops, scene.now_ms, scene.now_ms, scene.terms, RUN)).drops == ()

    # Condemning

    async def test_an_unreferenced_blob_is_condemned(self, scene: Scene) -> None:
        """Its row waits in the trash for the quarantine, under this run, and its lapsed hold is worked off."""
        await scene.push(LAYER)
        scene.lapse()
        lapsed = await scene.index.list_lapsed_holds(scene.terms, scene.now_ms, None, 10)
        assert lapsed.items == (DIGEST,)
        (blob,) = (await scene.condemn(DIGEST)).blobs
        assert await scene.state_of(DIGEST) is BlobState.CONDEMNED
        trash = await scene.index.find_trash(blob.generation)
        assert trash is not None
        assert (trash.state, trash.digest, trash.run) == (TrashState.WAITING, DIGEST, RUN)
        assert (trash.names, trash.not_before_ms) == (blob.names, scene.now_ms + QUARANTINE_MS)
        assert (await scene.index.list_lapsed_holds(scene.terms, scene.now_ms, None, 10)).items == ()
        assert (await scene.condemn(DIGEST)).blobs == ()

    async def test_edge_or_hold_keep_a_blob(self, scene: Scene) -> None:
        """Neither a referenced blob nor one with a single unlapsed hold is condemned; lapsed holds are swept away."""
        manifest = await scene.push_image(LAYER)
        await scene.push(b"held")
        scene.lapse()
        await scene.push(b"held", BETA)
        condemned = await scene.condemn(DIGEST, manifest.digest, Digest.of(b"held"), Digest.of(b"unknown"))
        assert (condemned.blobs, condemned.swept_holds) == ((), 2)
        assert await scene.index.list_holds(DIGEST) == []
        assert [hold.repository for hold in await scene.index.list_holds(Digest.of(b"held"))] == [BETA]

    async def test_sweeping_leaves_the_last_reason(self, scene: Scene) -> None:
        """Holds of living blobs go, those of unreferenced blobs stay for `condemn` to find."""
        await scene.push_image(LAYER)
        await scene.push(b"alone")
        scene.lapse()
        after: bytes | None = None
        while (after := await scene.index.sweep_holds(scene.now_ms, scene.terms, after, 1)) is not None:
            pass
        assert await scene.index.list_holds(DIGEST) == []
        lapsed = await scene.index.list_lapsed_holds(scene.terms, scene.now_ms, None, 10)
        assert lapsed.items == (Digest.of(b"alone"),)

    async def test_a_suspect_is_never_condemned(self, scene: Scene) -> None:
        """Nobody wants it: row and holds go, its names are due at once."""
        await scene.push(LAYER)
        await scene.make_suspect(DIGEST)
        scene.lapse()
        (blob,) = (await scene.condemn(DIGEST)).blobs
        assert await scene.state_of(DIGEST) is None
        assert await scene.index.list_holds(DIGEST) == []
        trash = await scene.index.find_trash(blob.generation)
        assert trash is not None
        assert trash.not_before_ms <= scene.now_ms
        assert len((await scene.index.retire([blob.generation], scene.now_ms, scene.terms)).retiring) == 1

    async def test_lapsed_holds_come_oldest_first(self, scene: Scene) -> None:
        """In slices; young holds and pins don't come."""
        digests = []
        for each in range(5):
            digests.append(await scene.push(bytes([each])))
            scene.clock.advance(10)
        await scene.index.pin_blob(digests[0], scene.now_ms)
        scene.clock.advance(scene.terms.term_ms - 20)
        page = await scene.index.list_lapsed_holds(scene.terms, scene.now_ms, None, 2)
        rest = await scene.index.list_lapsed_holds(scene.terms, scene.now_ms, page.next, 10)
        assert [*page.items, *rest.items] == digests[:4]

    async def test_activity_spares_a_hold_in_every_step(self, scene: Scene) -> None:
        """A push under way in the repository: neither listed as lapsed, nor swept, nor condemned, nor held no more."""
        await scene.push(LAYER)
        intent = await scene.start()
        for _ in range(2):
            scene.clock.advance(scene.terms.term_ms * 2 // 3)
            await scene.index.renew_upload(intent.upload, scene.now_ms, scene.terms)
        assert (await scene.index.list_lapsed_holds(scene.terms, scene.now_ms, None, 10)).items == ()
        assert (await scene.condemn(DIGEST)).blobs == ()
        (standing,) = await scene.index.standings([DIGEST, Digest.of(b"?")], scene.now_ms, scene.terms)
        assert (standing.has_edge, standing.is_held) == (False, True)
        assert standing.held_until_ms == scene.now_ms + scene.terms.term_ms

    async def test_no_grace_condemns_at_once(self, scene: Scene) -> None:
        """With grace 0 the holds of this very moment are lapsed."""
        await scene.push(LAYER)
        condemned = await scene.index.condemn([DIGEST], scene.now_ms, HoldTerms(grace_s=0), scene.now_ms, RUN)
        assert [blob.digest for blob in condemned.blobs] == [DIGEST]

    # Retiring

    async def test_a_due_blob_retires_and_is_forgotten(self, scene: Scene) -> None:
        """Row and holds go, the trash row is retiring until its names are gone, then its bytes count as freed."""
        generation = await _condemned(scene)
        retired = await scene.index.retire([generation], scene.now_ms, scene.terms)
        (trash,) = retired.retiring
        assert (trash.state, retired.revived) == (TrashState.RETIRING, ())
        assert await scene.state_of(DIGEST) is None
        assert await scene.index.list_holds(DIGEST) == []
        again = await scene.index.retire([generation], scene.now_ms, scene.terms)
        assert again.retiring == (trash,)
        assert list(await scene.index.forget_trash([trash])) == [trash]
        assert list(await scene.index.forget_trash([trash])) == []
        assert (await scene.index.totals()).freed_bytes == len(LAYER)
        assert (await scene.index.retire([generation], scene.now_ms, scene.terms)).retiring == ()

    async def test_trash_waits_for_its_quarantine(self, scene: Scene) -> None:
        """Not listed, not retired, not forgotten before its time."""
        await scene.push_condemned(LAYER)
        scene.clock.advance(QUARANTINE_MS - 1)
        (waiting,) = await scene.trash()
        assert (await scene.index.list_due_trash(scene.now_ms, scene.terms, None, 10)).items == ()
        assert (await scene.index.retire([waiting.generation], scene.now_ms, scene.terms)).retiring == ()
        assert list(await scene.index.forget_trash([waiting])) == []
        scene.clock.advance(1)
        assert (await scene.index.list_due_trash(scene.now_ms, scene.terms, None, 10)).items == (waiting,)

    async def test_a_revived_blob_does_not_retire(self, scene: Scene) -> None:
        """Its trash row went when it was revived, so the due row finds nothing."""
        generation = await _condemned(scene)
        await scene.push(LAYER)
        retired = await scene.index.retire([generation], scene.now_ms, scene.terms)
        assert (retired.retiring, retired.revived) == ((), ())
        assert await scene.state_of(DIGEST) is BlobState.PRESENT

    async def test_revival_brings_the_holds_back_into_order(self, scene: Scene) -> None:
        """A lapsed hold that condemning had worked off leads the collector to the blob again."""
        await scene.push(LAYER, BETA)
        await scene.push_condemned(LAYER)
        await scene.push(LAYER)
        assert len(await scene.index.list_holds(DIGEST)) == 2
        scene.lapse()
        lapsed = await scene.index.list_lapsed_holds(scene.terms, scene.now_ms, None, 10)
        assert lapsed.items == (DIGEST, DIGEST)

    async def test_a_longer_grace_gives_a_blob_back(self, scene: Scene) -> None:
        """Condemned under a short grace, retired under a long one: its hold has not lapsed then, so it is revived."""
        generation = await _condemned(scene)
        longer = HoldTerms(grace_s=10 * 24 * 3600)
        assert (await scene.index.list_due_trash(scene.now_ms, longer, None, 10)).items == ()
        retired = await scene.index.retire([generation], scene.now_ms, longer)
        assert (retired.retiring, retired.revived) == ((), (DIGEST,))
        assert await scene.state_of(DIGEST) is BlobState.PRESENT
        assert await scene.trash() == []

    async def test_a_row_that_gained_a_name_is_not_forgotten(self, scene: Scene) -> None:
        """A fenced commit added a name after the row was read: its bytes would be left behind."""
        intent = await scene.start()
        trash = await scene.index.cancel_upload(intent.upload, scene.now_ms)
        assert trash is not None
        await scene.commit(intent, LAYER)
        assert list(await scene.index.forget_trash([trash])) == []
        (whole,) = await scene.trash()
        assert list(await scene.index.forget_trash([whole])) == [whole]

    async def test_retiring_trash_comes_first(self, scene: Scene) -> None:
        """What nobody can reach is listed before what is merely due, in slices."""
        waiting = await _condemned(scene)
        intents = [await scene.start() for _ in range(3)]
        for intent in intents:
            await scene.index.cancel_upload(intent.upload, scene.now_ms)
        page = await scene.index.list_due_trash(scene.now_ms, scene.terms, None, 3)
        rest = await scene.index.list_due_trash(scene.now_ms, scene.terms, page.next, 3)
        assert [each.generation for each in page.items] == [intent.generation for intent in intents]
        assert [each.generation for each in rest.items] == [waiting]

    # Undoing

    async def test_undo_revives_what_still_waits(self, scene: Scene) -> None:
        """Blobs come back with their holds renewed; what retired is too late; other runs are not touched."""
        late = await scene.push_condemned(b"late")
        (row,) = await scene.trash()
        scene.clock.advance(QUARANTINE_MS)
        await scene.index.retire([row.generation], scene.now_ms, scene.terms)
        await scene.push_condemned(LAYER)
        undone = await scene.index.undo_condemned("another run", scene.now_ms)
        assert (undone.blobs, undone.too_late) == ((), ())
        undone = await scene.index.undo_condemned(RUN, scene.now_ms)
        assert (undone.blobs, undone.too_late) == ((DIGEST,), (late,))
        assert await scene.sees(ALPHA, DIGEST)
        (hold,) = await scene.index.list_holds(DIGEST)
        assert hold.renewed_at_ms == scene.now_ms
        assert (await scene.condemn(DIGEST)).blobs == ()

    async def test_a_dropped_manifest_is_reinstated(self, scene: Scene) -> None:
        """Record and edges come back, also over condemned children; the journal is told."""
        manifest = await scene.push_image(LAYER)
        scene.lapse()
        await scene.drop(manifest)
        scene.lapse()
        await scene.condemn(manifest.digest, DIGEST, Digest.of(b"{}"))
        assert await scene.state_of(DIGEST) is BlobState.CONDEMNED
        change = await scene.index.reinstate_manifest(ALPHA, manifest, scene.now_ms)
        assert change is not None
        assert change.sequence == (await scene.index.guards()).sequence
        assert await scene.index.resolve(ALPHA, manifest.digest) is not None
        assert await scene.state_of(DIGEST) is BlobState.PRESENT

    @pytest.mark.parametrize("how", ["suspect", "gone"])
    async def test_a_manifest_whose_layer_is_gone_is_not_reinstated(self, scene: Scene, how: str) -> None:
        """None, and nothing is revived."""
        manifest = await scene.push_image(LAYER)
        scene.lapse()
        await scene.drop(manifest)
        scene.lapse()
        await scene.make_suspect(DIGEST)
        await scene.condemn(manifest.digest, *([DIGEST] if how == "gone" else []))
        assert await scene.index.reinstate_manifest(ALPHA, manifest, scene.now_ms) is None
        assert await scene.state_of(manifest.digest) is BlobState.CONDEMNED
        assert await scene.index.resolve(ALPHA, manifest.digest) is None

    async def test_a_parent_is_not_reinstated_before_its_child(self, scene: Scene) -> None:
        """A child manifest must have its record first."""
        child = await scene.push_image(LAYER)
        parent = image_index([child])
        await scene.put(parent)
        scene.lapse()
        await scene.drop(parent, child)
        assert await scene.index.reinstate_manifest(ALPHA, parent, scene.now_ms) is None
        assert await scene.index.reinstate_manifest(ALPHA, child, scene.now_ms) is not None
        assert await scene.index.reinstate_manifest(ALPHA, parent, scene.now_ms) is not None

    # Promises

    async def test_a_put_after_a_drop_and_condemn_is_never_broken(self, scene: Scene) -> None:
        """HEAD said yes, all of it was collected since: the put says what is missing, or brings it back."""
        manifest = await scene.push_image(LAYER)
        scene.lapse()
        await scene.drop(manifest)
        scene.lapse()
        await scene.condemn(manifest.digest, DIGEST, Digest.of(b"{}"))
        put = await scene.put(manifest, "latest")
        assert put.outcome is CommitOutcome.REVIVED
        scene.clock.advance(10**12)
        for trash in await scene.trash():
            await scene.index.retire([trash.generation], scene.now_ms, scene.terms)
        assert await scene.index.resolve(ALPHA, TagName("latest")) is not None
        assert await scene.state_of(DIGEST) is BlobState.PRESENT


async def _condemned(scene: Scene) -> Generation:
    await scene.push_condemned(LAYER)
    blob = await scene.index.find_blob(DIGEST)
    assert blob is not None
    scene.clock.advance(QUARANTINE_MS)
    return blob.generation
