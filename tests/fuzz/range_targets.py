"""Ranges of a blob: where a reader begins and ends."""

from __future__ import annotations

from typing import Any, cast

from blobstore.abc.records import Blob, BlobState
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Algorithm, Digest
from blobstore.errors import BlobDamaged, RangeInvalid
from blobstore.events import discard
from blobstore.generation import Generation
from blobstore.layout import blob_key
from blobstore.parts import Parts
from blobstore.readers import open_blob
from tests.fuzz.attempts import finished, taken

_NUMBER_BYTES = 9


def fuzz_range(data: bytes) -> None:
    """Two numbers, then a blob; the first byte says whether there is a stop, a hash in blake3, and damage. A reader gives just
    these bytes or refuses; and of a whole blob that is damaged never all of it."""
    if len(data) < 1 + 2 * _NUMBER_BYTES:
        return
    flags, content = data[0], data[1 + 2 * _NUMBER_BYTES :]
    start = int.from_bytes(data[1 : 1 + _NUMBER_BYTES], "big", signed=True)
    last = int.from_bytes(data[1 + _NUMBER_BYTES : 1 + 2 * _NUMBER_BYTES], "big", signed=True)
    stop = last if flags & 1 else None
    blob = _blob(content, with_blake3=bool(flags & 2))
    is_damaged = bool(flags & 4) and bool(content)
    stored = bytes([content[0] ^ 1]) + content[1:] if is_damaged else content
    is_inside = 0 <= start <= len(content) and (stop is None or start <= stop)
    is_whole = is_inside and start == 0 and (stop is None or stop >= len(content))
    expected = (BlobDamaged,) if is_whole and is_damaged else (RangeInvalid,)
    found = taken(lambda: finished(_read(blob, stored, start, stop)), raises=expected)
    assert found == (stored[start:stop] if is_inside and not (is_whole and is_damaged) else None)


def _blob(content: bytes, *, with_blake3: bool) -> Blob:
    digest, generation = Digest.of(content), Generation(1, 1)
    fast = Digest.of(content, Algorithm.BLAKE3).value if with_blake3 else None
    return Blob(digest, BlobState.PRESENT, generation, len(content), fast, (blob_key(digest, generation),))


async def _read(blob: Blob, stored: bytes, start: int, stop: int | None) -> bytes:
    backend = MemoryBackend()
    backend._objects[blob.names[0]] = stored
    # A small blob is hashed where it is read: of an open store no more than its backend is asked.
    nothing = cast("Any", None)
    parts = Parts(nothing, backend, nothing, nothing, nothing, nothing, nothing, discard)

    async def find() -> Blob:
        return blob

    async with open_blob(parts, blob.digest, find, start, stop) as reader:
        found = await reader.read()
        assert (reader.start, reader.stop) == (start, start + len(found))
        return found


def _seed(flags: int, start: int, stop: int, content: bytes) -> bytes:
    numbers = [number.to_bytes(_NUMBER_BYTES, "big", signed=True) for number in (start, stop)]
    return bytes([flags]) + b"".join(numbers) + content


RANGE_SEEDS = [
    _seed(flags, start, stop, b"0123456789") for flags in range(8) for start, stop in ((0, 10), (3, 99), (10, 10))
]
RANGE_SEEDS += [
    _seed(1, -1, 5, b"0123456789"),
    _seed(1, 11, 12, b"0123456789"),
    _seed(1, 5, 4, b"0123456789"),
    _seed(4, 0, 0, b""),
]
