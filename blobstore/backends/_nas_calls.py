"""The system calls that make, name and open files, where a server does them: an error need not mean that nothing happened.

An NFS client that gets no answer asks again, and is then told of what its first question did: a rename whose source is gone, a
file that exists already. rename(2): "you can not assume that if the operation failed, the file was not renamed"; link(2): "use
stat(2) to find out". Every name is used once and by one process, so to look is to know.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from blobstore.backends._file_calls import (
    CREATE_FLAGS,
    FILE_MODE,
    READ_FLAGS,
    WRITE_FLAGS,
    FileCalls,
    OpenFile,
    OpenUpload,
)
from blobstore.backends._local_locks import LocalLocks
from blobstore.durable import DIRECTORY_MODE
from blobstore.errors import UploadBusy
from blobstore.layout import MARKER_KEY

Result = TypeVar("Result")

STAGING_DIRECTORY = ".staging"
_DOUBTFUL = frozenset({errno.ENOENT, errno.EEXIST, errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EREMOTEIO})
"""What may be the answer to a question that was asked twice, or that was lost."""
_STALE_MAX = 6
"""How often in a row a handle may be stale: an NFSv4 client that opens a file which was replaced, as the marker is, is told so
twice before it asks for the new one; more where others replace it meanwhile."""


class NasCalls(FileCalls):
    """On a network file system: what happened is looked up after an error, and owners are known to this host alone."""

    close_tells_errors = True

    def __init__(self, root: str, locks: LocalLocks) -> None:
        self._root, self._locks = root, locks
        self._process = secrets.token_hex(8)
        self._process_lock: int | None = None
        self._starting = threading.Lock()
        self.silly_names_seen = 0
        """How many `.nfs…` were in listings: files that were deleted while a process of this host had them open."""

    # Making and naming

    def create(self, path: str) -> int:
        """See `FileCalls.create`. The name is ours alone, so an empty file there is the one whose making was not answered."""
        handles: list[int] = []

        def make() -> None:
            handles.append(os.open(path, CREATE_FLAGS, FILE_MODE))

        def is_made() -> bool:
            handle = _opened(path, WRITE_FLAGS)
            if handle is None:
                return False
            handles.append(handle)
            if os.fstat(handle).st_size:
                os.close(handles.pop())
                return False
            return True

        _judged(make, is_made)
        return handles[0]

    def create_unnamed(self, directory: str) -> int | None:
        """See `FileCalls.create_unnamed`: NFS has no such files."""
        del directory
        return None

    def staging_name(self, path: str) -> str:
        """A name in a directory that no listing shows. What a process leaves there when it dies, the next one of this store that
        writes takes away."""
        del path
        with self._starting:
            if self._process_lock is None:
                self._start_staging()
        return os.path.join(self._root, STAGING_DIRECTORY, f"{self._process}-{secrets.token_hex(8)}")

    def _start_staging(self) -> None:
        directory = os.path.join(self._root, STAGING_DIRECTORY)
        with contextlib.suppress(FileExistsError):
            _looked_for(lambda: os.mkdir(directory, DIRECTORY_MODE), self._root)
        _ask_anew(directory)
        mine = self._locks.take(f"process {self._process}")
        assert mine is not None, self._process
        self._process_lock = mine
        for entry in self.entries(directory):
            owner = entry.name.partition("-")[0]
            lock = self._locks.take(f"process {owner}")
            if lock is not None:
                # It is dead, or of a host that had the index before this one.
                try:
                    self.discard(entry.path)
                finally:
                    os.close(lock)

    def rename(self, source: str, target: str) -> None:
        """See `FileCalls.rename`. It is done if the old name, which nobody else has, is no more."""
        _judged(lambda: os.rename(source, target), lambda: _found(source) is None and _found(target) is not None)

    def link(self, source: str, target: str) -> None:
        """See `FileCalls.link`. It is done if both names are of one file."""

        def is_done() -> bool:
            mine, found = _found(source), _found(target)
            return mine is not None and found is not None and os.path.samestat(mine, found)

        _judged(lambda: os.link(source, target), is_done)

    def unlink(self, path: str) -> None:
        """See `FileCalls.unlink`. What isn't there any more is gone, whoever took it away."""
        _judged(lambda: os.unlink(path), lambda: _found(path) is None)

    def discard(self, path: str) -> None:
        """See `FileCalls.discard`. What stays is found by the next process."""
        with contextlib.suppress(OSError):
            os.unlink(path)

    def sync_directory(self, path: str) -> None:
        """See `FileCalls.sync_directory`. On NFS the names are durable before the server answers; other kinds need it."""
        _looked_for(lambda: super(NasCalls, self).sync_directory(path), os.path.dirname(path))

    # Looking and reading

    def open_file(self, path: str) -> OpenFile:
        """See `FileCalls.open_file`."""
        if os.path.basename(path) == MARKER_KEY:
            # The one name that is written twice: what a client remembers of it may be the file before.
            _ask_anew(os.path.dirname(path))
        return _NasFile(path, _opened_or_raise(path, READ_FLAGS))

    def stat(self, path: str) -> os.stat_result:
        """See `FileCalls.stat`. The server is asked: a client may show for a minute what another host has deleted."""
        found = _found(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return found

    def entries(self, path: str) -> Sequence[os.DirEntry[str]]:
        """See `FileCalls.entries`; without names that no key can have: the client's own and those of our staging."""
        found = _looked_for(lambda: super(NasCalls, self).entries(path), path)
        self.silly_names_seen += sum(entry.name.startswith(".nfs") for entry in found)
        return [entry for entry in found if not entry.name.startswith(".")]

    def size_of_entry(self, entry: os.DirEntry[str]) -> int:
        """See `FileCalls.size_of_entry`. A listing may be older than what it lists."""
        return _looked_for(lambda: entry.stat(follow_symlinks=False), os.path.dirname(entry.path)).st_size

    # Owning

    def open_upload(self, path: str, *, resume: bool) -> OpenUpload:
        """See `FileCalls.open_upload`. The lock is on a disk of this host: those of NFS may be local, or lost with the server."""
        lock = self._locks.take(f"upload {os.path.basename(path)}")
        if lock is None:
            raise UploadBusy("another session is writing to this upload")
        try:
            handle = _opened_or_raise(path, WRITE_FLAGS) if resume else self.create(path)
        except FileExistsError as error:
            os.close(lock)
            raise UploadBusy("this upload was begun already") from error
        except BaseException:
            os.close(lock)
            raise
        opened = OpenUpload(path, handle, lambda: os.close(lock))
        if opened.is_published:
            # By a session that died before it took this name away: to write here is to write into a blob.
            try:
                self.unlink(path)
            finally:
                opened.close()
            raise FileNotFoundError(errno.ENOENT, "it was published already", path)
        return opened

    def close(self) -> None:
        """See `FileCalls.close`."""
        lock, self._process_lock = self._process_lock, None
        if lock is not None:
            os.close(lock)


class _NasFile(OpenFile):
    """A file that is opened again should its handle become stale; then it must be the same one."""

    def read(self, size_bytes: int, offset: int) -> bytes:
        """See `OpenFile.read`."""
        try:
            return super().read(size_bytes, offset)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            self._reopen(error)
        return super().read(size_bytes, offset)

    def _reopen(self, error: OSError) -> None:
        """What a name stands for never changes, the marker's apart: as many bytes are the same bytes."""
        fresh = _opened(self.path, READ_FLAGS)
        if fresh is None:
            raise error
        if os.fstat(fresh).st_size != self.found.st_size:
            os.close(fresh)
            raise error
        stale, self.handle = self.handle, fresh
        with contextlib.suppress(OSError):
            # The descriptor is gone all the same.
            os.close(stale)


def _judged(call: Callable[[], None], has_happened: Callable[[], bool]) -> None:
    """Make a call; after an error that may hide a success, look whether it took effect. If not, the client has just asked the
    server, and remembers nothing wrong any more: once more."""
    for is_last in (False, True):
        try:
            call()
        except OSError as error:
            if error.errno not in _DOUBTFUL:
                raise
            # Should looking fail, nobody knows: then its error is raised, never that the name is taken, or gone.
            if has_happened():
                return
            if is_last:
                raise
        else:
            return


def _looked_for(call: Callable[[], Result], directory: str) -> Result:
    """Make a call that changes nothing. What isn't there, and what a stale handle stands for, is looked for again when the client
    has asked the server for that directory."""
    is_asked = False
    for _ in range(_STALE_MAX):
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE and (is_asked or not isinstance(error, FileNotFoundError)):
                raise
        _ask_anew(directory)
        is_asked = True
    return call()


def _found(path: str) -> os.stat_result | None:
    """What is under a name on the server: opened, as a client may answer a mere look from what it remembers. A file without any
    name is only kept for those who have it open."""
    handle = _opened(path, READ_FLAGS)
    if handle is None:
        return None
    try:
        found = os.fstat(handle)
    finally:
        os.close(handle)
    return found if found.st_nlink else None


def _opened(path: str, flags: int) -> int | None:
    """A descriptor; None if nothing is there, also when the server was asked anew."""
    try:
        return _looked_for(lambda: _open(path, flags), os.path.dirname(path))
    except FileNotFoundError:
        return None


def _opened_or_raise(path: str, flags: int) -> int:
    handle = _opened(path, flags)
    if handle is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return handle


def _open(path: str, flags: int) -> int:
    """Open, and look: NFSv4 clients open a file that was replaced meanwhile, and only then see that it is stale."""
    handle = os.open(path, flags)
    try:
        found = os.fstat(handle)
    except OSError:
        os.close(handle)
        raise
    if stat.S_ISREG(found.st_mode) and not found.st_nlink:
        # A server may keep what was replaced or deleted for those who have it open.
        os.close(handle)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
    return handle


def _ask_anew(directory: str) -> None:
    """Open a directory, which has the client compare what it remembers of it with the server's (nfs(5), close-to-open). If it
    isn't there, the client may only remember that it wasn't: then first the one above."""
    try:
        _open_directory(directory)
    except FileNotFoundError:
        above = os.path.dirname(directory)
        if above == directory:
            raise
        _ask_anew(above)
        _open_directory(directory)


def _open_directory(path: str) -> None:
    for is_last in (False, True):
        try:
            os.close(_open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            if is_last or error.errno != errno.ESTALE:
                raise
        else:
            return
