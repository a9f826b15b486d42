"""How fast, in how much memory and with how many requests does a store on S3 work, beside rclone on the same server?"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _gc_store import add_garbage
from _harness import (
    MIB,
    OURS,
    SEED,
    PeakMemory,
    anonymous_bytes,
    race,
    random_pieces,
    report,
    report_value,
    run,
    sized,
    stamped,
)
from _s3_server import CountingClient, Rclone, fresh_server, running_store, settings_of

from blobstore.app import make_collector
from blobstore.backends.s3 import S3Client
from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.gc import GcPolicy
from blobstore.store import Store
from tests.servers.processes import S3Server

SIZE_BYTES = sized(1024, 64) * MIB
ROUNDS = sized(5, 1)
UPLOADS_AT_ONCE = 8
BLOBS = sized(10_000, 2_000)


@pytest.fixture(scope="module")
def server(session_path: Path) -> Iterator[S3Server]:
    with fresh_server(session_path / "weed") as server:
        yield server


async def _put(store: Store, pieces: list[bytes], digest: Digest | None = None) -> Descriptor:
    async with store.repository("bench/s3").open_upload(digest) as upload:
        for piece in pieces:
            await upload.write(piece)
        return await upload.commit()


async def _get(store: Store, digest: Digest) -> int:
    size = 0
    async with store.open_blob(digest) as blob:
        async for chunk in blob:
            size += len(chunk)
    return size


def bench_s3_upload(benchmark: Any, tmp_path: Path, server: S3Server) -> None:
    pieces = random_pieces(SIZE_BYTES, "s3")
    rclone = Rclone(server, tmp_path)
    # In memory, so that a disk's mood is not measured.
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
        running_store(S3Client(settings_of(server)), tmp_path) as (runner, store),
    ):
        source = Path(memory) / "blob"

        def before(number: int, name: str) -> None:
            rclone.delete(f"{tmp_path.name}/data")
            rclone.delete("rclone")
            if name != OURS:
                source.write_bytes(b"".join(stamped(pieces, number)))

        ours, timed = race(
            benchmark,
            lambda number: runner.run(_put(store, stamped(pieces, number))),
            {"rclone copyto": lambda number: rclone.upload(source, f"rclone/{number}")},
            rounds=ROUNDS,
            before=before,
        )
        rclone.delete(f"{tmp_path.name}/data")
        rclone.delete("rclone")
    report(f"S3 upload {SIZE_BYTES // MIB} MiB", ours, timed, target=0.80, work=SIZE_BYTES / MIB, unit="MiB")


def bench_s3_download(benchmark: Any, tmp_path: Path, server: S3Server) -> None:
    pieces = random_pieces(SIZE_BYTES, "s3 download")
    rclone = Rclone(server, tmp_path)
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
        running_store(S3Client(settings_of(server)), tmp_path) as (runner, store),
    ):
        target = Path(memory) / "blob"
        descriptor = runner.run(_put(store, pieces))
        key = f"{tmp_path.name}/{runner.run(_data_key(store))}"

        def get(_: int) -> None:
            assert runner.run(_get(store, descriptor.digest)) == SIZE_BYTES

        ours, timed = race(
            benchmark,
            get,
            {"rclone cat": lambda _: rclone.read(key), "rclone copyto": lambda _: rclone.download(key, target)},
            rounds=ROUNDS,
            before=lambda _number, _name: target.unlink(missing_ok=True),
        )
        rclone.delete(f"{tmp_path.name}/data")
    for floor in timed:
        case = f"S3 download {SIZE_BYTES // MIB} MiB"
        report(case, ours, [floor], target=0.90, work=SIZE_BYTES / MIB, unit="MiB")


async def _data_key(store: Store) -> str:
    return [info.key async for info in store.backend.list("data/")][-1]


def bench_s3_memory(benchmark: Any, tmp_path: Path, server: S3Server) -> None:
    rclone = Rclone(server, tmp_path)
    with running_store(S3Client(settings_of(server)), tmp_path) as (runner, store):
        # Idle, but not new: the SDK, the threads and the index are there.
        runner.run(_put_fresh(store, MIB, 1000))
        base = anonymous_bytes()
        memory = PeakMemory(base)

        def measure() -> None:
            with memory:
                runner.run(_put_many(store))

        benchmark.pedantic(measure, rounds=1, iterations=1)
        rclone.delete(f"{tmp_path.name}/data")
    report_value(
        f"S3, {UPLOADS_AT_ONCE} uploads of {SIZE_BYTES // MIB} MiB at once, peak anonymous memory",
        f"+{memory.grown_bytes / MIB:.1f} MiB",
        target="<= 64 MiB above idle",
    )


async def _put_many(store: Store) -> None:
    await asyncio.gather(*[_put_fresh(store, SIZE_BYTES, number) for number in range(UPLOADS_AT_ONCE)])


async def _put_fresh(store: Store, size_bytes: int, upload: int) -> None:
    """Each piece is made when it is wanted, as from a network, so that nothing but the store keeps it."""
    noise = hashlib.shake_128(f"{SEED} {upload}".encode()).digest(MIB)
    async with store.repository("bench/memory").open_upload() as session:
        for number in range(size_bytes // MIB):
            await session.write(number.to_bytes(16, "big") + noise[16:])
        await session.commit()


def bench_s3_requests(benchmark: Any, tmp_path: Path, server: S3Server) -> None:
    """Small garbage is one deletion in a thousand keys; the plan asks for nothing; a listing brings a thousand keys."""
    client = CountingClient(settings_of(server))
    counted: dict[str, str] = {}
    with running_store(client, tmp_path) as (runner, store):
        keys = runner.run(add_garbage(store, BLOBS, "s3", 4))
        runner.run(_put_objects(store, keys))
        # The first run after a start also lists everything, once a week: counted by itself.
        collector = make_collector(store, GcPolicy(grace_s=0, quarantine_s=0, max_share=1))

        def count(what: str) -> None:
            counted[what] = ", ".join(f"{count} {verb}" for verb, count in client.requests.items()) or "none"
            client.requests.clear()

        def measure() -> None:
            client.requests.clear()
            runner.run(_list_all(store))
            count(f"list {BLOBS:,} objects")
            plan = run(runner, collector.plan())
            count("plan")
            assert plan is not None
            report_ = run(runner, collector.run())
            assert report_.freed_blobs == BLOBS, report_.freed_blobs
            count(f"collect {BLOBS:,} blobs")

        benchmark.pedantic(measure, rounds=1, iterations=1)
    for what, value in counted.items():
        report_value(f"S3 requests, {what}", value)


async def _list_all(store: Store) -> int:
    return len([info async for info in store.backend.list("blobs/")])


async def _put_objects(store: Store, keys: list[str]) -> None:
    for at in range(0, len(keys), 64):
        await asyncio.gather(*[store.backend.put_new(key, b"blob") for key in keys[at : at + 64]])
