"""The index suite, single blobs: who sees them, how long, and how a promise is renewed, mounted and let go."""

from __future__ import annotations

import pytest

from blobstore.abc.records import BlobState, ManifestKey
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown, StillReferenced
from blobstore.names import RepositoryName
from blobstore.promises import PINNED_MS, HoldTerms
from blobstore.testing._index_scene import ALPHA, BETA, IndexTests, Scene

DATA = b"a layer that two repositories want"
DIGEST = Digest.of(DATA)
OTHER = b"a layer of one alone"
NOBODY = RepositoryName.parse("nobody")
MINUTE_MS = 60_000


class BlobTests(IndexTests):
    """The verbs of `BlobIndex`."""

    async def test_a_hold_is_seen_until_it_lapses(self, scene: Scene) -> None:
        """Up to the last millisecond of its term, and not after."""
        await scene.push(DATA)
        scene.clock.advance(scene.terms.term_ms - 1)
        assert await scene.sees(ALPHA, DIGEST)
        scene.clock.advance(1)
        assert not await scene.sees(ALPHA, DIGEST)
        assert await scene.state_of(DIGEST) is BlobState.PRESENT

    async def test_a_lapsed_hold_will_do_while_condemned(self, scene: Scene) -> None:
        """Who let go last may take it back; others still don't see it."""
        await scene.push_condemned(DATA)
        assert await scene.sees(ALPHA, DIGEST)
        assert not await scene.sees(BETA, DIGEST)

    async def test_reading_promises_nothing(self, scene: Scene) -> None:
        """GET of a condemned blob leaves it condemned."""
        await scene.push_condemned(DATA)
        assert await scene.sees(ALPHA, DIGEST)
        assert await scene.state_of(DIGEST) is BlobState.CONDEMNED

    async def test_an_edge_is_seen_for_ever(self, scene: Scene) -> None:
        """A blob that a manifest of the repository refers to needs no hold."""
        await scene.push_image(DATA)
        scene.clock.advance(10**12)
        assert await scene.sees(ALPHA, DIGEST)
        assert not await scene.sees(BETA, DIGEST)

    async def test_a_suspect_blob_is_seen_by_nobody(self, scene: Scene) -> None:
        """Neither by an edge nor by a hold, neither to read nor to touch nor to mount."""
        await scene.push_image(DATA)
        await scene.push(DATA, BETA)
        await scene.make_suspect(DIGEST)
        for repository in (ALPHA, BETA):
            assert not await scene.sees(repository, DIGEST)
            assert await scene.index.touch_blob(repository, DIGEST, scene.now_ms, scene.terms) is None
        assert await scene.index.mount_blob(ALPHA, BETA, DIGEST, scene.now_ms, scene.terms) is None

    async def test_an_unknown_blob_or_repository_sees_nothing(self, scene: Scene) -> None:
        """Asking makes neither a blob nor a repository."""
        await scene.push(DATA)
        before = await scene.index.totals()
        for repository, digest in ((NOBODY, DIGEST), (ALPHA, Digest.of(b"?"))):
            assert not await scene.sees(repository, digest)
            assert await scene.index.touch_blob(repository, digest, scene.now_ms, scene.terms) is None
            assert await scene.index.mount_blob(repository, BETA, digest, scene.now_ms, scene.terms) is None
        assert await scene.index.totals() == before

    async def test_touch_renews_only_a_hold_that_is_no_longer_fresh(self, scene: Scene) -> None:
        """A hold of up to `renew_s` is left as it is, an older one is renewed."""
        await scene.push(DATA)
        made_ms = scene.now_ms
        scene.clock.advance(scene.terms.renew_ms)
        assert await scene.index.touch_blob(ALPHA, DIGEST, scene.now_ms, scene.terms) is not None
        assert await _renewed(scene) == made_ms
        scene.clock.advance(1)
        assert await scene.index.touch_blob(ALPHA, DIGEST, scene.now_ms, scene.terms) is not None
        assert await _renewed(scene) == scene.now_ms

    async def test_touch_writes_nothing_where_an_edge_stands(self, scene: Scene) -> None:
        """HEAD of a referenced blob makes no hold newer."""
        await scene.push_image(DATA)
        made_ms = scene.now_ms
        scene.clock.advance(10 * scene.terms.renew_ms)
        assert await scene.index.touch_blob(ALPHA, DIGEST, scene.now_ms, scene.terms) is not None
        assert await _renewed(scene) == made_ms

    async def test_touch_does_not_bring_back_a_lapsed_hold(self, scene: Scene) -> None:
        """A blob that is no longer seen stays unseen: 404, and no promise."""
        await scene.push(DATA)
        scene.lapse()
        assert await scene.index.touch_blob(ALPHA, DIGEST, scene.now_ms, scene.terms) is None
        assert not await scene.sees(ALPHA, DIGEST)

    async def test_touch_revives_and_holds(self, scene: Scene) -> None:
        """HEAD of a condemned blob brings it back, its trash row goes, its hold is new."""
        await scene.push_condemned(DATA)
        blob = await scene.index.touch_blob(ALPHA, DIGEST, scene.now_ms, scene.terms)
        assert blob is not None
        assert blob.state is BlobState.PRESENT
        assert await scene.index.find_trash(blob.generation) is None
        assert await _renewed(scene) == scene.now_ms

    async def test_activity_prolongs_a_hold(self, scene: Scene) -> None:
        """While bytes keep arriving in the repository, its holds don't lapse, seven days at most."""
        await scene.push(DATA)
        intent = await scene.start()
        start_ms = scene.now_ms
        while scene.now_ms < start_ms + 6 * 24 * 60 * MINUTE_MS:
            assert await scene.index.renew_upload(intent.upload, scene.now_ms, scene.terms)
            scene.clock.advance(scene.terms.term_ms // 2)
            assert await scene.sees(ALPHA, DIGEST)
        scene.clock.advance(2 * 24 * 60 * MINUTE_MS)
        assert await scene.index.renew_upload(intent.upload, scene.now_ms, scene.terms)
        assert not await scene.sees(ALPHA, DIGEST)

    async def test_activity_of_another_repository_prolongs_nothing(self, scene: Scene) -> None:
        """A hold lasts as long as its own repository is active."""
        await scene.push(DATA)
        intent = await scene.start(BETA)
        scene.clock.advance(scene.terms.term_ms // 2)
        await scene.index.renew_upload(intent.upload, scene.now_ms, scene.terms)
        scene.clock.advance(scene.terms.term_ms // 2)
        assert not await scene.sees(ALPHA, DIGEST)

    async def test_no_grace_no_promise(self, scene: Scene) -> None:
        """With grace 0 a hold lapses as it is made."""
        await scene.push(DATA)
        at_once = HoldTerms(grace_s=0)
        assert await scene.index.view_blob(ALPHA, DIGEST, scene.now_ms, at_once) is None

    async def test_a_mount_holds_for_its_target(self, scene: Scene) -> None:
        """The target sees the blob, also after the source let go."""
        await scene.push(DATA)
        assert await scene.index.mount_blob(ALPHA, BETA, DIGEST, scene.now_ms, scene.terms) is not None
        await scene.index.delete_blob(ALPHA, DIGEST, scene.now_ms, scene.terms)
        assert not await scene.sees(ALPHA, DIGEST)
        assert await scene.sees(BETA, DIGEST)
        assert (await scene.condemn(DIGEST)).blobs == ()

    async def test_a_mount_revives(self, scene: Scene) -> None:
        """A condemned blob that the source still sees comes back with the target's hold."""
        await scene.push_condemned(DATA)
        blob = await scene.index.mount_blob(ALPHA, BETA, DIGEST, scene.now_ms, scene.terms)
        assert blob is not None
        assert blob.state is BlobState.PRESENT
        assert await scene.sees(BETA, DIGEST)
        assert await scene.index.find_trash(blob.generation) is None

    async def test_delete_of_a_referenced_blob_is_refused(self, scene: Scene) -> None:
        """The error names the manifests of this repository, and the blob stays."""
        manifest = await scene.push_image(DATA)
        with pytest.raises(StillReferenced) as refused:
            await scene.index.delete_blob(ALPHA, DIGEST, scene.now_ms, scene.terms)
        assert refused.value.parents == (ManifestKey(ALPHA, manifest.digest),)
        assert await scene.sees(ALPHA, DIGEST)

    async def test_an_edge_of_another_repository_does_not_refuse_a_delete(self, scene: Scene) -> None:
        """Each repository lets go of its own."""
        await scene.push_image(DATA)
        await scene.push(DATA, BETA)
        await scene.index.delete_blob(BETA, DIGEST, scene.now_ms, scene.terms)
        assert not await scene.sees(BETA, DIGEST)
        assert await scene.sees(ALPHA, DIGEST)

    async def test_delete_of_what_is_not_seen_is_refused(self, scene: Scene) -> None:
        """Unknown blob, unknown repository, lapsed hold, deleted twice."""
        await scene.push(DATA)
        for repository, digest in ((NOBODY, DIGEST), (ALPHA, Digest.of(b"?")), (BETA, DIGEST)):
            with pytest.raises(BlobUnknown):
                await scene.index.delete_blob(repository, digest, scene.now_ms, scene.terms)
        await scene.index.delete_blob(ALPHA, DIGEST, scene.now_ms, scene.terms)
        with pytest.raises(BlobUnknown):
            await scene.index.delete_blob(ALPHA, DIGEST, scene.now_ms, scene.terms)

    async def test_a_deleted_blob_is_found_by_the_collector(self, scene: Scene) -> None:
        """Nobody sees it any more, and a lapsed hold leads the collector to it at once."""
        await scene.push(DATA)
        await scene.index.delete_blob(ALPHA, DIGEST, scene.now_ms, scene.terms)
        lapsed = await scene.index.list_lapsed_holds(scene.terms, scene.now_ms, None, 10)
        assert lapsed.items == (DIGEST,)
        assert [each.digest for each in (await scene.condemn(DIGEST)).blobs] == [DIGEST]

    async def test_a_pin_holds_without_a_repository(self, scene: Scene) -> None:
        """It outlives the repository's hold and is listed in order of digest."""
        digests = sorted([await scene.push(bytes([each])) for each in range(5)])
        for digest in reversed(digests):
            await scene.index.pin_blob(digest, scene.now_ms)
        scene.clock.advance(10**12)
        assert (await scene.condemn(*digests)).blobs == ()
        pages = [*(await scene.index.list_pins(None, 2)), *(await scene.index.list_pins(digests[1], 10))]
        assert pages == digests

    async def test_a_pin_revives(self, scene: Scene) -> None:
        """Pinning a condemned blob brings it back."""
        await scene.push_condemned(DATA)
        await scene.index.pin_blob(DIGEST, scene.now_ms)
        assert await scene.state_of(DIGEST) is BlobState.PRESENT

    async def test_a_pin_needs_whole_bytes(self, scene: Scene) -> None:
        """Absent and suspect blobs can't be pinned; what isn't pinned can't be unpinned."""
        await scene.push(DATA)
        with pytest.raises(BlobUnknown):
            await scene.index.unpin_blob(DIGEST, scene.now_ms)
        await scene.make_suspect(DIGEST)
        for digest in (DIGEST, Digest.of(b"?")):
            with pytest.raises(BlobUnknown):
                await scene.index.pin_blob(digest, scene.now_ms)

    async def test_a_delete_leaves_the_pin(self, scene: Scene) -> None:
        """A repository that lets go does not end a pin."""
        await scene.push(DATA)
        await scene.index.pin_blob(DIGEST, scene.now_ms)
        await scene.index.delete_blob(ALPHA, DIGEST, scene.now_ms, scene.terms)
        assert [hold.renewed_at_ms for hold in await scene.index.list_holds(DIGEST)] == [PINNED_MS]

    async def test_viewers_are_who_sees_a_blob(self, scene: Scene) -> None:
        """By a manifest or by a hold, each once, and up to a limit of each; neither a pin nor a lapsed hold is one."""
        index, nobody = scene.index, Digest.of(b"never pushed")
        await scene.push_image(DATA)
        await scene.push_image(DATA, repository=BETA, config=b"another")
        await index.pin_blob(DIGEST, scene.now_ms)
        assert await index.list_viewers(nobody, 10, scene.now_ms, scene.terms) == []
        assert set(await index.list_viewers(DIGEST, 10, scene.now_ms, scene.terms)) == {ALPHA, BETA}
        await scene.push(OTHER, BETA)
        other = Digest.of(OTHER)
        assert await index.list_viewers(other, 10, scene.now_ms, scene.terms) == [BETA]
        scene.lapse()
        assert await index.list_viewers(other, 10, scene.now_ms, scene.terms) == []
        found = await index.list_viewers(DIGEST, 10, scene.now_ms, scene.terms)
        assert sorted(found) == [ALPHA, BETA]
        assert len(await index.list_viewers(DIGEST, 1, scene.now_ms, scene.terms)) == 1

    async def test_viewers_of_what_goes(self, scene: Scene) -> None:
        """A condemned blob is seen by who let go last; a suspect one, and one of a hidden repository, by nobody."""
        await scene.push_condemned(DATA)
        assert await scene.index.list_viewers(DIGEST, 10, scene.now_ms, scene.terms) == [ALPHA]
        await scene.push_image(OTHER, repository=BETA)
        await scene.index.hide_repository(BETA, scene.now_ms)
        assert await scene.index.list_viewers(Digest.of(OTHER), 10, scene.now_ms, scene.terms) == []
        await scene.push(b"damaged")
        await scene.make_suspect(Digest.of(b"damaged"))
        assert await scene.index.list_viewers(Digest.of(b"damaged"), 10, scene.now_ms, scene.terms) == []

    async def test_holds_tell_their_repository(self, scene: Scene) -> None:
        """`list_holds` names each repository; a pin has none."""
        await scene.push(DATA, ALPHA)
        await scene.push(DATA, BETA)
        await scene.index.pin_blob(DIGEST, scene.now_ms)
        assert {hold.repository for hold in await scene.index.list_holds(DIGEST)} == {ALPHA, BETA, None}


async def _renewed(scene: Scene) -> int:
    (hold,) = await scene.index.list_holds(DIGEST)
    return hold.renewed_at_ms
