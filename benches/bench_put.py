"""How fast does a big blob become durable, hashed and referenced, and in how much memory?"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import floors
from _harness import MIB, PeakMemory, anonymous_bytes, opened, race, random_pieces, report, report_value, sized, stamped

from blobstore.store import Store

SIZE_BYTES = sized(1024, 64) * MIB


async def _put(store: Store, pieces: list[bytes]) -> None:
    async with store.repository("bench/put").open_upload() as upload:
        for piece in pieces:
            await upload.write(piece)
        await upload.commit()


def _forget_blobs(root: Path) -> None:
    """Give the disk its space back; the rows stay, their bytes are not asked for again."""
    for path in root.glob("blobs/sha256/*/*"):
        path.unlink()


def bench_put(benchmark: Any, tmp_path: Path) -> None:
    pieces = random_pieces(SIZE_BYTES, "put")
    plain = tmp_path / "plain"
    with opened(tmp_path / "store") as (runner, store):

        def clear(_: int, name: str) -> None:
            plain.unlink(missing_ok=True)
            _forget_blobs(tmp_path / "store")
            del name

        ours, timed = race(
            benchmark,
            lambda number: runner.run(_put(store, stamped(pieces, number))),
            {
                "sha256": lambda number: floors.sha256(stamped(pieces, number)),
                "write + fsync": lambda number: floors.write_synced(plain, stamped(pieces, number)),
            },
            rounds=sized(7, 1),
            before=clear,
        )
    report(f"put {SIZE_BYTES // MIB} MiB", ours, timed, target=0.70, work=SIZE_BYTES / MIB, unit="MiB")


def bench_put_memory(benchmark: Any, tmp_path: Path) -> None:
    grown: dict[int, int] = {}
    sizes = [sized(64, 16) * MIB, SIZE_BYTES]
    with opened(tmp_path / "store") as (runner, store):
        base = anonymous_bytes()

        def measure() -> None:
            for size in sizes:
                # Each piece is made when it is wanted, as from a network, so that nothing but the store keeps it.
                with PeakMemory(base) as memory:
                    runner.run(_put_fresh(store, size))
                grown[size] = memory.grown_bytes
                _forget_blobs(tmp_path / "store")

        benchmark.pedantic(measure, rounds=1, iterations=1)
    text = ", ".join(f"{size // MIB} MiB: +{found / MIB:.1f} MiB" for size, found in grown.items())
    report_value("put, peak anonymous memory", text, target="constant in size")


async def _put_fresh(store: Store, size_bytes: int) -> None:
    noise = hashlib.shake_128(str(size_bytes).encode()).digest(MIB)
    async with store.repository("bench/memory").open_upload() as upload:
        for number in range(size_bytes // MIB):
            await upload.write(number.to_bytes(16, "big") + noise[16:])
        await upload.commit()
