"""Files of an image archive, in a directory or in a tar file, opened so that nothing leads outside of it. All of it blocks."""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import posixpath
import stat
from contextlib import ExitStack
from typing import TypeVar

import msgspec

from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.durable import storage_errors
from blobstore.errors import ArchiveInvalid, StorageFailed
from blobstore.importers._tar import Kind, Member, index_tar
from blobstore.names import TagName

Document = TypeVar("Document")

archive_json_max_bytes = 4 * 1024 * 1024
symlink_hops_max = 8

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK, as opening a pipe would wait for its writer.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Content(abc.ABC):
    """Bytes that can be read from any offset."""

    size_bytes: int

    @abc.abstractmethod
    def read(self, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` from `offset`; fewer only at the end.

        Raises:
            ArchiveInvalid: there are fewer than there were.
            StorageFailed: the file can't be read.
        """


class FileRange(Content):
    """A part of an open file, which is whoever's opened it."""

    def __init__(self, handle: int, start: int, size_bytes: int, location: str) -> None:
        self._handle, self._start, self._location = handle, start, location
        self.size_bytes = size_bytes

    def read(self, offset: int, size_bytes: int) -> bytes:
        """See `Content.read`."""
        wanted = min(size_bytes, self.size_bytes - offset)
        pieces: list[bytes] = []
        while wanted > 0:
            try:
                piece = os.pread(self._handle, wanted, self._start + offset)
            except OSError as error:
                raise StorageFailed(f"{self._location} can't be read: {error.strerror}") from error
            if not piece:
                raise ArchiveInvalid(f"{self._location} became shorter while it was read")
            pieces.append(piece)
            offset, wanted = offset + len(piece), wanted - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class HeldBytes(Content):
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """See `Content.read`."""
        return self._data[offset : offset + size_bytes]


class Files(abc.ABC):
    """Files by their path inside a source."""

    location: str

    @abc.abstractmethod
    def open(self, name: str, stack: ExitStack) -> Content | None:
        """A file, usable until `stack` is closed; None if there is none of that name.

        Raises:
            ArchiveInvalid: the name is a link or anything else than a file.
        """

    def read_json(self, name: str) -> bytes:
        """A whole small file.

        Raises:
            ArchiveInvalid: it is absent, or larger than `archive_json_max_bytes`.
        """
        with ExitStack() as stack:
            content = self.open(name, stack)
            if content is None:
                raise ArchiveInvalid(f"{self.location} has no {name}")
            return read_small(content, f"{name} in {self.location}")


class DirectoryFiles(Files):
    """Files below a directory; no component of a path may be a symbolic link."""

    def __init__(self, location: str, handle: int) -> None:
        self.location, self._root = location, handle

    def open(self, name: str, stack: ExitStack) -> Content | None:
        """See `Files.open`."""
        *directories, last = name.split("/")
        with ExitStack() as walk:
            parent = self._root
            try:
                for each in directories:
                    parent = os.open(each, _DIRECTORY_FLAGS, dir_fd=parent)
                    walk.callback(close_read, parent)
                handle = os.open(last, _FILE_FLAGS, dir_fd=parent)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise self._refused(name, error) from error
        stack.callback(close_read, handle)
        with storage_errors(f"look at {name} in {self.location}"):
            found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ArchiveInvalid(f"{name} in {self.location} is not a regular file")
        return FileRange(handle, 0, found.st_size, f"{name} in {self.location}")

    def _refused(self, name: str, error: OSError) -> ArchiveInvalid:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return ArchiveInvalid(f"{name} in {self.location} is, or lies behind, a symbolic link or a non-directory")
        return ArchiveInvalid(f"{name} in {self.location} can't be opened: {error.strerror}")


class TarFiles(Files):
    """Members of a tar file."""

    def __init__(self, location: str, handle: int) -> None:
        self.location, self._handle = location, handle
        self._members = index_tar(handle, location)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def open(self, name: str, stack: ExitStack) -> Content | None:
        """See `Files.open`."""
        del stack
        member = self._members.get(name)
        return self._range(name, member) if member is not None else None

    def open_linked(self, name: str) -> Content:
        """A file that may be reached over symbolic links inside the archive, as `docker save` makes for equal layers.

        Raises:
            ArchiveInvalid: it is absent, or a link leads outside or in a circle.
        """
        path = posixpath.normpath(name)
        for _ in range(symlink_hops_max):
            member = self._members.get(path)
            if member is None:
                raise ArchiveInvalid(f"{self.location} has no {path!r:.200}, which it names as {name!r:.200}")
            if member.kind is not Kind.SYMLINK:
                return self._range(path, member)
            # A target that leads outside is no member's name, since those are checked.
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.target))
        raise ArchiveInvalid(f"{name!r:.200} in {self.location} leads over more than {symlink_hops_max} symbolic links")

    def _range(self, name: str, member: Member) -> Content:
        where = f"{name} in {self.location}"
        if member.kind is not Kind.FILE:
            raise ArchiveInvalid(f"{where} is {member.kind.value}, where a file is expected")
        return FileRange(self._handle, member.start, member.size_bytes, where)


class Entry(msgspec.Struct, frozen=True):
    """A manifest that a source offers by itself, with the tags it has there."""

    descriptor: Descriptor
    tags: tuple[TagName, ...]


class Source(abc.ABC):
    """Images in a source: entry points, and content by digest."""

    location: str

    @abc.abstractmethod
    def entries(self) -> list[Entry]:
        """The manifests offered, each digest once.

        Raises:
            ArchiveInvalid: the list can't be read.
        """

    @abc.abstractmethod
    def open(self, digest: Digest, stack: ExitStack) -> Content | None:
        """The content under a digest, not verified, usable until `stack` is closed; None if there is none.

        Raises:
            ArchiveInvalid: what stands in its place is not a file.
        """

    def size_of(self, digest: Digest) -> int | None:
        """How large the content under a digest is; None if there is none."""
        with ExitStack() as stack:
            content = self.open(digest, stack)
            return content.size_bytes if content is not None else None


def close_read(handle: int) -> None:
    """Close a descriptor that was only read from: whatever comes of it, it is gone and nothing is lost."""
    with contextlib.suppress(OSError):
        os.close(handle)


def read_small(content: Content, what: str) -> bytes:
    """All of a document.

    Raises:
        ArchiveInvalid: it is larger than `archive_json_max_bytes`.
    """
    if content.size_bytes > archive_json_max_bytes:
        raise ArchiveInvalid(f"{what} has {content.size_bytes} bytes; at most {archive_json_max_bytes} are read")
    return content.read(0, content.size_bytes)


def decode_document(body: bytes, what: str, kind: type[Document]) -> Document:
    """A JSON document of a known shape.

    Raises:
        ArchiveInvalid: it is not JSON, or not of that shape.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArchiveInvalid(f"{what} can't be read: {error}") from error
