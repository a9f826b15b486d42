"""Recorded verbs on their way through files: written by many processes, read in the order of the index's own transactions."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.model.state import State


class Entry(msgspec.Struct, omit_defaults=True):
    """One verb that was carried out or refused.

    LMDB numbers the transactions that change anything, without a gap; one that changes nothing sees the number of the next.
    `at_ns` is from inside the write transaction, and monotonic, so that it orders the verbs of all processes of a machine.
    """

    transaction: int
    at_ns: int
    verb: str
    arguments: dict[str, Any]
    outcome: Any = None
    refusal: str | None = None
    has_written: bool = False


class Session(msgspec.Struct, tag="session"):
    """A process began to record: which index it writes, and what that held before the transaction of this number."""

    transaction: int
    lineage: str | None
    state: State


class Ran(msgspec.Struct, tag="ran"):
    """A verb ran; whether that counts is not known yet."""

    entry: Entry


class Settled(msgspec.Struct, tag="settled"):
    """The last `count` verbs before this line are durable; others since the line before it came to nothing."""

    count: int


_Line = Session | Ran | Settled
_decoder = msgspec.json.Decoder(_Line)


class Spill:
    """A file of lines. Each is written as it comes, so that a kill of the process takes none of them back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._encode = msgspec.json.Encoder().encode

    def put(self, line: _Line) -> None:
        """Append a line."""
        # A session begins one of its own, even if the process before us was killed in the middle of one.
        before = b"\n" if isinstance(line, Session) else b""
        os.write(self._file, before + self._encode(line) + b"\n")


def lineages(paths: Iterable[Path]) -> list[str]:
    """The indexes that were recorded; a rebuilt one is another."""
    found = {lineage for path in paths for lineage, _, _ in _read(path)}
    return sorted(found)


def merged(paths: Iterable[Path], lineage: str) -> Iterator[Session | Entry]:
    """All that was settled in one index, in order; and what a process did that was killed before it could say so."""
    paths = list(paths)
    lost = _settled_unsaid(paths, lineage)
    streams = [_ordered(path, lineage, lost) for path in paths]
    for _, item in heapq.merge(*streams, key=lambda pair: pair[0]):
        yield item


_Place = tuple[int, int, int]


def _ordered(path: Path, lineage: str, lost: set[int]) -> Iterator[tuple[_Place, Session | Entry]]:
    for found, item, is_settled in _read(path):
        if found == lineage and (is_settled or item.transaction in lost):
            yield _place(item), item


def _place(item: Session | Entry) -> _Place:
    return (item.transaction, 0, 0) if isinstance(item, Session) else (item.transaction, 1, item.at_ns)


def _settled_unsaid(paths: Iterable[Path], lineage: str) -> set[int]:
    """Transactions that a process was killed in and that were committed all the same: somebody saw a later one, and nobody else
    settled one of that number."""
    unsaid: set[int] = set()
    settled: set[int] = set()
    last = 0
    for path in paths:
        for found, item, is_settled in _read(path):
            if found != lineage:
                continue
            if not is_settled:
                unsaid.add(item.transaction)
                continue
            last = max(last, item.transaction)
            if isinstance(item, Entry) and item.has_written:
                settled.add(item.transaction)
    return {number for number in unsaid - settled if number < last}


def _read(path: Path) -> Iterator[tuple[str, Session | Entry, bool]]:
    """Each session and verb of a file with its lineage, and whether it was settled."""
    session: Session | None = None
    waiting: list[Entry] = []
    for line in _lines(path):
        if isinstance(line, Ran):
            waiting.append(line.entry)
            continue
        kept = waiting[-line.count :] if isinstance(line, Settled) and line.count else _last_attempt(waiting)
        if session is not None:
            session.lineage = session.lineage or _named_by(waiting)
            for entry in kept if not isinstance(line, Settled) or line.count else ():
                yield session.lineage, entry, isinstance(line, Settled)
        waiting = []
        if isinstance(line, Session):
            session = line
            if session.lineage is not None:
                yield session.lineage, session, True
    if session is not None:
        for entry in _last_attempt(waiting):
            yield session.lineage or _named_by(waiting), entry, False


def _last_attempt(waiting: list[Entry]) -> list[Entry]:
    return [entry for entry in waiting if entry.transaction == waiting[-1].transaction]


def _named_by(waiting: list[Entry]) -> str:
    """What the first verb of a new index calls it."""
    found = [entry.arguments["wanted"]["index_id"] for entry in waiting if entry.verb == "initialise"]
    return str(found[0]) if found else ""


def _lines(path: Path) -> Iterator[_Line]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and line != b"\n":
                try:
                    yield _decoder.decode(line)
                except msgspec.DecodeError:
                    # Cut by a kill in the middle of it; nothing that counts comes behind it in that session.
                    continue
