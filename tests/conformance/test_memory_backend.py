"""The memory backend keeps what every backend promises."""

from pathlib import Path

from blobstore.abc.backend import Backend
from blobstore.backends.memory import MemoryBackend
from blobstore.testing.backend_suite import BackendSuite


class TestMemoryBackend(BackendSuite):
    def make_backend(self, directory: Path) -> Backend:
        return MemoryBackend()
