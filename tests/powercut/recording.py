"""A recording: writes and flushes of a disk, and marks of the workload, in the order in which they happened."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<cQI")
_WRITE, _FLUSH, _MARK = b"W", b"F", b"M"


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that reached the disk; they may be lost until the next flush."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """All writes before it are durable."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What the workload says of itself."""

    document: dict[str, Any]


Record = Write | Flush | Mark


class Writer:
    """Appends records. Several processes share a recording: one record is one write to a file opened for appending."""

    def __init__(self, path: str) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def wrote(self, offset: int, data: bytes) -> None:
        """Note a write."""
        self._append(_WRITE, offset, data)

    def flushed(self) -> None:
        """Note a flush."""
        self._append(_FLUSH, 0, b"")

    def mark(self, document: dict[str, Any]) -> None:
        """Note what the workload says."""
        self._append(_MARK, 0, json.dumps(document).encode())

    def _append(self, kind: bytes, offset: int, data: bytes) -> None:
        record = _HEADER.pack(kind, offset, len(data)) + data
        written = os.write(self._handle, record)
        assert written == len(record), "the recording has no space left"


def read_recording(path: str) -> list[Record]:
    """All records of a file."""
    return list(_records(Path(path).read_bytes()))


def _records(data: bytes) -> Iterator[Record]:
    at = 0
    while at < len(data):
        kind, offset, size = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        body = data[at : at + size]
        at += size
        yield Write(offset, body) if kind == _WRITE else Flush() if kind == _FLUSH else Mark(json.loads(body))
