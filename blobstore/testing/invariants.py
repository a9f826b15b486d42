"""The invariants of a store (docs/storage.md, Invariants), looked at from outside; for tests of whatever embeds one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from blobstore.abc.paging import pages
from blobstore.abc.records import Blob, BlobState
from blobstore.digest import Digest
from blobstore.errors import KeyUnknown
from blobstore.index._key_value import KeyValueIndex
from blobstore.layout import BLOBS_PREFIX, DATA_PREFIX, RECORDS_PREFIX, UPLOADS_PREFIX, is_record_key
from blobstore.promises import HoldTerms
from blobstore.store import Store
from blobstore.testing._table_invariants import broken_tables

_PAGE = 1000
_EVER_MS = 1 << 62
"""Later than any hold but a pin lapses and any quarantine ends."""


async def find_broken(store: Store, *, reads_data: bool = True) -> list[str]:
    """Every invariant that does not hold, a line each; empty when all is well.

    The tables of the index against each other (I2, I7, and that totals equal a recount), then the bytes of each present or
    condemned blob against its size and, with `reads_data`, its digest (I1). The store must be at rest: bytes that a
    collection frees meanwhile would be called missing.
    """
    index = store.index
    problems: list[str] = []
    if isinstance(index, KeyValueIndex):
        problems += await index._scan(broken_tables)  # noqa: SLF001 - the tables are looked at below the contract on purpose
    async for blob in _blobs(store):
        if blob.state is not BlobState.SUSPECT:
            problems += [problem async for problem in _broken_bytes(store, blob, reads_data=reads_data)]
    return problems


async def find_garbage(store: Store) -> list[str]:
    """What a store at rest still keeps after two collections beyond each grace (I5), a line each; pins and what manifests
    refer to are none."""
    index, backend = store.index, store.backend
    kept: set[str] = set()
    garbage: list[str] = []
    async for blob in _blobs(store):
        kept.update(blob.names)
        if blob.state is BlobState.CONDEMNED:
            garbage.append(f"blob {blob.digest} is still condemned")
    for prefix in (BLOBS_PREFIX, DATA_PREFIX, RECORDS_PREFIX, UPLOADS_PREFIX):
        garbage += [f"{info.key} is of no blob" async for info in backend.list(prefix) if info.key not in kept]
    trash = await index.list_due_trash(_EVER_MS, HoldTerms(), None, _PAGE)
    garbage += [f"trash {row.generation} ({row.why}) is still there" for row in trash.items]
    garbage += [f"upload {intent.upload} is still open" for intent in await index.list_uploads(_EVER_MS, _PAGE)]
    lapsed = await index.list_lapsed_holds(HoldTerms(), _EVER_MS, None, _PAGE)
    for digest in lapsed.items:
        # A hold beside an edge is swept away once it lapses; here it may be young.
        if not await index.list_parents(digest, 1):
            garbage.append(f"blob {digest} is kept by a hold alone")
    return garbage


async def _blobs(store: Store) -> AsyncIterator[Blob]:
    async for page in pages(lambda after: store.index.scan_references(after, _PAGE)):
        for each in page:
            yield each.blob


async def _broken_bytes(store: Store, blob: Blob, *, reads_data: bool) -> AsyncIterator[str]:
    for name in blob.names:
        try:
            found = await store.backend.stat(name)
        except KeyUnknown:
            what = "commit record" if is_record_key(name) else "bytes"
            yield f"I1: {blob.state} blob {blob.digest} has no {what} at {name}"
            continue
        if is_record_key(name):
            if found.size_bytes:
                yield f"I1: the commit record {name} has {found.size_bytes} bytes"
            continue
        if found.size_bytes != blob.size_bytes:
            yield f"I1: {name} has {found.size_bytes} bytes of {blob.size_bytes}"
        elif reads_data:
            async with store.backend.read(name) as chunks:
                data = b"".join([chunk async for chunk in chunks])
            if Digest.of(data) != blob.digest:
                yield f"I1: the bytes at {name} do not hash to its digest"
