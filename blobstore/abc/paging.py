"""Walking a whole scan slice by slice: the loop that every reader of an index needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from blobstore.abc.index import ReferenceIndex
from blobstore.abc.records import Slice, TagEntry
from blobstore.names import RepositoryName, TagName

Item = TypeVar("Item")


async def pages(scan: Callable[[bytes | None], Awaitable[Slice[Item]]]) -> AsyncIterator[tuple[Item, ...]]:
    """The items of each slice, the empty ones included; `scan` is given the cursor to go on from."""
    after: bytes | None = None
    while True:
        page = await scan(after)
        yield page.items
        after = page.next
        if after is None:
            return


async def every(scan: Callable[[bytes | None], Awaitable[Slice[Item]]]) -> AsyncIterator[Item]:
    """The items of a whole scan, one by one."""
    async for items in pages(scan):
        for item in items:
            yield item


async def every_tag(index: ReferenceIndex, repository: RepositoryName, limit: int) -> AsyncIterator[TagEntry]:
    """A repository's tags in byte order, read `limit` at a time.

    Raises:
        RepositoryUnknown: it holds no manifest.
    """
    after: TagName | None = None
    while page := await index.list_tags(repository, after, limit):
        after = page[-1].tag
        for entry in page:
            yield entry
