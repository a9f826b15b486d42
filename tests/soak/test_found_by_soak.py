"""What the soak found in the engine, each as small as it can be shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from blobstore.abc.records import Retired
from blobstore.backends.memory import MemoryBackend
from blobstore.index.lmdb import LmdbIndex
from blobstore.index.memory import MemoryIndex
from blobstore.parts import delete_trash
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.gc.scene import Bench

_TRY_TO_BE_ALONE = """
import fcntl, sys
with open(sys.argv[1], "r+b") as table:
    try:
        fcntl.lockf(table, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
    except BlockingIOError:
        sys.exit(7)
"""


async def test_an_open_index_keeps_lmdb_own_lock(tmp_path: Path) -> None:
    """The next process to open the index finds LMDB's lock taken: else it would make the reader table anew under those who
    read and write, who then see pages that are written over."""
    index = LmdbIndex(str(tmp_path / "index"), ballast_bytes=4096)
    await index.open(create=True)
    try:
        found = subprocess.run(
            [sys.executable, "-c", _TRY_TO_BE_ALONE, str(tmp_path / "index" / "lock.mdb")], check=False
        )
    finally:
        await index.aclose()
    assert found.returncode == 7


async def test_what_another_collector_freed_first_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two collectors retire the same trash; the one that finds its rows gone says nothing of bytes it could not delete."""
    clock, index, backend = FakeClock(), MemoryIndex(), MemoryBackend()
    store = Store(backend, index, clock=clock)
    await store.open(create=True)
    bench = Bench(store, clock)
    manifest = await bench.push_image(b"config", [b"layer"], "a")
    await store.repository("app").delete_manifest(manifest.digest)
    retire = index.retire

    async def retire_for_both(*arguments: object) -> Retired:
        retired = await retire(*arguments)  # type: ignore[arg-type]
        await delete_trash(index, backend, list(retired.retiring))
        return retired

    monkeypatch.setattr(index, "retire", retire_for_both)
    report = await bench.collector().run()
    assert (report.condemned_blobs, report.freed_blobs, report.undeleted) == (3, 0, 0)
    assert not await bench.keys()
    await store.aclose()
