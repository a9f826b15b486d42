"""The memory backend keeps what every backend promises, also when it names its bytes as an object store does."""

from pathlib import Path

from blobstore.abc.backend import Backend
from blobstore.backends.memory import MemoryBackend
from blobstore.testing.backend_suite import BackendSuite


class TestMemoryBackend(BackendSuite):
    def make_backend(self, directory: Path) -> Backend:
        return MemoryBackend()

    def make_another(self, backend: Backend, directory: Path) -> Backend:
        another = self.make_backend(directory)
        vars(another).update(vars(backend))
        return another


class TestMemoryBackendThatCannotRename(TestMemoryBackend):
    def make_backend(self, directory: Path) -> Backend:
        return MemoryBackend(renames=False)
