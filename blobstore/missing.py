"""Missing: whether the bytes of every blob that the index knows are on the backend, whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from blobstore.abc.backend import Backend, ObjectInfo
from blobstore.abc.index import Index
from blobstore.abc.paging import pages
from blobstore.abc.records import Blob, BlobState, ReferencedBlob, Totals
from blobstore.digest import Digest
from blobstore.errors import IndexDamaged, KeyUnknown
from blobstore.events import Alarm, EventSink, Progress, discard
from blobstore.inventory import DataListing, digest_part, list_data, list_names
from blobstore.layout import blob_key, is_record_key, published_names
from blobstore.pool import task_group

PAGE = 1000
STATS_AT_ONCE_MAX = 16
_COUNTED = [
    f"{kind}_{unit}" for kind in ("present", "unreferenced", "condemned", "suspect") for unit in ("blobs", "bytes")
]


class MissingReport(msgspec.Struct):
    """What the index knows that the backend doesn't have whole."""

    blobs: int = 0
    size_bytes: int = 0
    missing: list[Digest] = []
    wrong_size: list[Digest] = []
    suspect: list[Digest] = []
    """Marked by an earlier check, and not pushed anew since."""
    unrecorded: list[Digest] = []
    """Their commit record was gone, and was put again: nothing is lost, but a rebuild would have missed them."""
    index_problems: list[str] = []


async def find_missing(
    index: Index, backend: Backend, *, recheck_s: float, events: EventSink = discard
) -> MissingReport:
    """Look for every key the index names. A blob whose bytes are gone or too short, twice, becomes suspect: it is no longer
    seen, so that a push heals it."""
    search = Search(index, backend, events)
    if backend.properties.lists_faster_than_stats:
        data = await list_data(backend)
        async for page in in_pages(list_names(backend)):
            await search.compare(page, data)
    return await search.finish(recheck_s)


