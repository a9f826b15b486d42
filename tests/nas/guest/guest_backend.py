"""The NAS backend keeps what every backend promises over the real NFS client and server. Run inside the guest."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from blobstore.abc.backend import Backend
from blobstore.backends.nas import NasBackend
from blobstore.testing.backend_suite import BackendSuite
from tests.nas.guest.server import place_of

MIB = 1024 * 1024


class _OverNfs(BackendSuite):
    """With fewer and smaller objects: the guest has one slow processor."""

    LISTED_KEYS = 1100
    BIG_BYTES = 16 * MIB
    SEVERAL_PARTS_BYTES = MIB
    CANCELLED_AWAITS = 6
    VERSION: ClassVar[int]

    def make_backend(self, directory: Path) -> Backend:
        return NasBackend(str(place_of("one", self.VERSION) / directory.name), str(directory / "state"))


class TestNfs3(_OverNfs):
    """Version 3, mounted with `nolock`."""

    VERSION = 3


class TestNfs4(_OverNfs):
    """Version 4.2."""

    VERSION = 4
