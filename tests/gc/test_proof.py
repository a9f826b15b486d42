"""What happens between two steps of a collection: each step looks anew, so that nothing is lost whatever it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from blobstore.abc.backend import ObjectInfo
from blobstore.abc.records import BlobState, Trash, TrashState
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown, ForeignStore, StoreFrozen
from blobstore.gc import GcPolicy
from blobstore.layout import MARKER_KEY, blob_key
from blobstore.names import UploadId
from blobstore.reconcile import find_orphans
from blobstore.testing.fakes import image
from blobstore.testing.invariants import find_broken
from tests.gc.scene import AT_ONCE, Bench


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
    assert (found.listed, found.orphans, found.aliens) == (1, 0, 0)
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
