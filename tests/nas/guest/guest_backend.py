"""The NAS backend keeps what every backend promises over the real NFS client and server. Run inside the guest."""

from __future__ import annotations

from pathlib import Path

from blobstore.abc.backend import Backend
from blobstore.backends.nas import NasBackend
from blobstore.testing.backend_suite import BackendSuite
from tests.nas.guest.server import new_place, place_of


class TestNfs3(BackendSuite):
    """Version 3, mounted with `nolock`."""

    def make_backend(self, directory: Path) -> Backend:
        return NasBackend(str(place_of("one", 3) / new_place()), str(directory / "state"))


class TestNfs4(BackendSuite):
    """Version 4.2."""

    def make_backend(self, directory: Path) -> Backend:
        return NasBackend(str(place_of("one", 4) / new_place()), str(directory / "state"))
