"""Looks at a store after a power cut, as the next process would find it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

from blobstore import uploads
from blobstore.app import make_collector, rebuild_index
from blobstore.digest import Digest
from blobstore.errors import BlobstoreError, ManifestUnknown, UploadUnknown
from blobstore.gc import GcPolicy, collector
from blobstore.pool import WorkerPool
from blobstore.store import Store
from blobstore.testing.fakes import START_MS, FakeClock
from blobstore.testing.invariants import find_broken, find_garbage
from tests.powercut.expected import FREE, GONE, REBUILD_KEY, STORE_KEY, THERE, Expected
from tests.powercut.scene import DAY_MS, content, new_store

_LATER_MS = START_MS + 100 * DAY_MS
_EVERYTHING_OWED_IS_OVER = GcPolicy(grace_s=0, quarantine_s=0)


async def find_wrong(place: str, expected: Expected, *, loses_index: bool) -> list[str]:
    """Everything that is not as it must be, a line each. Opening needs no person; where the index is lost too it is rebuilt."""
    _boot_anew()
    _work_without_hops()
    clock = FakeClock(_LATER_MS)
    problems: list[str] = []
    has_store = THERE in expected.get(STORE_KEY, ())
    if not has_store or (GONE in expected[STORE_KEY] and not os.path.exists(f"{place}/blobstore.json")):
        # Its making was not answered: it is made now.
        loses_index = False
    if loses_index:
        shutil.rmtree(f"{place}/index", ignore_errors=True)
    if loses_index or THERE in expected.get(REBUILD_KEY, ()):
        report = await rebuild_index(place, clock=clock)
        # Where nothing was journaled yet it warns that something may have been.
        problems += report.problems if _owes_references(expected) else []
        expected = {key: right for key, right in expected.items() if not key.startswith("upload ")}
    store = new_store(place, clock)
    await store.open(create=GONE in expected.get(STORE_KEY, {GONE}))
    try:
        problems += await _find_lost(store, expected)
        problems += await find_broken(store)
        await _collect_twice(store, clock)
        problems += [f"collected: {problem}" for problem in await _find_lost(store, _references(expected))]
        problems += [f"collected: {problem}" for problem in await find_broken(store, reads_data=False)]
        problems += [f"garbage: {each}" for each in await find_garbage(store)]
    finally:
        await store.aclose()
    return problems


def _boot_anew() -> None:
    """What the page cache held is gone with the power, and the engine tells that by the machine's boot."""
    for module in (uploads, collector):
        module.boot_id = lambda: "after the power cut"


def _work_without_hops() -> None:
    """Do files where they are asked for: on a disk in memory most of a check's time would go into changing threads."""

    async def run(_pool: WorkerPool, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    WorkerPool.run = run


async def _collect_twice(store: Store, clock: FakeClock) -> None:
    for _ in range(2):
        clock.advance(2 * DAY_MS)
        await make_collector(store, _EVERYTHING_OWED_IS_OVER).run()


def _owes_references(expected: Expected) -> bool:
    return any(not right & {GONE, FREE} for right in _references(expected).values())


def _references(expected: Expected) -> Expected:
    return {key: right for key, right in expected.items() if key.startswith(("manifest ", "tag "))}


async def _find_lost(store: Store, expected: Expected) -> list[str]:
    look = {"blob": _look_at_blob, "manifest": _look_at_manifest, "tag": _look_at_tag, "upload": _look_at_upload}
    problems: list[str] = []
    for key, right in expected.items():
        kind, *names = key.split(" ")
        if kind in look and FREE not in right:
            found = await look[kind](store, names, right)
            if found not in right:
                problems.append(f"{key} is {found}, not {' or '.join(sorted(right))}")
    return problems


async def _look_at_blob(store: Store, names: list[str], _right: frozenset[str]) -> str:
    digest = Digest.parse(names[0])
    try:
        async with store.open_blob(digest) as blob:
            is_whole = Digest.of(await blob.read()) == digest
    except BlobstoreError as error:
        return f"lost: {error}"
    return THERE if is_whole else "damaged"


async def _look_at_manifest(store: Store, names: list[str], _right: frozenset[str]) -> str:
    digest = Digest.parse(names[1])
    try:
        manifest = await store.repository(names[0]).get_manifest(digest)
    except ManifestUnknown:
        return GONE
    except BlobstoreError as error:
        return f"lost: {error}"
    return THERE if manifest.digest == digest else "damaged"


async def _look_at_tag(store: Store, names: list[str], _right: frozenset[str]) -> str:
    try:
        return str((await store.repository(names[0]).find_manifest(names[1])).key.digest)
    except ManifestUnknown:
        return GONE


async def _look_at_upload(store: Store, names: list[str], right: frozenset[str]) -> str:
    """Takes it up and finishes it: what was said to be safe need not be sent again, and it becomes the right blob."""
    repository, upload_id, what = names[0], names[1], " ".join(names[2:])
    name, size = what.split(":")
    whole = content(name, int(size))
    safe = [value for value in right if value != GONE]
    try:
        async with store.repository(repository).resume_upload(upload_id) as upload:
            if not safe or upload.offset < min(map(int, safe)):
                return f"at {upload.offset}"
            await upload.write(whole[upload.offset :])
            await upload.commit(Digest.of(whole))
    except UploadUnknown:
        return GONE
    except BlobstoreError as error:
        return f"broken: {error}"
    return safe[0]
