"""Strict reading of tar files on disk: where each member's bytes are, from the headers alone.

Not `tarfile`: it reads a pax or GNU long-name header of any announced size into memory, lets the last of several members of a
name win, and takes a truncated file for a whole one. Understood are POSIX ustar and pax (path, linkpath, size) and GNU's long
names and binary sizes (POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format").
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator

import msgspec

from blobstore.errors import ArchiveInvalid, StorageFailed

tar_members_max = 1_000_000
tar_extended_header_max_bytes = 64 * 1024
# Blobs of a layout need 145 characters at most, layers of `docker save` fewer; this bounds an index in memory.
tar_member_name_max_bytes = 1024

_BLOCK_BYTES = 512
_COMPARE_BYTES = 1024 * 1024
_SIZE_MAX_BYTES = 2**63 - 1
_SIZE_MAX_DIGITS = 19
_EMPTY_BLOCK = bytes(_BLOCK_BYTES)
_POSIX_MAGIC = b"ustar\x00"
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip (gunzip)",
    b"\x28\xb5\x2f\xfd": "zstd (unzstd)",
    b"BZh": "bzip2 (bunzip2)",
    b"\xfd7zXZ": "xz (unxz)",
}


class Kind(enum.Enum):
    """What a member is, as far as an image archive cares."""

    FILE = "a file"
    DIRECTORY = "a directory"
    SYMLINK = "a symbolic link"
    HARDLINK = "a hard link"
    SPECIAL = "a device or pipe"


class Member(msgspec.Struct, frozen=True):
    """A member's bytes in the tar file, or where a link leads."""

    kind: Kind
    start: int = 0
    size_bytes: int = 0
    target: str = ""


class _Extended(msgspec.Struct):
    """What headers before a member say of it, in place of its own."""

    path: str | None = None
    target: str | None = None
    size_bytes: int | None = None


_KINDS = {
    b"0": Kind.FILE,
    b"\x00": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.SPECIAL,
    b"4": Kind.SPECIAL,
    b"5": Kind.DIRECTORY,
    b"6": Kind.SPECIAL,
}


def index_tar(handle: int, location: str) -> dict[str, Member]:
    """All members of the tar file open at `handle`, by their name without leading "./"; blocks.

    Raises:
        ArchiveInvalid: it is truncated or compressed, a name leads outside or stands twice over different content, a header is
            malformed, or a limit of this module is passed.
        StorageFailed: the file can't be read.
    """
    try:
        return _Indexer(handle, location).run()
    except OSError as error:
        raise StorageFailed(f"{location} can't be read: {error.strerror}") from error


