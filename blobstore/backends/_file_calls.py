"""The system calls that make, name and open files, for file systems whose answers are what happened."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Sequence

from blobstore.durable import check_still_there, sync_directory
from blobstore.errors import UploadBusy

FILE_MODE = 0o600
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
WRITE_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE_FLAGS = WRITE_FLAGS | os.O_CREAT | os.O_EXCL
_NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
"""What O_TMPFILE is answered with by file systems and kernels that don't know it."""


class OpenFile:
    """A file that is being read; used by one thread at a time."""

    def __init__(self, path: str, handle: int) -> None:
        self.path, self.handle = path, handle
        self.found = os.fstat(handle)

    def read(self, size_bytes: int, offset: int) -> bytes:
        """Up to so many bytes from an offset on; none at the end."""
        return os.pread(self.handle, size_bytes, offset)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.handle)


class OpenUpload:
    """A staged file that one session owns until `release`, which comes after its handle was closed."""

    def __init__(self, path: str, handle: int, release: Callable[[], None]) -> None:
        self.path, self.handle, self.release = path, handle, release
        found = os.fstat(handle)
        self.size_bytes, self.is_published = found.st_size, found.st_nlink > 1

    def close(self) -> None:
        """Let go of it with nothing done."""
        try:
            os.close(self.handle)
        finally:
            self.release()


class FileCalls:
    """On a local file system: the kernel's word is final, and a file is owned by who has locked it."""

    close_tells_errors = False
    """Whether what was written may fail as late as at `close`; then a file is owned by other means than its descriptor."""

    def create(self, path: str) -> int:
        """Make a file that wasn't there, and open it."""
        return os.open(path, CREATE_FLAGS, FILE_MODE)

    def create_unnamed(self, directory: str) -> int | None:
        """Make a file that has no name yet; None where files are born with a name."""
        try:
            return os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES or not os.path.isdir(directory):
                raise
            return None

    def staging_name(self, path: str) -> str:
        """A name for the bytes of `path` while they are written. What a crash leaves of it, `check` reports."""
        return f"{path}.new-{os.getpid()}-{os.urandom(8).hex()}"

    def open_file(self, path: str) -> OpenFile:
        """Open a file to read it."""
        return OpenFile(path, os.open(path, READ_FLAGS))

    def open_upload(self, path: str, *, resume: bool) -> OpenUpload:
        """Make a staged file, or open one that is there, and own it.

        Raises:
            UploadBusy: another session owns it.
        """
        try:
            handle = os.open(path, WRITE_FLAGS) if resume else self.create(path)
        except FileExistsError as error:
            raise UploadBusy("this upload was begun already") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened = OpenUpload(path, handle, _nothing)
            if opened.is_published:
                # By a session that died before it took this name away: to write here is to write into a blob.
                os.unlink(path)
            # Whoever held it before us may have published or dropped it in between: then this would be to write into a blob.
            check_still_there(handle, path)
        except BlockingIOError as error:
            os.close(handle)
            raise UploadBusy("another session is writing to this upload") from error
        except BaseException:
            os.close(handle)
            raise
        return opened

    def rename(self, source: str, target: str) -> None:
        """Give a file another name, which is taken from what had it."""
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name, if that is free."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """Take a name away."""
        os.unlink(path)

    def discard(self, path: str) -> None:
        """Take a staging name away."""
        os.unlink(path)

    def stat(self, path: str) -> os.stat_result:
        """What is under a name."""
        return os.stat(path, follow_symlinks=False)

    def entries(self, path: str) -> Sequence[os.DirEntry[str]]:
        """What is in a directory, in no order."""
        with os.scandir(path) as entries:
            return list(entries)

    def size_of_entry(self, entry: os.DirEntry[str]) -> int:
        """Length of a file that was listed."""
        return entry.stat(follow_symlinks=False).st_size

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        sync_directory(path)

    def close(self) -> None:
        """Let go of what is kept for all of them."""


def _nothing() -> None:
    """Closing the handle drops the lock."""
