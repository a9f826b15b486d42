"""What the soak found in the engine, each as small as it can be shown."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from blobstore.abc.records import CommitOutcome, Content, Retired, Trash
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.gc import GcPolicy
from blobstore.index.lmdb import LmdbIndex
from blobstore.index.memory import MemoryIndex
from blobstore.layout import blob_key
from blobstore.names import RepositoryName, UploadId
from blobstore.parts import delete_trash
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.gc.scene import HOUR_MS, Bench

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


async def test_trash_that_a_late_commit_adds_to_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its upload expired; while a collector deletes what it left, its commit is refused and adds the name it published. That
    goes with the next run."""
    clock, index, backend = FakeClock(), MemoryIndex(), MemoryBackend()
    store = Store(backend, index, clock=clock)
    await store.open(create=True)
    content = Content(Digest.of(b"data"), 4)
    intent = await index.start_upload(UploadId.random(), RepositoryName("app"), None, clock.now_ms(), "")
    key = blob_key(content.digest, intent.generation)
    clock.advance(25 * HOUR_MS)
    delete = backend.delete

    async def delete_and_commit(keys: Sequence[str]) -> frozenset[str]:
        gone = await delete(keys)
        if key not in keys:
            await backend.put_new(key, b"data")
            committed = await index.commit_blob(intent, content, [key], clock.now_ms())
            assert committed.outcome is CommitOutcome.INTERRUPTED
        return gone

    monkeypatch.setattr(backend, "delete", delete_and_commit)
    bench = Bench(store, clock)
    for _ in range(2):
        report = await bench.collector(GcPolicy()).run()
        assert report.undeleted == 0
        clock.advance(25 * HOUR_MS)
    assert not await bench.keys()
    await store.aclose()


async def test_trash_that_comes_again_under_the_same_names_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another collector deleted it first; before this one looks for its rows, a late commit is refused and makes them anew."""
    clock, index, backend = FakeClock(), MemoryIndex(), MemoryBackend()
    store = Store(backend, index, clock=clock)
    await store.open(create=True)
    content = Content(Digest.of(b"data"), 4)
    intent = await index.start_upload(UploadId.random(), RepositoryName("app"), None, clock.now_ms(), "")
    key = blob_key(content.digest, intent.generation)
    await index.cancel_upload(intent.upload, clock.now_ms(), [key])
    forget = index.forget_trash

    async def forget_for_both(trash: Sequence[Trash]) -> Sequence[Trash]:
        assert await forget(trash) == trash
        removed = await forget(trash)
        committed = await index.commit_blob(intent, content, [key], clock.now_ms())
        assert committed.outcome is CommitOutcome.INTERRUPTED
        return removed

    with monkeypatch.context() as patch:
        patch.setattr(index, "forget_trash", forget_for_both)
        report = await Bench(store, clock).collector().run()
    assert (report.freed_blobs, report.undeleted) == (0, 0)
    assert await index.find_trash(intent.generation) is not None
    await Bench(store, clock).collector().run()
    assert await index.find_trash(intent.generation) is None
    await store.aclose()
