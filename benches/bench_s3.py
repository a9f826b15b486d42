"""How fast and in how much memory does a store on S3 work, beside rclone on the same server?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from _harness import MIB, OURS, race, random_pieces, report, report_value, sized, stamped
from _s3_memory import Task
from _s3_server import Rclone, fresh_server, running_store, settings_of

from blobstore.backends.s3 import S3Client
from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.store import Store
from tests.servers.processes import S3Server, clean_environment

SIZE_BYTES = sized(1024, 64) * MIB
ROUNDS = sized(5, 1)
UPLOADS_AT_ONCE = 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    """Each bench has its own: what one deleted does not fill the disk of the next."""
    with fresh_server(tmp_path / "weed") as server:
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
    task = Task(server, str(tmp_path), UPLOADS_AT_ONCE, SIZE_BYTES)
    found: dict[str, int] = {}

    def measure() -> None:
        environment = {**clean_environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        program = str(Path(__file__).with_name("_s3_memory.py"))
        command = [sys.executable, program, msgspec.json.encode(task).decode()]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found.update(json.loads(done.stdout))

    benchmark.pedantic(measure, rounds=1, iterations=1)
    report_value(
        f"S3, {UPLOADS_AT_ONCE} uploads of {SIZE_BYTES // MIB} MiB at once, peak anonymous memory",
        f"+{found['grown_bytes'] / MIB:.1f} MiB",
        target="<= 64 MiB above idle",
        note="in a process of its own",
    )
