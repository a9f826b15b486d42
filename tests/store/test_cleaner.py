"""What is deleted behind the answers: where that fails it is told when the store is closed."""

import asyncio
import gc
from collections.abc import Sequence

import pytest

import blobstore
from blobstore.digest import Digest
from blobstore.errors import AccessDenied, DigestMismatch
from blobstore.store import Store


async def test_deletes_that_are_refused_are_told_at_the_end(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them, and none as an exception that nobody retrieved, whatever is deleted behind it."""
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    refused: list[Sequence[str]] = []

    async def delete(keys: Sequence[str]) -> frozenset[str]:
        refused.append(keys)
        raise AccessDenied(f"no right to delete number {len(refused)}")

    with pytest.raises(AccessDenied, match="number 1"):  # noqa: PT012 - it is raised when the store is closed
        async with blobstore.open(place, create=True) as store:
            monkeypatch.setattr(store.backend, "delete", delete)
            for count in (1, 2):
                await _push_another_than_announced(store)
                while len(refused) < count:
                    await asyncio.sleep(0.001)
                # Its task has ended before the next one follows.
                await asyncio.sleep(0.01)
    gc.collect()
    await asyncio.sleep(0)
    assert lost == []


async def _push_another_than_announced(store: Store) -> None:
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"x")
        with pytest.raises(DigestMismatch):
            await upload.commit(Digest.of(b"y"))
