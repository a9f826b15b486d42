"""Parts that arrive when they like, or never: on a bucket in memory."""

import asyncio
import os
from pathlib import Path

import pytest

from blobstore.backends._multipart import PARTS_AT_ONCE, PartBudget
from blobstore.backends._object_client import Part
from blobstore.testing._backend_stage import published
from blobstore.testing.object_client import FakeObjectClient
from tests.backends.test_object_store import DATA, KEY, NAMES, PART, UPLOAD, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_parts_that_overtake_each_other_are_joined_in_order(scene: Scene) -> None:
    """Whichever the server took first."""
    arrived: list[int] = []

    class Overtaking(FakeObjectClient):
        async def put_part(self, key: str, multipart_id: str, number: int, data: bytes | bytearray) -> Part:
            for _ in range(-number % PARTS_AT_ONCE * 10):
                await asyncio.sleep(0)
            arrived.append(number)
            return await super().put_part(key, multipart_id, number, data)

    scene.client = Overtaking(part_min_bytes=PART)
    backend = scene.backend(budget=PartBudget(64 * PART))
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA)
    assert await upload.commit(KEY) == NAMES
    assert arrived != sorted(arrived)
    assert await published(backend, 1) == DATA


async def test_a_commit_cancelled_with_parts_on_their_way_leaves_nothing(scene: Scene) -> None:
    """The parts are let go of, and what was sent before is dropped."""
    under_way: list[int] = []

    class Stalling(FakeObjectClient):
        async def put_part(self, key: str, multipart_id: str, number: int, data: bytes | bytearray) -> Part:
            if number > 1:
                under_way.append(number)
                await asyncio.Event().wait()
            return await super().put_part(key, multipart_id, number, data)

    scene.client = Stalling(part_min_bytes=PART)
    budget = PartBudget(64 * PART)
    backend = scene.backend(budget=budget)
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[: 3 * PART])
    commit = asyncio.ensure_future(upload.commit(KEY))
    async with asyncio.timeout(10):
        while under_way != [2, 3]:
            await asyncio.sleep(0)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    assert not scene.client.multiparts
    assert not scene.client.objects
    assert budget.used_bytes == 0
    assert os.listdir(scene.spool) == []
