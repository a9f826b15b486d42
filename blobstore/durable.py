"""Making names in a directory durable, for whoever creates or renames a file."""

from __future__ import annotations

import contextlib
import os

DIRECTORY_MODE = 0o700


def sync_directory(path: str) -> None:
    """Make the names in a directory durable. Blocks."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directories(path: str) -> None:
    """Make a directory and its parents, durably. What is there already is synced too, as its maker may have died. Blocks."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        make_directories(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, DIRECTORY_MODE)
    sync_directory(parent)
