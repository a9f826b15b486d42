"""Scrub: read every blob and compare it with its hash: blake3 where that was noted, else the digest."""

from __future__ import annotations

import asyncio

import msgspec

from blobstore.abc.paging import pages
from blobstore.abc.records import Blob, BlobState
from blobstore.digest import Digest
from blobstore.errors import BlobDamaged, BlobUnknown
from blobstore.events import Progress
from blobstore.missing import PAGE, mark_suspect
from blobstore.parts import Parts
from blobstore.pool import task_group
from blobstore.readers import open_blob

READS_AT_ONCE_MAX = 4


class ScrubReport(msgspec.Struct):
    """What was read, and what did not hash right."""

    blobs: int = 0
    size_bytes: int = 0
    damaged: list[Digest] = []


async def scrub(parts: Parts, *, recheck_s: float) -> ScrubReport:
    """Read every present blob whole. One that is damaged, twice, becomes suspect.

    Raises:
        StorageFailed: the disk refuses to read; that proves nothing about a blob.
    """
    report = ScrubReport()
    async for items in pages(lambda after: parts.index.scan_references(after, PAGE)):
        present = [each.blob for each in items if each.blob.state is BlobState.PRESENT]
        doubtful = await _read_all(parts, present, report)
        if doubtful:
            await asyncio.sleep(recheck_s)
        for blob in doubtful:
            if await _is_damaged(parts, blob):
                report.damaged.append(blob.digest)
                await mark_suspect(parts.index, blob, "damaged", parts.events)
    return report


async def _read_all(parts: Parts, blobs: list[Blob], report: ScrubReport) -> list[Blob]:
    limit = asyncio.Semaphore(READS_AT_ONCE_MAX)

    async def read(blob: Blob) -> bool:
        async with limit:
            is_damaged = await _is_damaged(parts, blob)
        report.blobs += 1
        report.size_bytes += blob.size_bytes
        parts.events(Progress("read", report.size_bytes, 0))
        return is_damaged

    async with task_group() as group:
        tasks = [group.create_task(read(blob)) for blob in blobs]
    return [blob for blob, task in zip(blobs, tasks, strict=True) if task.result()]


async def _is_damaged(parts: Parts, blob: Blob) -> bool:
    """Whether a blob's bytes are wrong; not if it was collected or pushed anew since it was listed."""

    async def find() -> Blob | None:
        current = await parts.index.find_blob(blob.digest)
        return current if current is not None and current.generation == blob.generation else None

    quiet = msgspec.structs.replace(parts, events=lambda event: None)
    try:
        async with open_blob(quiet, blob.digest, find) as reader:
            async for _ in reader:
                pass
    except BlobUnknown:
        return False
    except BlobDamaged:
        return True
    return False