class Search:
    """One pass over the blobs of the index. Those that listings show whole need no `stat`; with no listing, all are asked for."""

    def __init__(self, index: Index, backend: Backend, events: EventSink = discard) -> None:
        self._index, self._backend, self._events = index, backend, events
        self._report, self._counted = MissingReport(), _Recount()
        self._before: Totals | None = None
        self._blobs = self._scan()
        self._next: Blob | None = None
        self._unseen: list[Blob] = []
        self._doubtful: list[Blob] = []

    async def compare(self, page: Sequence[ObjectInfo], data: DataListing) -> None:
        """The next names, in order; `data` was listed before them."""
        sizes = {info.key: info.size_bytes for info in page}
        # The index has one generation of a digest, and its name is in this page if it is anywhere.
        blob = await self._begin()
        while blob is not None and digest_part(_key(blob)) <= digest_part(page[-1].key):
            await self._judge(blob, sizes, data)
            blob = self._next = await anext(self._blobs, None)

    async def finish(self, recheck_s: float) -> MissingReport:
        """Look at what no listing showed, and once more at what seemed wrong."""
        blob = await self._begin()
        while blob is not None:
            await self._ask_for(blob)
            blob = self._next = await anext(self._blobs, None)
        await self._ask()
        assert self._before is not None
        self._report.index_problems = await _check_index(self._index, self._before, self._counted)
        if self._doubtful:
            await asyncio.sleep(recheck_s)
        for at in range(0, len(self._doubtful), PAGE):
            for blob, found in await _look(self._backend, self._doubtful[at : at + PAGE]):
                await self._settle(blob, found)
        return self._report

    async def _begin(self) -> Blob | None:
        if self._before is None:
            self._before = await self._index.totals()
            self._next = await anext(self._blobs, None)
        return self._next

    async def _scan(self) -> AsyncIterator[Blob]:
        report = self._report
        async for page in pages(lambda after: self._index.scan_references(after, PAGE)):
            for each in page:
                self._counted.add(each)
                if each.blob.state is BlobState.SUSPECT:
                    report.suspect.append(each.blob.digest)
                    continue
                report.blobs += 1
                report.size_bytes += each.blob.size_bytes
                yield each.blob
            self._events(Progress("stat", report.blobs, 0))

    async def _judge(self, blob: Blob, sizes: dict[str, int], data: DataListing) -> None:
        key = _key(blob)
        if blob.names == (key,):
            is_whole = sizes.get(key) == blob.size_bytes
        elif blob.names == published_names(key, blob.generation):
            is_whole = blob.names[1] in sizes and data.size_of(blob.generation) == blob.size_bytes
        else:
            # A name that no listing of ours covers.
            await self._ask_for(blob)
            return
        if not is_whole:
            # Or it came, or went, while we listed: the second look is sure.
            self._doubtful.append(blob)

    async def _ask_for(self, blob: Blob) -> None:
        self._unseen.append(blob)
        if len(self._unseen) == PAGE:
            await self._ask()

    async def _ask(self) -> None:
        asked, self._unseen = self._unseen, []
        self._doubtful += [blob for blob, found in await _look(self._backend, asked) if not found.is_whole(blob)]

    async def _settle(self, blob: Blob, found: _Found) -> None:
        # A new look at the index, begun after the stat came back: it may have been collected or healed meanwhile.
        current = await self._index.find_blob(blob.digest)
        if found.is_whole(blob) or current is None or current.generation != blob.generation:
            return
        if found.size_bytes == blob.size_bytes:
            self._report.unrecorded.append(blob.digest)
            await self._record_again(blob)
            return
        (self._report.missing if found.size_bytes is None else self._report.wrong_size).append(blob.digest)
        what = "missing" if found.size_bytes is None else f"{found.size_bytes} bytes long"
        await mark_suspect(self._index, blob, what, self._events)

    async def _record_again(self, blob: Blob) -> None:
        for name in filter(is_record_key, blob.names):
            await self._backend.put_new(name, b"")
        current = await self._index.find_blob(blob.digest)
        if current is None or current.generation != blob.generation:
            # It was collected in the meantime, and its record may be there again.
            await self._index.note_orphan_scan(is_due=True)


def _key(blob: Blob) -> str:
    """What digest and generation would name it, whatever its name is."""
    return blob_key(blob.digest, blob.generation)


async def mark_suspect(index: Index, blob: Blob, what: str, events: EventSink) -> None:
    """A present blob is damaged: nobody is told any more that it is here."""
    await index.suspect_blob(blob.digest, blob.generation)
    events(Alarm(f"{blob.digest} is {what} at {blob.names[0]}; push it again to heal it"))


async def in_pages(infos: AsyncIterator[ObjectInfo]) -> AsyncIterator[list[ObjectInfo]]:
    """A listing in lists of up to `PAGE`, none empty."""
    page: list[ObjectInfo] = []
    async for info in infos:
        page.append(info)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


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


class _Found(msgspec.Struct, frozen=True):
    """What is there of a blob: its bytes, None for nothing, and its commit record, if it is to have one."""

    size_bytes: int | None
    has_record: bool

    def is_whole(self, blob: Blob) -> bool:
        """Whether nothing is missing."""
        return self.size_bytes == blob.size_bytes and self.has_record


async def _look(backend: Backend, blobs: Sequence[Blob]) -> list[tuple[Blob, _Found]]:
    limit = asyncio.Semaphore(STATS_AT_ONCE_MAX)

    async def size(name: str) -> int | None:
        try:
            return (await backend.stat(name)).size_bytes
        except KeyUnknown:
            return None

    async def look(blob: Blob) -> _Found:
        async with limit:
            records = [await size(name) for name in filter(is_record_key, blob.names)]
            return _Found(await size(blob.names[0]), None not in records)

    async with task_group() as group:
        tasks = [group.create_task(look(blob)) for blob in blobs]
    return [(blob, task.result()) for blob, task in zip(blobs, tasks, strict=True)]
