"""What must be true of a store after a power cut, from what the workload said before it.

The workload marks what a step will have changed when it is answered, as values by key, and then that it was answered. A step
that was not answered may have taken effect or not, so that a key has a set of values that are right.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.powercut.recording import Mark

THERE, GONE, FREE = "there", "gone", "free"
"""FREE: a collection may have taken it, so either is right."""

Expected = dict[str, frozenset[str]]

_BEFORE = {"blob": FREE, "manifest": GONE, "tag": GONE, "upload": "0", "store": GONE, "rebuild": GONE}


def blob_key(digest: object) -> str:
    """A blob, wherever it was pushed: THERE or FREE."""
    return f"blob {digest}"


def manifest_key(repository: str, digest: object) -> str:
    """A manifest's record: THERE, GONE or FREE."""
    return f"manifest {repository} {digest}"


def tag_key(repository: str, tag: str) -> str:
    """A tag: the digest that it names, or GONE."""
    return f"tag {repository} {tag}"


def upload_key(repository: str, upload_id: object, content: str) -> str:
    """An open upload of this content: how many bytes were said to be safe, or GONE. It is known of once it was begun."""
    return f"upload {repository} {upload_id} {content}"


STORE_KEY = "store made"
"""The store: THERE once its making was answered."""
REBUILD_KEY = "rebuild running"
"""A rebuild of the index: THERE while it may be under way; then a person has to begin it anew."""


def expect(marks: Iterable[Mark]) -> Expected:
    """The values that are right for each key after these marks."""
    right: dict[str, frozenset[str]] = {}
    begun: dict[int, dict[str, str]] = {}
    for mark in marks:
        document = mark.document
        if "begun" in document:
            effects = begun[document["begun"]] = document["effects"]
            for key, value in effects.items():
                right[key] = right.get(key, frozenset({_BEFORE[key.partition(" ")[0]]})) | {value}
        else:
            for key, value in begun.pop(document["answered"]).items():
                others = {each[key] for each in begun.values() if key in each}
                right[key] = frozenset({value} | others)
    return right
