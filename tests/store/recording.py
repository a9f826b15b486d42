"""A diary of what a store does, in the order it happens: calls of the system on its files, verbs of its index."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from blobstore.index._key_value import KeyValueIndex
from blobstore.store import Store

VERBS = frozenset({
    "start_upload", "commit_blob", "put_manifest", "put_tag", "delete_tag", "delete_manifest", "hide_repository", "unpin_blob",
    "drop_manifests", "condemn", "retire", "forget_trash", "trim_outbox",
})  # fmt: skip
"""The verbs whose place in the order matters."""
_PLACES = re.compile(r"/(blobs|uploads|journal|checkpoint)(/|$)")


class Diary:
    """What happened, a short line each; the same line several times running is one."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        """Called from whichever thread does it; the store waits for one step before it begins the next."""
        if self.lines[-1:] != [line]:
            self.lines.append(line)

    def clear(self) -> None:
        """Begin anew."""
        self.lines.clear()

    def read(self, *dropped: str) -> list[str]:
        """The lines, without some."""
        return [line for line in self.lines if line not in dropped]


def record(store: Store, monkeypatch: pytest.MonkeyPatch) -> Diary:
    """Note the verbs of a store's index when they are answered, and each sync, name and removal of its files."""
    diary = Diary()
    _record_verbs(store.index, diary, monkeypatch)
    for call, note in (("fsync", _note_sync), ("rename", _note_name), ("link", _note_name), ("unlink", _note_removal)):
        monkeypatch.setattr(os, call, _noting(getattr(os, call), note, diary))
    return diary


def _record_verbs(index: object, diary: Diary, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(index, KeyValueIndex)
    write: Callable[..., Awaitable[Any]] = index._write

    async def noting(verb: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        result = await write(verb, *args, **kwargs)
        if verb.__name__ in VERBS:
            diary.note(verb.__name__)
        return result

    monkeypatch.setattr(index, "_write", noting)


def _noting(call: Callable[..., Any], note: Callable[..., str | None], diary: Diary) -> Callable[..., Any]:
    def noting(*args: Any, **kwargs: Any) -> Any:
        # Read before, as a descriptor's path says nothing once its file is gone; noted after, as only then it is done.
        line = note(*args)
        result = call(*args, **kwargs)
        if line is not None:
            diary.note(line)
        return result

    return noting


def _note_sync(handle: int) -> str | None:
    path = os.readlink(f"/proc/self/fd/{handle}")
    place = _place(path)
    kind = "directory" if os.path.isdir(path) else "file"
    return f"sync {kind} in {place}" if place is not None else None


def _note_name(_source: str, path: str) -> str | None:
    place = _place(path)
    return f"name in {place}" if place is not None else None


def _note_removal(path: str) -> str | None:
    place = _place(path)
    return f"remove from {place}" if place is not None else None


def _place(path: str) -> str | None:
    found = _PLACES.search(path)
    return found.group(1) if found is not None else None
