"""Reconcile: compare backend and index, both ways. What it finds is put right only where that can lose nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from blobstore.abc.backend import Backend, ObjectInfo
from blobstore.abc.index import Index
from blobstore.abc.paging import pages
from blobstore.abc.records import Seen, Verdict
from blobstore.clock import Clock
from blobstore.events import Alarm, EventSink, Progress, discard
from blobstore.generation import Generation
from blobstore.inventory import DataListing, list_data, list_names
from blobstore.layout import UPLOADS_PREFIX, data_key, parse_blob_key, parse_record_key, parse_upload_key
from blobstore.missing import PAGE, MissingReport, Search, find_missing, in_pages

UNKNOWN_NAMES_SHOWN_MAX = 100


class OrphanReport(msgspec.Struct):
    """What lies on the backend that the index doesn't know."""

    listed: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    aliens: int = 0
    unknown_names: int = 0
    unknown_shown: list[str] = []

    def note_stranger(self, key: str) -> None:
        """A name that is none of ours."""
        self.unknown_names += 1
        if len(self.unknown_shown) < UNKNOWN_NAMES_SHOWN_MAX:
            self.unknown_shown.append(key)


async def reconcile(
    index: Index, backend: Backend, clock: Clock, *, recheck_s: float, events: EventSink = discard
) -> tuple[OrphanReport, MissingReport]:
    """`find_orphans` and `find_missing`; where listing is cheap, with one listing for both."""
    if not backend.properties.lists_faster_than_stats:
        orphans = await find_orphans(index, backend, clock, events)
        return orphans, await find_missing(index, backend, recheck_s=recheck_s, events=events)
    search = Search(index, backend, events)
    orphans = await find_orphans(index, backend, clock, events, beside=search)
    return orphans, await search.finish(recheck_s)


async def find_orphans(
    index: Index, backend: Backend, clock: Clock, events: EventSink = discard, *, beside: Search | None = None
) -> OrphanReport:
    """List the backend and put what a crash left into the trash. Names that this index can't have minted freeze collecting:
    then the index went back, or isn't alone. What is listed is handed to `beside`, too."""
    report = OrphanReport()
    judge = _Judge(index, clock, events, report)
    data = await list_data(backend, report.note_stranger)
    judge.count(len(data))
    async for page in in_pages(list_names(backend)):
        # The index is read after the page came back, never before: a new upload would look like an orphan.
        await judge.put_away(list(_blobs(page, data, report)))
        if beside is not None:
            await beside.compare(page, data)
        judge.count(len(page))
    async for page in in_pages(backend.list(UPLOADS_PREFIX)):
        await judge.put_away(list(_uploads(page, report)))
        judge.count(len(page))
    await judge.look_at_unrecorded(data)
    return report


class _Judge:
    """Puts what no row knows into the trash."""

    def __init__(self, index: Index, clock: Clock, events: EventSink, report: OrphanReport) -> None:
        self._index, self._clock, self._events, self._report = index, clock, events, report

    def count(self, names: int) -> None:
        """So many names were looked at."""
        self._report.listed += names
        self._events(Progress("list", self._report.listed, 0))

    async def put_away(self, found: list[Seen]) -> None:
        """Judge names, and do what their verdict asks for."""
        verdicts = await self._index.judge(found)
        orphans = [seen for seen, verdict in zip(found, verdicts, strict=True) if verdict is Verdict.ORPHAN]
        aliens = [seen for seen, verdict in zip(found, verdicts, strict=True) if verdict is Verdict.ALIEN]
        if aliens:
            self._report.aliens += len(aliens)
            why = f"{aliens[0].key} was written by a process this index knows nothing of"
            await self._index.freeze(why)
            self._events(Alarm(f"{why}: collecting is off until `blobstore index rebuild`"))
        if orphans:
            self._report.orphans += await self._index.trash_orphans(orphans, self._clock.now_ms())
            self._report.orphan_bytes += sum(seen.size_bytes for seen in orphans)

    async def look_at_unrecorded(self, data: DataListing) -> None:
        """Bytes under `data/` that no commit record spoke of. Their name alone doesn't tell the index whose they are."""
        doubtful: dict[Generation, Seen] = {}
        batch: list[Seen] = []
        for generation, size_bytes in data.without_record():
            batch.append(Seen(data_key(generation), generation, None, size_bytes))
            if len(batch) == PAGE:
                doubtful |= await self._unknown(batch)
                batch = []
        doubtful |= await self._unknown(batch)
        if not doubtful:
            return
        # Only now: an upload that was not open any more when we asked has become a blob before, or never will. Such a blob's
        # record came later than we listed records; or it is lost, which is for `find_missing` to see.
        async for page in pages(lambda after: self._index.scan_references(after, PAGE)):
            for each in page:
                doubtful.pop(each.blob.generation, None)
        left = list(doubtful.values())
        for at in range(0, len(left), PAGE):
            await self.put_away(left[at : at + PAGE])

    async def _unknown(self, batch: list[Seen]) -> dict[Generation, Seen]:
        verdicts = await self._index.judge(batch)
        return {
            seen.generation: seen for seen, verdict in zip(batch, verdicts, strict=True) if verdict is not Verdict.KNOWN
        }


def _blobs(page: Iterable[ObjectInfo], data: DataListing, report: OrphanReport) -> Iterator[Seen]:
    """Bytes, commit records, and the data they speak of, as far as that was listed before."""
    for info in page:
        name, record = parse_blob_key(info.key), parse_record_key(info.key)
        if name is not None:
            yield Seen(info.key, name.generation, name.digest, info.size_bytes)
        elif record is not None:
            yield Seen(info.key, record.generation, record.digest, info.size_bytes)
            size_bytes = data.note_record(record.generation)
            if size_bytes is not None:
                yield Seen(data_key(record.generation), record.generation, record.digest, size_bytes)
        else:
            report.note_stranger(info.key)


def _uploads(page: Iterable[ObjectInfo], report: OrphanReport) -> Iterator[Seen]:
    for info in page:
        generation = parse_upload_key(info.key)
        if generation is not None:
            yield Seen(info.key, generation, None, info.size_bytes)
        else:
            report.note_stranger(info.key)
