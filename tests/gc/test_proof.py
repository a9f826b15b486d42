"""What happens between two steps of a collection: each step looks anew, so that nothing is lost whatever it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from blobstore.abc.backend import ObjectInfo
from blobstore.abc.records import BlobState, CommitOutcome, Content, Trash, TrashState
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown, ForeignStore, StoreFrozen
from blobstore.gc import GcPolicy
from blobstore.index import _collecting
from blobstore.layout import MARKER_KEY, blob_key
from blobstore.names import RepositoryName, UploadId
from blobstore.reconcile import find_orphans
from blobstore.testing.fakes import image, layer
from blobstore.testing.invariants import find_broken
from tests.gc.scene import AT_ONCE, DAY_MS, Bench


def before(bench: Bench, verb: str, event: Callable[[], Awaitable[object]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen right before a verb of the index, the first time it is called."""
    index = bench.store.index
    original = getattr(index, verb)
    has_happened = False

    async def interrupted(*args: object, **kwargs: object) -> object:
        nonlocal has_happened
        if not has_happened:
            has_happened = True
            await event()
        return await original(*args, **kwargs)

    monkeypatch.setattr(index, verb, interrupted)


async def _take_over(bench: Bench) -> None:
    await bench.store.backend.put(MARKER_KEY, b'{"format":1,"store_id":"other","index_id":"other"}')


async def _run_ahead(bench: Bench) -> None:
    await bench.store.backend.put_new(f"journal/{7:020d}-{9:020d}.{'0' * 32}", b"")


