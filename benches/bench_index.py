"""How many verbs a second does the LMDB index carry out durably, by one writer and by 64, beside LMDB alone?

The floor makes the same puts and deletes in the same commits, as they were recorded while ours ran: it does without reading,
checking and encoding, which is what an index adds.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from _harness import OURS, SEED, race, report, sized
from floors import Commit, RawLmdb

from blobstore.abc.records import Content
from blobstore.clock import SystemClock
from blobstore.digest import Digest
from blobstore.index import _writer as writer_module
from blobstore.index._lmdb_transaction import LmdbTransaction
from blobstore.index._tables import Table
from blobstore.index.lmdb import MAP_SIZE_BYTES, LmdbIndex
from blobstore.layout import blob_key
from blobstore.manifest import OCI_MANIFEST, Manifest, parse_manifest
from blobstore.names import RepositoryName, UploadId
from blobstore.promises import HoldTerms

SOURCE, TARGET = RepositoryName.parse("bench/source"), RepositoryName.parse("bench/target")
TERMS = HoldTerms()
LAYERS = 10
WRITERS = 64
TASKS = {1: sized(400, 40), WRITERS: sized(6400, 320)}
FLOOR = "raw LMDB"
_DAY_MS = 24 * 3600 * 1000

Task = Callable[[LmdbIndex, int, int], Awaitable[None]]


class _Recording(LmdbTransaction):
    """Notes what is written; one of these is one commit, as no verb here writes before it refuses."""

    commits: list[Commit] = []  # noqa: RUF012 - swapped for a fresh list before each part

    def __init__(self, txn: Any, databases: list[Any]) -> None:
        super().__init__(txn, databases)
        self._record: Commit = []
        self.commits.append(self._record)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._record.append((table, key, value))
        super().put(table, key, value)

    def delete(self, table: Table, key: bytes) -> bool:
        self._record.append((table, key, None))
        return super().delete(table, key)


# The verbs


def _content(kind: str, number: int) -> Content:
    digest = Digest.of(f"{SEED} {kind} {number}".encode())
    return Content(digest, 1_000_000, digest.value)


def _manifest(number: int) -> Manifest:
    def descriptor(kind: str, at: int) -> dict[str, object]:
        return {"mediaType": "application/octet-stream", "digest": str(_content(kind, at).digest), "size": 1_000_000}

    layers = [descriptor("blob", (number + at) % TASKS[WRITERS]) for at in range(LAYERS)]
    config = descriptor("blob", (number + LAYERS) % TASKS[WRITERS])
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    return parse_manifest(json.dumps(document | {"annotations": {"number": str(number)}}).encode())


async def _push(index: LmdbIndex, number: int, now_ms: int) -> None:
    content = _content("blob", number)
    intent = await index.start_upload(UploadId.random(), SOURCE, content.digest, now_ms, "boot")
    await index.commit_blob(intent, content, [blob_key(content.digest, intent.generation)], now_ms)


async def _touch(index: LmdbIndex, number: int, now_ms: int) -> None:
    # A day on, each hold is old enough to be written anew.
    await index.touch_blob(SOURCE, _content("blob", number).digest, now_ms + _DAY_MS, TERMS)


async def _mount(index: LmdbIndex, number: int, now_ms: int) -> None:
    await index.mount_blob(SOURCE, TARGET, _content("blob", number).digest, now_ms, TERMS)


def _putting_manifests() -> Task:
    manifests = [_manifest(number) for number in range(TASKS[WRITERS])]

    async def put(index: LmdbIndex, number: int, now_ms: int) -> None:
        manifest = manifests[number]
        content = Content(manifest.digest, manifest.size_bytes, manifest.digest.value)
        intent = await index.start_upload(UploadId.random(), SOURCE, manifest.digest, now_ms, "boot")
        names = [blob_key(manifest.digest, intent.generation)]
        await index.put_manifest(intent, content, names, manifest, [], now_ms, TERMS)

    return put


# Name, verbs a task takes, the task, whether blobs must be there before
CASES: list[tuple[str, int, Callable[[], Task], bool]] = [
    ("start_upload + commit_blob", 2, lambda: _push, False),
    ("start_upload + put_manifest, 10 layers", 2, _putting_manifests, True),
    ("touch_blob", 1, lambda: _touch, True),
    ("mount_blob", 1, lambda: _mount, True),
]


async def _work(index: LmdbIndex, task: Task, writers: int, tasks: int) -> None:
    numbers, now_ms = iter(range(tasks)), SystemClock().now_ms()

    async def one() -> None:
        for number in numbers:
            await task(index, number, now_ms)

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(one())


class _Scene:
    """In each round a fresh index and a fresh raw environment, filled alike."""

    def __init__(self, runner: asyncio.Runner, path: Path, task: Task, writers: int, *, is_filled: bool) -> None:
        self._runner = runner
        self._path, self._task, self._writers, self._is_filled = path, task, writers, is_filled
        self._filling: list[Commit] = []
        self._commits: list[Commit] = []
        self.commit_counts: list[int] = []
        self._index: LmdbIndex | None = None
        self._raw: RawLmdb | None = None

    def prepare(self, _: int, name: str) -> None:
        """The index before ours; the floor, which comes after it, replays what ours wrote."""
        if name == OURS:
            self.close()
            self._filling, self._commits = [], []
            _Recording.commits = self._filling
            self._index = LmdbIndex(str(self._path / "ours"))
            self._runner.run(self._index.open(create=True))
            if self._is_filled:
                self._runner.run(_work(self._index, _push, WRITERS, TASKS[WRITERS]))
            _Recording.commits = self._commits
        else:
            self._raw = RawLmdb(self._path / "raw", [table.name for table in Table], MAP_SIZE_BYTES)
            self._raw.replay(self._filling)

    def ours(self, _: int) -> None:
        assert self._index is not None
        self._runner.run(_work(self._index, self._task, self._writers, TASKS[self._writers]))
        self.commit_counts.append(len(self._commits))

    def floor(self, _: int) -> None:
        assert self._raw is not None
        self._raw.replay(self._commits)

    def close(self) -> None:
        """Drop what a round made."""
        if self._index is not None:
            self._runner.run(self._index.aclose())
        if self._raw is not None:
            self._raw.close()
        self._index = self._raw = None
        for name in ("ours", "raw"):
            shutil.rmtree(self._path / name, ignore_errors=True)


@pytest.mark.parametrize("writers", [1, WRITERS])
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def bench_index(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Any, writers: int) -> None:
    name, verbs_each, make_task, is_filled = case
    monkeypatch.setattr(writer_module, "LmdbTransaction", _Recording)
    with asyncio.Runner() as runner:
        scene = _Scene(runner, tmp_path, make_task(), writers, is_filled=is_filled)
        try:
            ours, timed = race(
                benchmark,
                scene.ours,
                {FLOOR: scene.floor},
                rounds=sized(5, 1),
                before=scene.prepare,
                is_floor_last=True,
            )
        finally:
            scene.close()
    verbs = TASKS[writers] * verbs_each
    batch = verbs / statistics.median(scene.commit_counts)
    note = f"{batch:.1f} verbs a commit, {1e6 * ours.median / verbs:.0f} us a verb"
    target = 0.60 if writers > 1 else None
    report(f"{name}, {_writers(writers)}", ours, timed, target=target, work=verbs, unit="verbs", note=note)


def _writers(count: int) -> str:
    return f"{count} writers" if count > 1 else "1 writer"
