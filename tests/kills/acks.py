"""What was acknowledged: a journal outside of the store, and what the store owes by it.

A worker appends a line before it asks for anything that takes away or moves, and one after each answer. So a kill leaves at most
one operation in doubt: then both what was before and what was asked for will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

GONE = "gone"
"""Stands for no digest among those that a tag may name."""


class OpenUpload(msgspec.Struct, frozen=True):
    """An upload that a session left with `offset` bytes acknowledged; its bytes follow from `name`."""

    name: str
    offset: int
    at_ms: int


class Owed:
    """What one pusher's journal says, line after line. Lines: `verb`, then what it is about.

    tag? TAG DIGEST · tag TAG DIGEST · untag? TAG · untag TAG · manifest DIGEST MS · delete? DIGEST · delete DIGEST ·
    blob DIGEST MS · delete-blob? DIGEST · pin DIGEST · unpin? DIGEST · unpin DIGEST · upload ID NAME OFFSET MS · resume? ID
    """

    def __init__(self) -> None:
        self.tags: dict[str, set[str]] = {}
        self.pins: set[str] = set()
        self.unpinned: set[str] = set()
        self.promised: dict[str, int] = {}
        """Blobs and manifests, and when the request began whose answer promised them."""
        self.manifests: dict[str, int] = {}
        self.uploads: dict[str, OpenUpload] = {}
        self.acknowledged = 0

    def replay(self, lines: Iterable[list[Any]]) -> None:
        """Take lines in order."""
        for verb, *values in lines:
            getattr(self, "_" + verb.replace("-", "_").replace("?", "_asked"))(*values)
            self.acknowledged += not verb.endswith("?")

    def _tag_asked(self, tag: str, digest: str) -> None:
        self.tags.setdefault(tag, {GONE}).add(digest)

    def _tag(self, tag: str, digest: str) -> None:
        self.tags[tag] = {digest}

    def _untag_asked(self, tag: str) -> None:
        self.tags.setdefault(tag, set()).add(GONE)

    def _untag(self, tag: str) -> None:
        self.tags[tag] = {GONE}

    def _manifest(self, digest: str, at_ms: int) -> None:
        self.manifests[digest] = at_ms

    def _delete_asked(self, digest: str) -> None:
        self.manifests.pop(digest, None)
        for allowed in self.tags.values():
            if digest in allowed:
                allowed.add(GONE)

    def _delete(self, digest: str) -> None:
        for tag, allowed in self.tags.items():
            if digest in allowed:
                self.tags[tag] = (allowed - {digest}) | {GONE}

    def _blob(self, digest: str, at_ms: int) -> None:
        self.promised[digest] = at_ms

    def _delete_blob_asked(self, digest: str) -> None:
        self.promised.pop(digest, None)

    def _pin(self, digest: str) -> None:
        self.pins.add(digest)

    def _unpin_asked(self, digest: str) -> None:
        self.pins.discard(digest)

    def _unpin(self, digest: str) -> None:
        self.unpinned.add(digest)

    def _upload(self, upload_id: str, name: str, offset: int, at_ms: int) -> None:
        self.uploads[upload_id] = OpenUpload(name, offset, at_ms)

    def _resume_asked(self, upload_id: str) -> None:
        # From here on it may be finished.
        self.uploads.pop(upload_id, None)
