"""The NAS backend keeps what every backend promises, here in a local directory; on real mounts see tests/nas."""

from pathlib import Path

from blobstore.abc.backend import Backend
from blobstore.backends.nas import NasBackend
from blobstore.testing.backend_suite import BackendSuite


class TestNasBackend(BackendSuite):
    def make_backend(self, directory: Path) -> Backend:
        return NasBackend(str(directory / "store"), str(directory / "state"))
