"""What the state machine found of an index that was lost, or restored from an older copy, each once more by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from blobstore.app import make_collector
from blobstore.digest import Digest
from blobstore.errors import StoreFrozen
from blobstore.gc import GcPolicy
from blobstore.journal import recover
from blobstore.layout import CHECKPOINT_PREFIX
from blobstore.testing.fakes import image, image_index
from blobstore.testing.invariants import find_broken
from tests.simulation.world import LmdbWorld, MemoryWorld, World

_IMAGE = image(b"config", [b"layer"])
_INDEX = image_index([_IMAGE])


@pytest.fixture(params=[MemoryWorld, LmdbWorld])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = request.param()
    yield made
    asyncio.run(made.close())


async def _pin(world: World, data: bytes) -> None:
    async with await world.store.open_pinned_upload() as upload:
        await upload.write(data)
        await upload.commit()


async def _push(world: World, tag: str) -> None:
    repository = world.store.repository("app")
    for data in (b"config", b"layer"):
        async with repository.open_upload() as upload:
            await upload.write(data)
            await upload.commit()
    await repository.put_manifest(_IMAGE.body, _IMAGE.media_type)
    await repository.put_manifest(_INDEX.body, _INDEX.media_type, tags=[tag])


async def _go_back(world: World) -> None:
    await world.kill()
    world.restore_index()
    await world.start()


async def test_what_a_frozen_store_takes_is_not_numbered_as_what_it_forgot(world: World) -> None:
    """Both were answered with success, so a rebuild has both."""
    await world.start(create=True)
    world.copy_index()
    await _pin(world, b"forgotten")
    await _go_back(world)
    await _pin(world, b"pushed to the older copy")
    await world.stop()
    report = await world.rebuild()
    assert (report.pins, report.problems) == (2, [])


async def test_changes_on_both_sides_of_what_was_forgotten_are_journaled_apart(world: World) -> None:
    """An object that left out the numbers between would end the replay there."""
    await world.start(create=True)
    await _pin(world, b"in the outbox still")
    world.copy_index()
    await _pin(world, b"forgotten")
    await _go_back(world)
    await _pin(world, b"pushed to the older copy")
    assert len((await recover(world.store.backend)).references.pins) == 3
    await world.stop()


async def test_an_older_copy_is_noticed_when_checkpoints_cover_the_whole_journal(world: World) -> None:
    """There is no journal object then that could be ahead of it."""
    await world.start(create=True)
    world.copy_index()
    await _pin(world, b"forgotten")
    await world.store.checkpoint()
    await world.store.checkpoint()
    await _go_back(world)
    assert (await world.store.index.guards()).frozen is not None
    await world.stop()


async def test_a_frozen_store_writes_no_checkpoint(world: World) -> None:
    """It would take the place of a journal that knows more."""
    await world.start(create=True)
    world.copy_index()
    await _pin(world, b"forgotten")
    await _go_back(world)
    await _pin(world, b"pushed to the older copy")
    with pytest.raises(StoreFrozen):
        await world.store.checkpoint()
    assert Digest.of(b"forgotten") in (await recover(world.store.backend)).references.pins
    await world.stop()


async def test_what_was_removed_since_and_is_pushed_to_the_older_copy_is_there(world: World) -> None:
    """The older copy sees nothing new in it, and must journal it all the same: the journal knows of the removal."""
    await world.start(create=True)
    await _push(world, "latest")
    world.copy_index()
    await world.store.repository("app").remove()
    await _go_back(world)
    await _push(world, "latest")
    await world.stop()
    report = await world.rebuild()
    assert (report.manifests, report.tags, report.problems) == (2, 1, [])


async def test_what_was_removed_since_and_is_tagged_in_the_older_copy_is_there(world: World) -> None:
    """And so is all below it."""
    await world.start(create=True)
    await _push(world, "latest")
    world.copy_index()
    await world.store.repository("app").remove()
    await _go_back(world)
    await world.store.repository("app").tag(_INDEX.digest, "kept")
    await world.stop()
    report = await world.rebuild()
    assert (report.manifests, report.tags, report.problems) == (2, 1, [])


@pytest.mark.parametrize("is_condemned", [False, True])
async def test_bytes_that_were_collected_since_are_taken_again(world: World, *, is_condemned: bool) -> None:
    """The older copy says that it has them."""
    await world.start(create=True)
    await _pin(world, b"layer")
    if is_condemned:
        await world.store.unpin(Digest.of(b"layer"))
        await make_collector(world.store, GcPolicy(grace_s=0)).run()
        assert (await world.store.totals()).condemned_blobs == 1
    world.copy_index()
    if not is_condemned:
        await world.store.unpin(Digest.of(b"layer"))
    world.clock.advance(3_600_000)
    assert (await make_collector(world.store, GcPolicy(grace_s=0, quarantine_s=0)).run()).freed_blobs == 1
    await _go_back(world)
    await _pin(world, b"layer")
    await world.stop()
    report = await world.rebuild()
    assert (report.blobs, report.pins, report.problems) == (1, 1, [])


async def test_a_damaged_checkpoint_is_not_taken_for_one_of_the_two_that_are_kept(world: World) -> None:
    """A rebuild found it; what comes after has two again, so that one more may be damaged."""
    await world.start(create=True)
    await _pin(world, b"pinned")
    for number in range(2):
        await world.store.checkpoint()
        checkpoints = [info.key async for info in world.store.backend.list(CHECKPOINT_PREFIX)]
        await _pin(world, b"and %d" % number)
    for _ in range(2):
        await world.stop()
        world.write_raw(checkpoints[-1], b"damaged")
        report = await world.rebuild()
        assert report.pins == 3
        await world.start()
        checkpoints = [info.key async for info in world.store.backend.list(CHECKPOINT_PREFIX)]
    await world.stop()


async def test_of_two_lost_blobs_each_is_healed_alone(world: World) -> None:
    """What one had, and is trash now, is not what the other has."""
    await world.start(create=True)
    await _push(world, "latest")
    names = [(await world.store.stat_blob(Digest.of(data))).names[0] for data in (b"config", b"layer")]
    await world.stop()
    for name in names:
        world.write_raw(name, None)
    await world.rebuild()
    await world.start()
    for data in (b"config", b"layer"):
        await _pin(world, data)
        assert await find_broken(world.store) == []
    await world.stop()


async def test_a_manifest_that_was_found_cut_is_counted_as_it_was_found(world: World) -> None:
    """A rebuild reads no manifest that has no record; pushed again, its size is another."""
    await world.start(create=True)
    await _push(world, "latest")
    (name,) = (await world.store.stat_blob(_INDEX.digest)).names
    await world.store.repository("app").delete_manifest(_INDEX.digest)
    await world.stop()
    world.write_raw(name, _INDEX.body[:-1])
    await world.rebuild()
    await world.start()
    await _push(world, "latest")
    assert [line for line in await find_broken(world.store) if name not in line] == []
    await world.stop()