@pytest.mark.parametrize(
    ("event", "error"),
    [(_take_over, ForeignStore), (_run_ahead, StoreFrozen)],
    ids=["another index", "an older copy"],
)
@pytest.mark.parametrize(("last", "state"), [("save_run", BlobState.PRESENT), ("sweep_holds", BlobState.CONDEMNED)])
async def test_a_store_lost_during_a_run_is_left_alone(
    bench: Bench, event, error: type[Exception], last: str, state: BlobState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marker and journal are looked at again right before anything is condemned, and right before anything is freed."""
    await bench.push_blob(b"garbage")
    before(bench, last, lambda: event(bench), monkeypatch)
    with pytest.raises(error):
        await bench.collector().run()
    found = await bench.store.index.find_blob(Digest.of(b"garbage"))
    assert found is not None
    assert found.state is state
    assert set(found.names) <= await bench.keys()


async def test_a_blob_wanted_again_while_it_retires_keeps_its_bytes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes go only once nobody can be told any more that they are here."""
    await bench.push_blob(b"wanted")
    before(bench, "retire", lambda: bench.store.repository("app").stat_blob(Digest.of(b"wanted")), monkeypatch)
    assert (await bench.collector().run()).freed_blobs == 0
    assert await find_broken(bench.store) == []


async def test_an_image_put_while_its_blobs_retire_is_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The put revives, the due rows find nothing."""
    await bench.push_blob(b"config")
    await bench.push_blob(b"layer")
    before(bench, "retire", lambda: bench.push(image(b"config", [b"layer"]), "one"), monkeypatch)
    assert (await bench.collector().run()).freed_blobs == 0
    assert await find_broken(bench.store) == []


async def test_an_image_put_while_its_blobs_are_condemned_is_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned as garbage, referred to by the time it is condemned."""
    await bench.push_blob(b"config")
    plan = await bench.collector(GcPolicy(grace_s=0)).plan()
    bench.clock.advance(1)
    before(bench, "condemn", lambda: bench.push(image(b"config"), "one"), monkeypatch)
    report = await bench.collector(GcPolicy(grace_s=0)).carry_out(plan)
    assert (len(plan.candidates), report.condemned_blobs) == (1, 0)
    assert await find_broken(bench.store) == []


async def test_bytes_that_were_published_while_we_listed_are_no_orphans(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is read after the listing came back: a new blob is known by then."""
    listing = bench.store.backend.list
    pushed = False

    async def list_during_a_push(prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        nonlocal pushed
        if not pushed:
            pushed = True
            await bench.push_blob(b"new")
        async for info in listing(prefix, after):
            yield info

    monkeypatch.setattr(bench.store.backend, "list", list_during_a_push)
    found = await find_orphans(bench.store.index, bench.store.backend, bench.clock)
    assert found.listed > 0
    assert (found.orphans, found.aliens) == (0, 0)
    await bench.collector(GcPolicy()).run()
    assert await find_broken(bench.store) == []


async def test_a_superfluous_copy_goes_and_the_blob_stays(bench: Bench) -> None:
    """A trash row speaks for its own generation, not for its digest: a rebuild that found two copies keeps one."""
    await bench.push_image(b"config", [b"layer"], "one")
    blob = await bench.store.index.find_blob(Digest.of(b"layer"))
    assert blob is not None
    upload = UploadId.random()
    intent = await bench.store.index.start_upload(upload, None, None, bench.clock.now_ms(), "")
    await bench.store.index.close_intent(upload)
    name = blob_key(blob.digest, intent.generation)
    await bench.store.backend.put_new(name, b"lAyer")
    waiting = Trash(
        intent.generation, blob.digest, (name,), 5, bench.clock.now_ms(), TrashState.WAITING, "not needed", None
    )
    await bench.store.index.restore_trash([waiting])
    assert (await bench.collect()).freed_blobs == 1
    assert name not in await bench.keys()
    assert set(blob.names) <= await bench.keys()
    assert await find_broken(bench.store) == []


async def test_a_suspect_that_was_let_go_never_comes_back(bench: Bench) -> None:
    """Neither asked for nor pushed as a manifest's child; only new bytes make it a blob again."""
    await bench.push_blob(b"damaged")
    blob = await bench.store.index.find_blob(Digest.of(b"damaged"))
    assert blob is not None
    await bench.store.backend.delete(blob.names)
    assert await bench.store.index.suspect_blob(blob.digest, blob.generation)
    await bench.collect(GcPolicy(grace_s=0))
    with pytest.raises(BlobUnknown):
        await bench.store.repository("app").stat_blob(blob.digest)
    await bench.push_blob(b"damaged")
    await bench.push(image(b"damaged"), "one")
    assert (await bench.collect(AT_ONCE)).freed_blobs == 0
    assert await find_broken(bench.store) == []


# What a sweep over every condition of the engine found untested


async def test_undo_brings_a_lone_blob_back_at_once(bench: Bench) -> None:
    """Present, with no trash row left, whatever becomes of its hold."""
    await bench.push_blob(b"lone")
    report = await bench.collect(GcPolicy(grace_s=0))
    await bench.collector().undo(report.plan.run)
    found = await bench.store.index.find_blob(Digest.of(b"lone"))
    assert found is not None
    assert found.state is BlobState.PRESENT
    assert (await bench.store.totals()).trash == 0
    assert await find_broken(bench.store) == []


async def test_a_commit_said_twice_revives_what_was_condemned_between(bench: Bench) -> None:
    """The first answer was lost, the bytes were condemned, the commit is sent again: it is a yes."""
    index, now_ms = bench.store.index, bench.clock.now_ms()
    intent = await index.start_upload(UploadId.random(), RepositoryName("app"), None, now_ms, "")
    content = Content(Digest.of(b"twice"), 5)
    names = [blob_key(content.digest, intent.generation)]
    await bench.store.backend.put_new(names[0], b"twice")
    await index.commit_blob(intent, content, names, now_ms, is_pinned=False)
    await bench.collect(GcPolicy(grace_s=0))
    bench.clock.advance(1)
    again = await index.commit_blob(intent, content, names, bench.clock.now_ms(), is_pinned=False)
    found = await index.find_blob(content.digest)
    assert found is not None
    assert (again.outcome, found.state) == (CommitOutcome.DUPLICATE, BlobState.PRESENT)
    assert await find_broken(bench.store) == []


async def test_activity_after_a_pause_brings_no_promise_back(bench: Bench) -> None:
    """A hold that lapsed while nothing arrived stays lapsed when its repository is written to again."""
    await bench.push_blob(b"old")
    await _write_for_a_while(bench)
    bench.clock.advance(3 * DAY_MS)
    await _write_for_a_while(bench)
    assert (await bench.collect(GcPolicy())).condemned_blobs == 1


async def _write_for_a_while(bench: Bench) -> None:
    async with bench.store.repository("app").open_upload() as upload:
        await upload.write(b"some")
        bench.clock.advance(2 * 60_000)
        await upload.write(b"more")
        await upload.cancel()


async def test_a_record_deleted_since_the_plan_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on with the others."""
    going = [await bench.push_image(b"config %d" % number, []) for number in range(2)]
    repository = bench.store.repository("app")
    before(bench, "drop_manifests", lambda: repository.delete_manifest(going[0].digest), monkeypatch)
    assert (await bench.collector().run()).dropped_manifests == 1
    assert await find_broken(bench.store) == []


async def test_only_the_lapsed_hold_of_a_held_blob_is_swept(bench: Bench) -> None:
    """However many a transaction takes."""
    for number in range(5):
        await bench.push_blob(b"blob %d" % number, "old")
    bench.clock.advance(2 * DAY_MS)
    for number in range(5):
        await bench.push_blob(b"blob %d" % number, "young")
    await bench.collect(GcPolicy(batch_max=2))
    for number in range(5):
        holds = await bench.store.index.list_holds(Digest.of(b"blob %d" % number))
        assert [hold.repository for hold in holds] == ["young"]


async def test_the_oldest_runs_are_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what undo would need of them."""
    monkeypatch.setattr(_collecting, "runs_kept_max", 2)
    runs = []
    for number in range(4):
        await bench.push_image(b"config %d" % number, [])
        runs.append((await bench.collect()).plan.run)
        bench.clock.advance(1)
    assert [record.run for record in await bench.store.index.list_runs(10)] == runs[:1:-1]
    dropped = [len(await bench.store.index.list_dropped(run)) for run in runs]
    assert dropped == [0, 0, 1, 1]


async def test_a_foreign_layer_that_came_later_is_kept_once_its_image_is_pushed_again(bench: Bench) -> None:
    """It had no edge, as it was not here; the second put makes it, though the record stands already."""
    await bench.push_blob(b"config")
    manifest = image(b"config", [layer(b"elsewhere", is_foreign=True)])
    await bench.push(manifest, "one")
    await bench.push_blob(b"elsewhere")
    await bench.push(manifest, "one")
    assert (await bench.collect()).freed_blobs == 0
    assert await bench.is_there(b"elsewhere")


async def test_a_refused_put_behind_a_fence_leaves_nothing(bench: Bench) -> None:
    """Its intent is gone and its children are missing: what it published is trash all the same."""
    index, now_ms = bench.store.index, bench.clock.now_ms()
    manifest = image(b"never pushed")
    intent = await index.start_upload(UploadId.random(), RepositoryName("app"), manifest.digest, now_ms, "")
    await index.cancel_upload(intent.upload, now_ms)
    await bench.collect()
    name = blob_key(manifest.digest, intent.generation)
    await bench.store.backend.put_new(name, manifest.body)
    content = Content(manifest.digest, manifest.size_bytes)
    result = await index.put_manifest(intent, content, [name], manifest, [], now_ms, AT_ONCE.terms)
    assert result.missing == (Digest.of(b"never pushed"),)
    await bench.collect()
    assert await bench.keys() == set()
