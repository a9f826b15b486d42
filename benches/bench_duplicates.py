"""What does it cost to push a blob that is there already?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import floors
from _harness import MIB, opened, race, random_pieces, report, sized, stamped

from blobstore.store import Store

SIZE_BYTES = sized(64, 16) * MIB


async def _put(store: Store, pieces: list[bytes]) -> None:
    async with store.repository("bench/duplicates").open_upload() as upload:
        for piece in pieces:
            await upload.write(piece)
        await upload.commit()


def bench_duplicates(benchmark: Any, tmp_path: Path) -> None:
    pieces = random_pieces(SIZE_BYTES, "duplicates")
    rounds = sized(15, 1)
    with opened(tmp_path / "store") as (runner, store):
        ours, timed = race(
            benchmark,
            lambda number: runner.run(_put(store, stamped(pieces, number))),
            {
                "the first push": lambda number: runner.run(_put(store, stamped(pieces, number))),
                "sha256": lambda number: floors.sha256(stamped(pieces, number)),
            },
            rounds=rounds,
        )
        runner.run(store.parts.cleaner.aclose())
        published = len(list((tmp_path / "store").glob("blobs/sha256/*/*")))
        left = len(list((tmp_path / "store").glob("uploads/*")))
    assert (published, left) == (rounds, 0), "each blob once, and nothing staged"
    note = f"{published} files published in {2 * rounds} pushes"
    case = f"push {SIZE_BYTES // MIB} MiB again"
    work = SIZE_BYTES / MIB
    report(f"{case}, beside sha256", ours, timed[1:], target=None, work=work, unit="MiB", note=note)
    report(f"{case}, beside the first push", ours, timed[:1], target=None, work=work, unit="MiB")
