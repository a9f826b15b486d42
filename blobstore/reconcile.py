"""Reconcile: compare backend and index, both ways. What it finds is put right only where that can lose nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

import msgspec

from blobstore.abc.backend import Backend, ObjectInfo
from blobstore.abc.index import Index
from blobstore.abc.paging import pages
from blobstore.abc.records import Blob, BlobState, ReferencedBlob, Seen, Totals, Verdict
from blobstore.clock import Clock
from blobstore.digest import Digest
from blobstore.errors import IndexDamaged, KeyUnknown
from blobstore.events import Alarm, EventSink, Progress, discard
from blobstore.layout import BLOBS_PREFIX, UPLOADS_PREFIX, parse_blob_key, parse_upload_key
from blobstore.pool import task_group

PAGE = 1000
STATS_AT_ONCE_MAX = 16
UNKNOWN_NAMES_SHOWN_MAX = 100
_COUNTED = [
    f"{kind}_{unit}" for kind in ("present", "unreferenced", "condemned", "suspect") for unit in ("blobs", "bytes")
]


class OrphanReport(msgspec.Struct):
    """What lies on the backend that the index doesn't know."""

    listed: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    aliens: int = 0
    unknown_names: int = 0
    unknown_shown: list[str] = []


class MissingReport(msgspec.Struct):
    """What the index knows that the backend doesn't have whole."""

    blobs: int = 0
    size_bytes: int = 0
    missing: list[Digest] = []
    wrong_size: list[Digest] = []
    suspect: list[Digest] = []
    """Marked by an earlier check, and not pushed anew since."""
    index_problems: list[str] = []


async def find_orphans(index: Index, backend: Backend, clock: Clock, events: EventSink = discard) -> OrphanReport:
    """List the backend and put what a crash left into the trash. Names that this index can't have minted freeze collecting:
    then the index went back, or isn't alone."""
    report = OrphanReport()
    async for page in _pages(backend):
        found = list(_ours(page, report))
        # The index is read after the page came back, never before: a new upload would look like an orphan.
        verdicts = await index.judge(found)
        orphans = [seen for seen, verdict in zip(found, verdicts, strict=True) if verdict is Verdict.ORPHAN]
        aliens = [seen for seen, verdict in zip(found, verdicts, strict=True) if verdict is Verdict.ALIEN]
        if aliens:
            report.aliens += len(aliens)
            why = f"{aliens[0].key} was written by a process this index knows nothing of"
            await index.freeze(why)
            events(Alarm(f"{why}: collecting is off until `blobstore index rebuild`"))
        if orphans:
            report.orphans += await index.trash_orphans(orphans, clock.now_ms())
            report.orphan_bytes += sum(seen.size_bytes for seen in orphans)
        report.listed += len(page)
        events(Progress("list", report.listed, 0))
    return report


async def _pages(backend: Backend) -> AsyncIterator[list[ObjectInfo]]:
    page: list[ObjectInfo] = []
    for prefix in (BLOBS_PREFIX, UPLOADS_PREFIX):
        async for info in backend.list(prefix):
            page.append(info)
            if len(page) == PAGE:
                yield page
                page = []
    if page:
        yield page


def _ours(page: Iterable[ObjectInfo], report: OrphanReport) -> Iterable[Seen]:
    for info in page:
        blob = parse_blob_key(info.key)
        generation = blob.generation if blob is not None else parse_upload_key(info.key)
        if generation is not None:
            yield Seen(info.key, generation, blob.digest if blob is not None else None, info.size_bytes)
            continue
        report.unknown_names += 1
        if len(report.unknown_shown) < UNKNOWN_NAMES_SHOWN_MAX:
            report.unknown_shown.append(info.key)


async def find_missing(
    index: Index, backend: Backend, *, recheck_s: float, events: EventSink = discard
) -> MissingReport:
    """Look at every key the index names. A blob whose bytes are gone or too short, twice, becomes suspect: it is no longer
    seen, so that a push heals it."""
    report = MissingReport()
    doubtful: list[Blob] = []
    before, counted = await index.totals(), _Recount()
    async for page in pages(lambda after: index.scan_references(after, PAGE)):
        for each in page:
            counted.add(each)
        blobs = [each.blob for each in page if each.blob.state is not BlobState.SUSPECT]
        report.suspect += [each.blob.digest for each in page if each.blob.state is BlobState.SUSPECT]
        report.blobs += len(blobs)
        report.size_bytes += sum(blob.size_bytes for blob in blobs)
        doubtful += [blob for blob, size in await _sizes(backend, blobs) if size != blob.size_bytes]
        events(Progress("stat", report.blobs, 0))
    report.index_problems = await _check_index(index, before, counted)
    if doubtful:
        await asyncio.sleep(recheck_s)
    for blob, size in await _sizes(backend, doubtful):
        # A new look at the index, begun after the stat came back: it may have been collected or healed meanwhile.
        current = await index.find_blob(blob.digest)
        if size == blob.size_bytes or current is None or current.generation != blob.generation:
            continue
        (report.missing if size is None else report.wrong_size).append(blob.digest)
        await mark_suspect(index, blob, "missing" if size is None else f"{size} bytes long", events)
    return report


async def mark_suspect(index: Index, blob: Blob, what: str, events: EventSink) -> None:
    """A present blob is damaged: nobody is told any more that it is here."""
    await index.suspect_blob(blob.digest, blob.generation)
    events(Alarm(f"{blob.digest} is {what} at {blob.names[0]}; push it again to heal it"))


class _Recount:
    """The counters of the index, counted anew."""

    def __init__(self) -> None:
        self.found = dict.fromkeys(_COUNTED, 0)

    def add(self, each: ReferencedBlob) -> None:
        """One blob."""
        kinds = [each.blob.state.value]
        if each.blob.state is BlobState.PRESENT and not each.parents:
            kinds.append("unreferenced")
        for kind in kinds:
            self.found[f"{kind}_blobs"] += 1
            self.found[f"{kind}_bytes"] += each.blob.size_bytes


async def _check_index(index: Index, before: Totals, counted: _Recount) -> list[str]:
    """What the index says of itself that isn't so."""
    problems: list[str] = []
    try:
        after = await index.check_edges(None, PAGE)
        while after is not None:
            after = await index.check_edges(after, PAGE)
    except IndexDamaged as error:
        problems.append(str(error))
    # Only a store that stood still meanwhile can be counted in slices.
    if before == await index.totals():
        problems += [
            f"the index counts {getattr(before, name)} {name}, but holds {found}"
            for name, found in counted.found.items()
            if getattr(before, name) != found
        ]
    return problems


async def _sizes(backend: Backend, blobs: Sequence[Blob]) -> list[tuple[Blob, int | None]]:
    limit = asyncio.Semaphore(STATS_AT_ONCE_MAX)

    async def size(blob: Blob) -> int | None:
        async with limit:
            try:
                return (await backend.stat(blob.names[0])).size_bytes
            except KeyUnknown:
                return None

    async with task_group() as group:
        tasks = [group.create_task(size(blob)) for blob in blobs]
    return [(blob, task.result()) for blob, task in zip(blobs, tasks, strict=True)]
