"""How fast does a big blob come out, verified: into a file as `blobstore get -o` writes it, and to nowhere?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import floors
from _harness import MIB, opened, race, random_pieces, report, sized

from blobstore.digest import Digest
from blobstore.pool import Lane, WorkerPool
from blobstore.store import Store

SIZE_BYTES = sized(1024, 64) * MIB
REPOSITORY = "bench/get"


async def _put(store: Store, pieces: list[bytes]) -> Digest:
    async with store.repository(REPOSITORY).open_upload() as upload:
        for piece in pieces:
            await upload.write(piece)
        return (await upload.commit()).digest


async def _get_to_file(store: Store, digest: Digest, path: Path, pool: WorkerPool) -> None:
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        lane = Lane(pool)
        async with store.repository(REPOSITORY).open_blob(digest) as blob:
            async for chunk in blob:
                await lane.put(lambda chunk=chunk: os.write(handle, chunk))  # type: ignore[misc]
        await lane.drain()
    finally:
        os.close(handle)


async def _get_to_nowhere(store: Store, digest: Digest) -> None:
    async with store.repository(REPOSITORY).open_blob(digest) as blob:
        async for _ in blob:
            pass


def _bench(benchmark: Any, tmp_path: Path, *, is_to_file: bool) -> None:
    target, copied = tmp_path / "got", tmp_path / "copied"
    pool = WorkerPool("bench", 1)
    with opened(tmp_path / "store") as (runner, store):
        digest = runner.run(_put(store, random_pieces(SIZE_BYTES, "get")))
        [source] = (tmp_path / "store").glob("blobs/sha256/*/*")

        def clear(_: int, name: str) -> None:
            target.unlink(missing_ok=True)
            copied.unlink(missing_ok=True)
            del name

        def get(_: int) -> None:
            work = _get_to_file(store, digest, target, pool) if is_to_file else _get_to_nowhere(store, digest)
            runner.run(work)

        ours, timed = race(
            benchmark,
            get,
            {
                "sha256 of the file": lambda _: floors.hash_file(source),
                "cp": lambda _: floors.copy(source, copied),
            },
            rounds=sized(7, 1),
            before=clear,
        )
        runner.run(pool.aclose())
    case = f"get {SIZE_BYTES // MIB} MiB {'into a file' if is_to_file else 'to nowhere'}"
    report(case, ours, timed, target=0.80, work=SIZE_BYTES / MIB, unit="MiB")


def bench_get_to_file(benchmark: Any, tmp_path: Path) -> None:
    _bench(benchmark, tmp_path, is_to_file=True)


def bench_get_to_nowhere(benchmark: Any, tmp_path: Path) -> None:
    _bench(benchmark, tmp_path, is_to_file=False)
