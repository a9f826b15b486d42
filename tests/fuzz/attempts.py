"""What every target asks of a parser: a value or a refusal of the promised kind, whose text can be shown to a person."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from blobstore.errors import BlobstoreError

Value = TypeVar("Value")

message_max_chars = 4096

outcomes: Counter[str] = Counter()
"""How often something was "taken" or "refused", so that a test can tell whether a target ever comes past the door."""


def taken(
    parse: Callable[..., Value], *arguments: Any, raises: type[BlobstoreError] | tuple[type[BlobstoreError], ...]
) -> Value | None:
    """What `parse` makes of its arguments, None if it refuses them; any other error is the finding."""
    try:
        value = parse(*arguments)
    except raises as error:
        check_message(str(error))
        value = None
    outcomes["refused" if value is None else "taken"] += 1
    return value


def check_message(text: str) -> None:
    """Not empty, not as long as its input may be, and of whole characters."""
    assert 0 < len(text) <= message_max_chars, len(text)
    text.encode()


def text_of(data: bytes) -> str:
    """Any bytes as a command line, an URL or a header would hand them on: those that are no UTF-8 as half characters."""
    return data.decode("utf-8", "surrogateescape")


def check_stays_inside(name: str) -> None:
    """A name joined to a directory leads to a place below it, and to just this one."""
    assert name
    assert "\x00" not in name
    assert posixpath.normpath(posixpath.join("/directory", name)) == f"/directory/{name}", name


def finished(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that waits for nothing, without the cost of an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: Value = stop.value
        return result
    coroutine.close()
    raise AssertionError("it waits")


class HeldFile:
    """An open file of this process that holds what it was last given; never on a disk."""

    def __init__(self) -> None:
        self.handle = os.memfd_create("fuzz")
        self.path = f"/proc/self/fd/{self.handle}"

    def hold(self, data: bytes) -> int:
        """Hold other bytes from now on; returns the handle."""
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, data, 0)
        return self.handle
