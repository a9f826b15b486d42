"""The index suite, guards and recovery: identity, outbox, freezing, names seen on the backend, rebuilding."""

from __future__ import annotations

import msgpack
import pytest

from blobstore.abc.records import Blob, BlobState, IndexIdentity, ManifestKey, Seen, Trash, TrashState, Verdict
from blobstore.digest import Algorithm, Digest
from blobstore.errors import ForeignStore
from blobstore.generation import Generation
from blobstore.layout import blob_key, upload_key
from blobstore.testing._index_scene import ALPHA, IDENTITY, LATEST, IndexTests, Scene
from blobstore.testing.fakes import image

LAYER = b"layer"
DIGEST = Digest.of(LAYER)


class SafetyTests(IndexTests):
    """The verbs of `SafetyIndex`, and the life of an index."""

    async def test_an_index_belongs_to_one_store(self, scene: Scene) -> None:
        """The same identity again changes nothing, another is refused."""
        assert await scene.index.identity() == IDENTITY
        await scene.index.initialise(IDENTITY)
        with pytest.raises(ForeignStore):
            await scene.index.initialise(IndexIdentity("store-2", "index-1"))
        assert await scene.index.identity() == IDENTITY

    async def test_the_first_reason_to_freeze_stays(self, scene: Scene) -> None:
        """And is what people are told."""
        assert (await scene.index.guards()).frozen is None
        await scene.index.freeze("first")
        await scene.index.freeze("second")
        assert (await scene.index.guards()).frozen == "first"

    async def test_the_clock_is_remembered(self, scene: Scene) -> None:
        """Only a jump starts a quiet time."""
        await scene.index.note_clock(scene.now_ms, is_jump=False)
        guards = await scene.index.guards()
        assert (guards.clock_high_ms, guards.quiet_since_ms) == (scene.now_ms, 0)
        scene.clock.jump(10**9)
        await scene.index.note_clock(scene.now_ms, is_jump=True)
        guards = await scene.index.guards()
        assert (guards.clock_high_ms, guards.quiet_since_ms) == (scene.now_ms, scene.now_ms)

    async def test_an_orphan_scan_is_noted_and_done(self, scene: Scene) -> None:
        """Due, and no longer due."""
        for is_due in (True, False, False):
            await scene.index.note_orphan_scan(is_due=is_due)
            assert (await scene.index.guards()).is_orphan_scan_due is is_due

    async def test_an_orphan_scan_asked_for_during_a_listing_stays_due(self, scene: Scene) -> None:
        """The listing may have passed by what the later request is about."""
        for is_first in (True, False):
            intent = await scene.start()
            await scene.index.expire_upload(intent.upload, scene.now_ms + 1, scene.now_ms)
            if is_first:
                before = await scene.index.guards()
        await scene.index.note_orphan_scan(is_due=False, token=before.orphan_scan_token)
        after = await scene.index.guards()
        assert after.is_orphan_scan_due
        await scene.index.note_orphan_scan(is_due=False, token=after.orphan_scan_token)
        assert not (await scene.index.guards()).is_orphan_scan_due

    async def test_an_orphan_scan_is_due_after_another_boot_and_once_in_a_while(self, scene: Scene) -> None:
        """Once each; a clock that went back is no reason to wait longer."""
        asked = (("one", 0, True), ("one", 99, False), ("two", 99, True), ("two", 199, True), ("two", 150, True))
        for boot, later_ms, is_due in asked:
            await scene.index.ask_orphan_scan(boot, scene.now_ms + later_ms, 100)
            guards = await scene.index.guards()
            assert guards.is_orphan_scan_due is is_due
            await scene.index.note_orphan_scan(is_due=False, token=guards.orphan_scan_token)

    async def test_each_change_of_references_has_a_number(self, scene: Scene) -> None:
        """Without gaps, in the order of the changes; verbs that change none take none."""
        await scene.push(LAYER)
        manifest = await scene.push_image(LAYER, tags=["latest"])
        key = ManifestKey(ALPHA, manifest.digest)
        sequences = [
            (await scene.index.put_tag(key, LATEST, scene.now_ms)).sequence,
            (await scene.index.pin_blob(DIGEST, scene.now_ms)).sequence,
            (await scene.index.unpin_blob(DIGEST, scene.now_ms)).sequence,
            (await scene.index.delete_tag(ALPHA, LATEST, scene.now_ms)).sequence,
            (await scene.index.delete_manifest(key, scene.now_ms)).sequence,
        ]
        assert sequences == [2, 3, 4, 5, 6]
        assert (await scene.index.guards()).sequence == 6
        rows = await scene.index.list_outbox(0, 100)
        assert [row.sequence for row in rows] == [1, 2, 3, 4, 5, 6]
        kinds = [[change[0] for change in msgpack.unpackb(row.payload)] for row in rows]
        assert kinds[:5] == [["manifest", "tag"], ["tag"], ["pin"], ["unpin"], ["untag"]]
        assert "delete" in kinds[5]

    async def test_a_refused_change_takes_no_number(self, scene: Scene) -> None:
        """A put with a missing child leaves no row in the outbox."""
        assert (await scene.put(image(b"{}"))).missing
        assert await scene.index.list_outbox(0, 10) == []

    async def test_the_outbox_is_trimmed_from_the_front(self, scene: Scene) -> None:
        """What the journal holds goes; the numbering goes on."""
        await scene.push(LAYER)
        for _ in range(5):
            await scene.index.pin_blob(DIGEST, scene.now_ms)
        assert [row.sequence for row in await scene.index.list_outbox(1, 2)] == [2, 3]
        await scene.index.trim_outbox(0)
        await scene.index.trim_outbox(3)
        assert [row.sequence for row in await scene.index.list_outbox(0, 10)] == [4, 5]
        await scene.index.trim_outbox(100)
        assert await scene.index.list_outbox(0, 10) == []
        assert (await scene.index.pin_blob(DIGEST, scene.now_ms)).sequence == 6

    async def test_unrecorded_generations_are_unique(self, scene: Scene) -> None:
        """And no upload is ever given one."""
        unrecorded = [scene.index.unrecorded_generation() for _ in range(3)]
        minted = (await scene.start()).generation
        assert len({*unrecorded, minted}) == 4

    async def test_names_of_blob_trash_and_intent_are_known(self, scene: Scene) -> None:
        """Whatever has a row is not an orphan."""
        await scene.push(LAYER)
        blob = await scene.index.find_blob(DIGEST)
        assert blob is not None
        intent = await scene.start()
        cancelled = await scene.start()
        await scene.index.cancel_upload(cancelled.upload, scene.now_ms)
        seen = [
            Seen(blob.names[0], blob.generation, DIGEST, len(LAYER)),
            Seen(upload_key(intent.generation), intent.generation, None, 1),
            Seen(upload_key(cancelled.generation), cancelled.generation, None, 1),
        ]
        assert list(await scene.index.judge(seen)) == [Verdict.KNOWN] * 3
        assert await scene.index.trash_orphans(seen, scene.now_ms) == 0

    async def test_orphans_are_told_from_aliens(self, scene: Scene) -> None:
        """Minted here and in no row: an orphan. Beyond what was minted, or of an unknown epoch: an alien, left alone."""
        intent = await scene.start()
        await scene.index.close_intent(intent.upload)
        beyond = Generation(intent.generation.epoch, intent.generation.counter + 1)
        unknown = Generation(intent.generation.epoch ^ 1, 1)
        seen = [Seen(blob_key(DIGEST, each), each, DIGEST, 3) for each in (intent.generation, beyond, unknown)]
        assert list(await scene.index.judge(seen)) == [Verdict.ORPHAN, Verdict.ALIEN, Verdict.ALIEN]
        assert await scene.index.trash_orphans(seen, scene.now_ms) == 1
        (trash,) = await scene.trash()
        assert (trash.state, trash.generation, trash.names) == (
            TrashState.RETIRING,
            intent.generation,
            (seen[0].key,),
        )
        assert (await scene.index.judge(seen))[0] is Verdict.KNOWN

    async def test_a_second_copy_of_a_blob_is_an_orphan(self, scene: Scene) -> None:
        """The digest's row has another generation: this one was left by a crash between publishing and committing."""
        await scene.push(LAYER)
        lost = await scene.start()
        await scene.index.close_intent(lost.upload)
        seen = Seen(blob_key(DIGEST, lost.generation), lost.generation, DIGEST, len(LAYER))
        assert list(await scene.index.judge([seen])) == [Verdict.ORPHAN]

    async def test_only_this_generation_becomes_suspect(self, scene: Scene) -> None:
        """A present blob whose row still has it; a condemned one keeps its state."""
        await scene.push(LAYER)
        blob = await scene.index.find_blob(DIGEST)
        assert blob is not None
        other = Generation(blob.generation.epoch, blob.generation.counter + 1)
        assert not await scene.index.suspect_blob(DIGEST, other)
        assert not await scene.index.suspect_blob(Digest.of(b"?"), blob.generation)
        assert await scene.index.suspect_blob(DIGEST, blob.generation)
        assert not await scene.index.suspect_blob(DIGEST, blob.generation)
        assert await scene.state_of(DIGEST) is BlobState.SUSPECT
        condemned = await scene.push_condemned(b"condemned")
        row = await scene.index.find_blob(condemned)
        assert row is not None
        assert not await scene.index.suspect_blob(condemned, row.generation)

    async def test_a_rebuild_restores_what_it_is_given(self, scene: Scene) -> None:
        """Blobs held for one grace, records, tags, pins and aliases; then nothing is condemned for one grace."""
        manifest = image(b"{}", [LAYER])
        origin = await _lay_out(scene, manifest.body, b"{}", LAYER, b"free")
        assert await scene.index.restore_manifest(ALPHA, manifest, 5, scene.now_ms, is_subject_gone=False) == []
        await scene.index.restore_tag(ManifestKey(ALPHA, manifest.digest), LATEST, 7)
        await scene.index.restore_pin(Digest.of(b"free"))
        alias = Digest.of(LAYER, Algorithm.SHA512)
        await scene.index.restore_alias(alias, DIGEST)
        await scene.index.finish_rebuild(41, scene.now_ms)
        record = await scene.index.resolve(ALPHA, LATEST)
        assert record is not None
        assert (record.key.digest, record.pushed_at_ms) == (manifest.digest, 5)
        assert await scene.index.list_pins(None, 10) == [Digest.of(b"free")]
        assert await scene.sees(ALPHA, alias)
        guards = await scene.index.guards()
        assert (guards.sequence, guards.quiet_since_ms) == (41, scene.now_ms)
        assert (await scene.index.delete_tag(ALPHA, LATEST, scene.now_ms)).sequence == 42
        seen = Seen("x", Generation(origin.epoch, origin.counter), None, 1)
        assert (await scene.index.judge([seen]))[0] is not Verdict.ALIEN

    async def test_a_rebuild_marks_lost_layers_suspect(self, scene: Scene) -> None:
        """The record is kept, its lost layer is named, and a push heals it."""
        manifest = image(b"{}", [LAYER])
        await _lay_out(scene, manifest.body, b"{}")
        lost = await scene.index.restore_manifest(ALPHA, manifest, 5, scene.now_ms, is_subject_gone=False)
        assert lost == [DIGEST]
        assert await scene.state_of(DIGEST) is BlobState.SUSPECT
        assert not await scene.sees(ALPHA, DIGEST)
        await scene.push(LAYER)
        assert await scene.sees(ALPHA, DIGEST)

    async def test_a_rebuild_restores_trash(self, scene: Scene) -> None:
        """Due at its own time; names of one generation are gathered in one row."""
        generation = Generation(9, 1)
        for name in ("a", "b"):
            row = Trash(generation, DIGEST, (name,), 3, scene.now_ms + 10, TrashState.WAITING, "copy", None)
            await scene.index.restore_trash([row])
        found = await scene.index.find_trash(generation)
        assert found is not None
        assert found.names == ("a", "b")
        assert (await scene.index.list_due_trash(scene.now_ms, scene.terms, None, 10)).items == ()

    async def test_restored_epochs_only_grow(self, scene: Scene) -> None:
        """The highest counter seen of an epoch is its high-water."""
        await scene.index.restore_epochs([Generation(9, 5), Generation(9, 3)])
        await scene.index.restore_epochs([Generation(9, 4)])
        seen = [Seen("x", Generation(9, counter), None, 1) for counter in (5, 6)]
        assert list(await scene.index.judge(seen)) == [Verdict.ORPHAN, Verdict.ALIEN]


async def _lay_out(scene: Scene, *contents: bytes) -> Generation:
    """Restore blobs as a rebuild finds them, all of one epoch."""
    epoch = 77
    blobs = []
    for counter, data in enumerate(contents, 1):
        generation, digest = Generation(epoch, counter), Digest.of(data)
        blobs.append(Blob(digest, BlobState.PRESENT, generation, len(data), None, (blob_key(digest, generation),)))
    await scene.index.restore_blobs(blobs, scene.now_ms)
    high = Generation(epoch, len(contents))
    await scene.index.restore_epochs([high])
    return high
