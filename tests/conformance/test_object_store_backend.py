"""The object store backend keeps what every backend promises, over a bucket in memory."""

from pathlib import Path

from blobstore.abc.backend import Backend
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.testing.backend_suite import BackendSuite
from blobstore.testing.object_client import FakeObjectClient

MIB = 1024 * 1024


class TestObjectStoreBackend(BackendSuite):
    """Parts of the size that they have against a real server."""

    def make_backend(self, directory: Path) -> Backend:
        return ObjectStoreBackend(FakeObjectClient(), prefix="a/store/", spool_directory=str(directory / "spool"))


class TestSmallParts(BackendSuite):
    """Parts so small that nearly every upload has several: the other half of the code."""

    def make_backend(self, directory: Path) -> Backend:
        client = FakeObjectClient()
        spool = str(directory / "spool")
        return ObjectStoreBackend(client, prefix="", spool_directory=spool, part_bytes=MIB // 2)
