"""What an answer of OSS tells of bytes: their checksum, how many there are and how many come."""

from __future__ import annotations

from typing import Any

from blobstore.errors import RangeInvalid, StorageFailed

_PARTIAL = 206


def crc_told(doing: str, result: Any) -> int:
    """The checksum that the server computed of what came there."""
    if result.crc is None:
        raise StorageFailed(f"{doing}: the server tells no CRC64 of what it stored; is this endpoint one of OSS?")
    return int(result.crc)


def size_told(doing: str, result: Any) -> int:
    """The length of an object, or of what comes of it."""
    if result.content_length is None:
        raise StorageFailed(f"{doing}: the server tells no length")
    return int(result.content_length)


def sizes_told(doing: str, result: Any, start: int, *, is_range: bool) -> tuple[int, int]:
    """The size of the whole object, and how much of it comes."""
    length = size_told(doing, result)
    if not is_range:
        return length, length
    if result.status == _PARTIAL:
        return int(result.headers["Content-Range"].rpartition("/")[2]), length
    # A server that was not asked for standard behaviour sends the whole for a range that it can't satisfy.
    if start >= length:
        raise RangeInvalid(f"{doing}: it has {length} bytes, none at {start}")
    raise StorageFailed(f"{doing}: the server ignores ranges")
