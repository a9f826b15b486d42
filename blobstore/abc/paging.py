"""Walking a whole scan slice by slice: the loop that every reader of an index needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from blobstore.abc.index import CollectorIndex, ReferenceIndex
from blobstore.abc.records import ManifestNode, Slice, TagEntry
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


async def every_repository(index: CollectorIndex, limit: int) -> AsyncIterator[Sequence[ManifestNode]]:
    """The manifests of each repository, read `limit` at a time."""
    nodes: list[ManifestNode] = []
    async for node in every(lambda after: index.scan_manifests(after, limit)):
        if nodes and nodes[-1].record.key.repository != node.record.key.repository:
            yield nodes
            nodes = []
        nodes.append(node)
    if nodes:
        yield nodes
