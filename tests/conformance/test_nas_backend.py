"""The NAS backend keeps what every backend promises, here in a local directory; on real mounts see tests/nas."""

from pathlib import Path

from blobstore.abc.backend import Backend
from blobstore.backends.nas import NasBackend
from blobstore.testing.backend_suite import BackendSuite


class TestNasBackend(BackendSuite):
    # What is larger runs over the filesystem backend, which has the same code above the calls.
    LISTED_KEYS = 2500
    BIG_BYTES = 32 * 1024 * 1024
    CANCELLED_AWAITS = 10

    def make_backend(self, directory: Path) -> Backend:
        return NasBackend(str(directory / "store"), str(directory / "state"))
