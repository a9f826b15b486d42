"""Inventory: what lies on a backend of blobs, from listings alone, in memory that hardly grows with it."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator

from blobstore.abc.backend import Backend, ObjectInfo
from blobstore.generation import Generation
from blobstore.layout import BLOBS_PREFIX, DATA_PREFIX, RECORDS_PREFIX, data_key, parse_data_key

_PLACE_BYTES = 1 + 16


class _Places:
    """The places of data in the order of a listing, as a sequence to bisect; 17 bytes each."""

    def __init__(self) -> None:
        self._packed = bytearray()

    def __len__(self) -> int:
        return len(self._packed) // _PLACE_BYTES

    def __getitem__(self, at: int) -> bytes:
        return bytes(self._packed[at * _PLACE_BYTES : (at + 1) * _PLACE_BYTES])

    def append(self, place: bytes) -> None:
        """A place behind all others."""
        self._packed += place


class DataListing:
    """All bytes under `data/` with their sizes, about 26 bytes of memory each; which of them a commit record speaks of is noted
    as the records come by."""

    def __init__(self) -> None:
        self._places = _Places()
        self._sizes = array("Q")
        self._recorded = bytearray()

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, generation: Generation, size_bytes: int) -> None:
        """One more; they come in the order of a listing."""
        self._places.append(_place(generation))
        self._sizes.append(size_bytes)
        self._recorded.append(0)

    def size_of(self, generation: Generation) -> int | None:
        """How many bytes lie there, None if there was nothing."""
        at = self._find(generation)
        return self._sizes[at] if at is not None else None

    def note_record(self, generation: Generation) -> int | None:
        """There is a commit record of it; `size_of`."""
        at = self._find(generation)
        if at is None:
            return None
        self._recorded[at] = 1
        return self._sizes[at]

    def without_record(self) -> Iterator[tuple[Generation, int]]:
        """Those that no record spoke of, with their sizes."""
        at = self._recorded.find(0)
        while at >= 0:
            yield Generation.from_key(self._places[at][1:]), self._sizes[at]
            at = self._recorded.find(0, at + 1)

    def _find(self, generation: Generation) -> int | None:
        place = _place(generation)
        at = bisect_left(self._places, place)
        return at if at < len(self._places) and self._places[at] == place else None


def _place(generation: Generation) -> bytes:
    """What sorts as `data_key` does."""
    spread = data_key(generation).removeprefix(DATA_PREFIX)[:2]
    return bytes.fromhex(spread) + generation.key


async def list_data(backend: Backend, note_stranger: Callable[[str], None] | None = None) -> DataListing:
    """What lies under `data/`; `note_stranger` is told the names that are none of ours."""
    listing = DataListing()
    async for info in backend.list(DATA_PREFIX):
        generation = parse_data_key(info.key)
        if generation is not None:
            listing.add(generation, info.size_bytes)
        elif note_stranger is not None:
            note_stranger(info.key)
    return listing


async def list_names(backend: Backend) -> AsyncIterator[ObjectInfo]:
    """The bytes and the commit records of all digests, merged in order of `digest_part`: the copies of each side by side."""
    blobs, records = backend.list(BLOBS_PREFIX), backend.list(RECORDS_PREFIX)
    blob, record = await anext(blobs, None), await anext(records, None)
    while blob is not None or record is not None:
        if record is None or (blob is not None and digest_part(blob.key) <= digest_part(record.key)):
            assert blob is not None
            yield blob
            blob = await anext(blobs, None)
        else:
            yield record
            record = await anext(records, None)


def digest_part(key: str) -> str:
    """What the names of one digest have in common, and are ordered by: without the prefix."""
    return key.removeprefix(BLOBS_PREFIX).removeprefix(RECORDS_PREFIX)
