"""A read of what was promised and found missing is told as just that."""

from __future__ import annotations

import pytest

from blobstore.errors import BlobDamaged, BlobUnknown
from blobstore.events import Alarm, Event, PromiseBroken
from tests.gc.scene import Bench


async def test_bytes_that_are_gone_under_a_blob_break_a_promise(bench: Bench, events: list[Event]) -> None:
    """Bytes that somebody removed by hand: the reader is refused, and the sink is told which blob it was."""
    blob = await bench.push_blob(b"layer")
    await bench.store.backend.delete((await bench.store.stat_blob(blob.digest)).names)
    with pytest.raises(BlobDamaged):
        async with bench.store.repository("app").open_blob(blob.digest):
            raise AssertionError("opened")
    assert PromiseBroken(blob.digest) in events
    assert any(isinstance(event, Alarm) for event in events)


async def test_a_blob_that_was_collected_breaks_none(bench: Bench, events: list[Event]) -> None:
    """What the collector freed is unknown, not missing."""
    blob = await bench.push_blob(b"layer")
    assert (await bench.collect()).freed_blobs == 1
    with pytest.raises(BlobUnknown):
        async with bench.store.repository("app").open_blob(blob.digest):
            raise AssertionError("opened")
    assert not [event for event in events if isinstance(event, PromiseBroken)]
