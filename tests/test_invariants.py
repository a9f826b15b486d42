"""The checks that all proofs rest on find what is wrong: each row taken away or made up is named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.index import _records as records
from blobstore.index._tables import Table
from blobstore.index.memory import MemoryIndex
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image_index
from blobstore.testing.invariants import find_broken, find_garbage
from tests.gc.scene import AT_ONCE, HOUR_MS, Bench, GcPolicy

QUARANTINED = GcPolicy(grace_s=0, quarantine_s=3600, delete_untagged=True)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A row in every table that the checks look at."""
    clock = FakeClock()
    store = Store(MemoryBackend(), MemoryIndex(), clock=clock)
    await store.open(create=True)
    bench = Bench(store, clock)
    child = await bench.push_image(b"config", [b"layer"], "1")
    await bench.push_image(b"signature", [], subject=child)
    await bench.push(image_index([child]), "all")
    await bench.push_image(b"loose", [])
    await bench.push_blob(b"gone")
    await bench.collector(QUARANTINED).run()
    await bench.push_image(b"alone", [])
    await bench.push_blob(b"held")
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"half")
    yield bench
    await store.aclose()


def test_a_whole_store_has_no_problem(bench: Bench) -> None:
    """What the scene leaves is sound; everything below breaks one thing."""


@pytest.mark.parametrize(
    "table",
    [
        Table.REPOSITORIES, Table.REPOSITORY_NAMES, Table.BLOBS, Table.MANIFESTS, Table.EDGES_FROM, Table.EDGES_TO,
        Table.REFERRERS, Table.TAGS, Table.TAGS_OF, Table.HOLDS_BY_TIME, Table.LOOSE_BY_TIME, Table.INTENTS,
        Table.INTENTS_BY_TIME, Table.INTENTS_BY_GENERATION, Table.TRASH, Table.TRASH_BY_TIME, Table.EPOCHS,
    ],
)  # fmt: skip
async def test_a_row_that_went_is_named(bench: Bench, table: Table) -> None:
    """Whichever row of these tables goes, another one tells."""
    assert await find_broken(bench.store) == []
    rows = bench.store.index._tables[table]
    assert rows.keys, f"the scene leaves no row in {table.name}"
    for key in list(rows.keys):
        value = rows.set(key, None)
        assert await find_broken(bench.store), f"{table.name} {key.hex()} went unnoticed"
        rows.set(key, value)
    assert await find_broken(bench.store) == []


async def test_a_hold_that_went_is_named_unless_an_edge_keeps_the_blob(bench: Bench) -> None:
    """A blob keeps an edge or a hold until it retires; a hold's place by time goes with it."""
    index = bench.store.index
    key = Digest.of(b"held").value
    holds = [found for found in index._tables[Table.HOLDS].keys if found.startswith(key)]
    for found in holds:
        row = records.HOLD.decode(index._tables[Table.HOLDS].set(found, None))
        index._tables[Table.HOLDS_BY_TIME].set(records.u64(row.renewed_at_ms) + found, None)
    assert await find_broken(bench.store) == [f"blob {key.hex()} has neither edge nor hold"]


def _state(value: bytes, number: int) -> bytes:
    row = records.BLOB.decode(value)
    row.state = number
    return records.encode(row)


def _generation(value: bytes) -> bytes:
    row = records.BLOB.decode(value)
    row.generation = row.generation[:8] + records.u64(1000)
    return records.encode(row)


@pytest.mark.parametrize(
    ("data", "change", "expected"),
    [
        (b"layer", lambda value: _state(value, records.STATE_CONDEMNED), "has no trash row that waits"),
        (b"gone", lambda value: _state(value, records.STATE_PRESENT), "lives, but its name"),
        (b"layer", _generation, "no epoch minted it"),
    ],
)
async def test_a_row_that_lies_is_named(
    bench: Bench, data: bytes, change: Callable[[bytes], bytes], expected: str
) -> None:
    """The state and the generation of a blob agree with the trash and the epochs."""
    rows = bench.store.index._tables[Table.BLOBS]
    key = Digest.of(data).value
    rows.set(key, change(rows.values[key]))
    assert any(expected in problem for problem in await find_broken(bench.store))


@pytest.mark.parametrize("data", [b"layr!", b"laye", None])
async def test_bytes_that_rotted_are_named(bench: Bench, data: bytes | None) -> None:
    """Changed, cut or gone: the blob's bytes are read."""
    blob = await bench.store.stat_blob(Digest.of(b"layer"))
    bench.store.backend._objects[blob.names[0]] = data
    if data is None:
        del bench.store.backend._objects[blob.names[0]]
    problems = await find_broken(bench.store)
    assert len(problems) == 1
    assert problems[0].startswith("I1: ")


async def test_garbage_is_named_until_it_is_collected(bench: Bench) -> None:
    """What waits, what is held alone, what an upload left and what no row knows; two collections later nothing is."""
    kinds = " ".join(await find_garbage(bench.store))
    for expected in (
        "is still condemned",
        "is of no blob",
        "(unreferenced) is still there",
        "is still open",
        "by a hold",
    ):
        assert expected in kinds
    bench.clock.advance(25 * HOUR_MS)
    for _ in range(2):
        await bench.collector(AT_ONCE).run()
    assert await find_garbage(bench.store) == []
    await bench.store.backend.put(f"blobs/sha256/{'ab' * 33}.{'0' * 32}", b"left behind")
    assert len(await find_garbage(bench.store)) == 1
