"""What the stand-in holds: buckets of objects with versions, and multipart uploads. In memory, long bodies in files."""

from __future__ import annotations

import bisect
import datetime as dt
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fastcrc import crc64

IN_MEMORY_MAX_BYTES = 1024 * 1024
NULL_VERSION = "null"
_numbers = itertools.count(1)


class Body:
    """Bytes, written once: in memory while they are few, else in a file without a name, which goes when nobody reads it.
    Forgotten ones are only counted and summed, and can't be read."""

    def __init__(self, expected_bytes: int | None, *, wants_md5: bool, is_forgotten: bool = False) -> None:
        self.size = 0
        self._is_forgotten = is_forgotten
        self.crc = 0
        self._md5 = hashlib.md5(usedforsecurity=False) if wants_md5 else None
        self._memory = bytearray()
        is_long = expected_bytes is None or expected_bytes > IN_MEMORY_MAX_BYTES
        # It is closed when its last reader lets go of it.
        self.file = tempfile.TemporaryFile(buffering=0) if is_long and not is_forgotten else None  # noqa: SIM115

    def append(self, data: bytes) -> None:
        self.crc = crc64.xz(data, self.crc) if self.size else crc64.xz(data)
        if self._md5 is not None:
            self._md5.update(data)
        if self.file is not None:
            view = memoryview(data)
            while view:
                view = view[os.write(self.file.fileno(), view) :]
        elif not self._is_forgotten:
            self._memory += data
        self.size += len(data)

    @property
    def md5(self) -> bytes | None:
        return self._md5.digest() if self._md5 is not None else None

    @property
    def etag(self) -> str:
        """The MD5, as of the real ones; where it was not asked for, 32 digits that are as good: it would cost more than all the
        rest that a bench measures."""
        if self._md5 is not None:
            return self._md5.hexdigest().upper()
        return f"{self.crc:016X}{self.size:016X}"

    def read(self, start: int, stop: int) -> bytes:
        assert not self._is_forgotten, "this bucket forgets bytes"
        if self.file is not None:
            return os.pread(self.file.fileno(), stop - start, start)
        return bytes(self._memory[start:stop])


@dataclass
class Version:
    """One version of an object, or a delete marker, which has no bodies."""

    version_id: str
    bodies: list[Body] | None
    etag: str = ""
    crc: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "Normal"
    modified: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    @property
    def size(self) -> int:
        return sum(body.size for body in self.bodies or ())

    def pieces(self, start: int, stop: int) -> Iterator[tuple[Body, int, int]]:
        """Which body has which bytes of a range."""
        at = 0
        for body in self.bodies or ():
            first, last = max(start, at), min(stop, at + body.size)
            if first < last:
                yield body, first - at, last - at
            at += body.size


@dataclass
class Multipart:
    """An upload in parts."""

    upload_id: str
    key: str
    headers: dict[str, str]
    parts: dict[int, Body] = field(default_factory=dict)
    started: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))


class Bucket:
    """Objects by key."""

    def __init__(self, name: str, region: str, versioning: str = "", *, forgets: bool = False) -> None:
        self.name, self.region, self.versioning = name, region, versioning
        self.forgets = forgets
        """For benches of uploads: what is measured shall not be this machine's memory or disk."""
        self.multiparts: dict[str, Multipart] = {}
        self.undeletable: set[str] = set()
        """Keys that a retention rule keeps."""
        self._versions: dict[str, list[Version]] = {}
        self._keys: list[str] = []

    def current(self, key: str) -> Version | None:
        """What a GET without a version finds."""
        versions = self._versions.get(key)
        return versions[-1] if versions and versions[-1].bodies is not None else None

    def latest(self, key: str) -> Version | None:
        """The newest version, also if it is a delete marker."""
        versions = self._versions.get(key)
        return versions[-1] if versions else None

    def version(self, key: str, version_id: str) -> Version | None:
        return next((each for each in self._versions.get(key, ()) if each.version_id == version_id), None)

    def add(self, key: str, version: Version) -> None:
        """Put a version on top; where the bucket keeps none it replaces what was there."""
        if self.versioning == "Enabled":
            version.version_id = f"CAEQ{next(_numbers):028d}"
        else:
            version.version_id = NULL_VERSION
            self._drop(key, NULL_VERSION)
        if key not in self._versions:
            bisect.insort(self._keys, key)
        self._versions.setdefault(key, []).append(version)

    def delete(self, key: str) -> Version | None:
        """Delete without naming a version: the marker made, if the bucket keeps versions."""
        if not self.versioning:
            self._drop(key, NULL_VERSION)
            return None
        marker = Version(NULL_VERSION, None)
        self.add(key, marker)
        return marker

    def delete_version(self, key: str, version_id: str) -> None:
        self._drop(key, version_id)

    def _drop(self, key: str, version_id: str) -> None:
        versions = self._versions.get(key)
        if versions is None:
            return
        versions[:] = [each for each in versions if each.version_id != version_id]
        if not versions:
            del self._versions[key]
            del self._keys[bisect.bisect_left(self._keys, key)]

    def keys(self, prefix: str, after: str) -> Iterator[str]:
        """Keys with a prefix behind another, in order; with those whose newest version is a marker."""
        at = max(bisect.bisect_right(self._keys, after), bisect.bisect_left(self._keys, prefix))
        keys = self._keys
        while at < len(keys) and keys[at].startswith(prefix):
            yield keys[at]
            at += 1

    def versions(self, key: str) -> Sequence[Version]:
        """The newest first."""
        return self._versions.get(key, [])[::-1]
