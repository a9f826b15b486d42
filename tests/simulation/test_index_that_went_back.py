"""What the state machine found of an index that was restored from an older copy, each once more by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from blobstore.digest import Digest
from blobstore.errors import StoreFrozen
from blobstore.journal import recover
from tests.simulation.world import LmdbWorld, MemoryWorld, World


@pytest.fixture(params=[MemoryWorld, LmdbWorld])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = request.param()
    yield made
    asyncio.run(made.close())


async def _pin(world: World, data: bytes) -> None:
    async with await world.store.open_pinned_upload() as upload:
        await upload.write(data)
        await upload.commit()


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
