"""Files and standard streams, read and written off the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from blobstore.abc.backend import CHUNK_BYTES
from blobstore.cli._errors import UsageInvalid
from blobstore.clock import random_hex

STANDARD = "-"
_POLL_S = 0.2


def check_path(text: str) -> str:
    """A path from the command line, which may be "-".

    Raises:
        UsageInvalid: it looks like an option.
    """
    if text.startswith("-") and text != STANDARD:
        raise UsageInvalid(f"unknown option {text!r:.200}; a file of that name is written ./{text:.200}")
    if not text:
        raise UsageInvalid("the name of a file is empty")
    return text


@contextmanager
def open_input(path: str) -> Iterator[int]:
    """A descriptor to read from."""
    if path == STANDARD:
        yield sys.stdin.fileno()
        return
    # open(2) itself takes a directory; what it is told apart by is Python's own check.
    with open(path, "rb", buffering=0) as file:
        yield file.fileno()


async def read_chunks(descriptor: int) -> AsyncIterator[bytes]:
    """Bytes to the end, in chunks of `CHUNK_BYTES` but for the last."""
    is_over = threading.Event()
    try:
        while chunk := await asyncio.to_thread(_read, descriptor, is_over):
            yield chunk
    finally:
        # A thread that waits for a terminal or a pipe would keep the process from ending.
        is_over.set()


def _read(descriptor: int, is_over: threading.Event) -> bytes:
    """A whole chunk, as a pipe gives 64 KiB at a time."""
    pieces: list[bytes] = []
    missing = CHUNK_BYTES
    while missing and not is_over.is_set():
        if not select.select([descriptor], [], [], _POLL_S)[0]:
            continue
        piece = os.read(descriptor, missing)
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


class Output:
    """A descriptor to write to."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    async def write(self, data: bytes) -> None:
        """All of `data`."""
        await asyncio.to_thread(_write_all, self.descriptor, data)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def open_output(path: str | None, what: str) -> Iterator[Output]:
    """A file that gets its name when the block ends without an error, and leaves nothing otherwise; or standard output.

    Raises:
        UsageInvalid: standard output is a terminal.
    """
    if path is None or path == STANDARD:
        if sys.stdout.isatty():
            raise UsageInvalid(f"{what} is binary and standard output is a terminal; use -o FILE, or a pipe")
        sys.stdout.flush()
        yield Output(sys.stdout.fileno())
        return
    # A link stays a link: what it points at is replaced.
    final = os.path.realpath(path)
    if _is_special(final):
        descriptor = os.open(final, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield Output(descriptor)
        finally:
            os.close(descriptor)
        return
    with _open_staged(final) as output:
        yield output


def _is_special(path: str) -> bool:
    """Whether this is a device or a pipe, which is written to, not replaced."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return not stat.S_ISREG(mode)


@contextmanager
def _open_staged(final: str) -> Iterator[Output]:
    directory, name = os.path.split(final)
    staged = os.path.join(directory, f".{name[:200]}.{random_hex(4)}.part")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        # A person knows the name they gave, not that of the temporary file.
        raise type(error)(error.errno, error.strerror, final) from error
    try:
        try:
            yield Output(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(staged, final)
    except BaseException:
        os.unlink(staged)
        raise