class _Indexer:
    def __init__(self, handle: int, location: str) -> None:
        self._handle, self._location = handle, location
        self._end = os.fstat(handle).st_size
        self._offset = 0
        self._members: dict[str, Member] = {}

    def run(self) -> dict[str, Member]:
        self._refuse_compressed()
        for count, (name, member) in enumerate(self._walk(), start=1):
            if count > tar_members_max:
                raise self._invalid(f"more than {tar_members_max} members")
            known = self._members.get(name)
            if known is None:
                self._members[name] = member
            elif not self._is_same(known, member):
                # Readers disagree whether the first or the last counts: what one checked, the other would use.
                raise self._invalid(f"{name!r} stands twice, with different content")
        return self._members

    def _refuse_compressed(self) -> None:
        start = os.pread(self._handle, 8, 0)
        for magic, name in _COMPRESSIONS.items():
            if start.startswith(magic):
                raise self._invalid(f"compressed with {name}; decompress it first, blobs are read from it in any order")

    def _walk(self) -> Iterator[tuple[str, Member]]:
        extended = _Extended()
        while (header := self._next_header()) is not None:
            flag = header[156:157]
            if flag in b"xgLK":
                self._read_extended(flag, self._body(_number(header[124:136])), extended)
                continue
            yield self._member(header, extended)
            extended = _Extended()

    def _next_header(self) -> bytes | None:
        """The next header block; None at the block of zeros that ends an archive."""
        header = os.pread(self._handle, _BLOCK_BYTES, self._offset)
        if len(header) < _BLOCK_BYTES:
            raise self._invalid(f"truncated: it ends at byte {self._end}, without an end mark")
        if header == _EMPTY_BLOCK:
            return None
        if _checksum(header) != _number(header[148:156]):
            what = "this is no tar archive" if self._offset == 0 else "the archive is damaged"
            raise self._invalid(f"{what}: no header at byte {self._offset}, as the checksum is wrong")
        self._offset += _BLOCK_BYTES
        return header

    def _body(self, size_bytes: int | None) -> bytes:
        """The body of an extended header."""
        if size_bytes is None or size_bytes > tar_extended_header_max_bytes:
            raise self._invalid(
                f"an extended header of {size_bytes} bytes before byte {self._offset}; "
                f"at most {tar_extended_header_max_bytes} are read"
            )
        start = self._skip(size_bytes)
        return os.pread(self._handle, size_bytes, start)

    def _skip(self, size_bytes: int) -> int:
        """Step over a body and its padding; returns where it starts."""
        start = self._offset
        if size_bytes > self._end - start:
            raise self._invalid(f"truncated: {size_bytes} bytes are announced at byte {start} of {self._end}")
        self._offset = start + -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
        return start

    def _read_extended(self, flag: bytes, body: bytes, extended: _Extended) -> None:
        if flag == b"L":
            extended.path = _text(body)
        elif flag == b"K":
            extended.target = _text(body)
        else:
            for key, value in self._pax_records(body):
                self._take_pax(key, value, extended, is_global=flag == b"g")

    def _pax_records(self, body: bytes) -> Iterator[tuple[bytes, bytes]]:
        at = 0
        while at < len(body):
            digits, separator, _ = body[at : at + 8].partition(b" ")
            length = int(digits) if separator and digits.isdigit() else 0
            key, equals, value = body[at + len(digits) + 1 : at + length].partition(b"=")
            if at + length > len(body) or not equals or not value.endswith(b"\n"):
                raise self._invalid(f"a malformed pax header before byte {self._offset}")
            yield key, value[:-1]
            at += length

    def _take_pax(self, key: bytes, value: bytes, extended: _Extended, *, is_global: bool) -> None:
        if key.startswith(b"GNU.sparse."):
            raise self._invalid("sparse members are not supported; make it with `tar` without --sparse")
        if key not in (b"path", b"linkpath", b"size"):
            return
        if is_global:
            raise self._invalid(f"a global pax header sets {key.decode()!r} for all members")
        if key == b"path":
            extended.path = _text(value)
        elif key == b"linkpath":
            extended.target = _text(value)
        elif value.isdigit() and len(value) <= _SIZE_MAX_DIGITS and int(value) <= _SIZE_MAX_BYTES:
            extended.size_bytes = int(value)
        else:
            raise self._invalid(f"{value!r:.40} is not the size of a member")

    def _member(self, header: bytes, extended: _Extended) -> tuple[str, Member]:
        flag = header[156:157]
        raw_name = extended.path if extended.path is not None else _own_name(header)
        name = self._checked_name(raw_name)
        size_bytes = extended.size_bytes if extended.size_bytes is not None else _number(header[124:136])
        if flag not in _KINDS or size_bytes is None:
            raise self._invalid(
                f"member {name!r} has type {flag!r} and size {header[124:136]!r}; neither may be unknown"
            )
        kind = _KINDS[flag]
        if kind is Kind.FILE and raw_name.endswith("/"):
            kind = Kind.DIRECTORY  # as tar wrote them before it had a type for them
        if kind is Kind.FILE:
            return name, Member(kind, self._skip(size_bytes), size_bytes)
        if size_bytes:
            # Some readers step over the bytes and some don't: the two would see different members.
            raise self._invalid(f"member {name!r} is {kind.value} with {size_bytes} bytes of content")
        return name, Member(kind, target=extended.target if extended.target is not None else _text(header[157:257]))

    def _checked_name(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\x00" in name:
            raise self._invalid(f"member {name!r:.200} leads outside of the archive")
        if len(name) > tar_member_name_max_bytes:
            raise self._invalid(
                f"a member name of {len(name)} characters; at most {tar_member_name_max_bytes} are read"
            )
        return "/".join(parts)

    def _is_same(self, one: Member, other: Member) -> bool:
        if one.kind is not Kind.FILE or other.kind is not Kind.FILE:
            return one == other
        if one.size_bytes != other.size_bytes:
            return False
        for at in range(0, one.size_bytes, _COMPARE_BYTES):
            length = min(_COMPARE_BYTES, one.size_bytes - at)
            if os.pread(self._handle, length, one.start + at) != os.pread(self._handle, length, other.start + at):
                return False
        return True

    def _invalid(self, what: str) -> ArchiveInvalid:
        return ArchiveInvalid(f"{self._location}: {what}")


def _number(field: bytes) -> int | None:
    """A size or checksum, octal or GNU's binary form; None if it is neither, negative, or too large."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
        return value if value <= _SIZE_MAX_BYTES else None
    digits = field.split(b"\x00", 1)[0].strip(b" ")
    if not digits:
        return 0
    # int() would also take a sign or underscores.
    return int(digits, 8) if not digits.strip(b"01234567") else None


def _checksum(header: bytes) -> int:
    """Of all bytes of the header, its own field counted as spaces."""
    return sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")


def _own_name(header: bytes) -> str:
    name = _text(header[:100])
    # The old GNU format has other fields where POSIX has the prefix.
    prefix = _text(header[345:500]) if header[257:263] == _POSIX_MAGIC else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\x00", 1)[0].decode("utf-8", "surrogateescape")
