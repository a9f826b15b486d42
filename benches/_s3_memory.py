"""Run as a program it measures how far memory grows while several blobs are uploaded to S3 at once, in a process of its own: what
other benches left to the allocator would hide it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path

import msgspec
from _harness import MIB, SEED, PeakMemory, anonymous_bytes
from _s3_server import running_store, settings_of

from blobstore.backends.s3 import S3Client
from blobstore.store import Store
from tests.servers.processes import S3Server

_NOISE = hashlib.shake_128(str(SEED).encode()).digest(MIB - 16)


class Task(msgspec.Struct, frozen=True):
    """What to measure."""

    server: S3Server
    path: str
    uploads: int
    size_bytes: int


async def _put_all(store: Store, task: Task) -> None:
    await asyncio.gather(*[_put_fresh(store, task.size_bytes, number) for number in range(task.uploads)])


async def _put_fresh(store: Store, size_bytes: int, upload: int) -> None:
    """Each piece is made when it is wanted, as from a network, so that nothing but the store keeps it."""
    async with store.repository("bench/memory").open_upload() as session:
        for number in range(size_bytes // MIB):
            await session.write(b"".join((number.to_bytes(8, "big"), upload.to_bytes(8, "big"), _NOISE)))
        await session.commit()


def measure(task: Task) -> dict[str, int]:
    """How far memory grew."""
    with running_store(S3Client(settings_of(task.server)), Path(task.path)) as (runner, store):
        # Idle, but not new: the SDK, the threads and the index are there.
        runner.run(_put_fresh(store, MIB, task.uploads))
        with PeakMemory(anonymous_bytes()) as memory:
            runner.run(_put_all(store, task))
    return {"grown_bytes": memory.grown_bytes}


if __name__ == "__main__":
    print(json.dumps(measure(msgspec.json.decode(sys.argv[1], type=Task))))
