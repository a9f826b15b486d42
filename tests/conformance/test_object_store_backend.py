"""The object store backend keeps what every backend promises, over a bucket in memory."""

from pathlib import Path

from blobstore.abc.backend import Backend
from blobstore.backends._multipart import PART_BYTES
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.testing.backend_suite import BackendSuite
from blobstore.testing.object_client import FakeObjectClient

MIB = 1024 * 1024


class TestObjectStoreBackend(BackendSuite):
    """Parts so small that nearly every upload has several; two on one bucket share its client, as the bytes are in there."""

    LISTED_KEYS = 2_500
    BIG_BYTES = 32 * MIB

    part_bytes = MIB // 2
    prefix = "a/store/"

    def make_backend(self, directory: Path) -> Backend:
        clients = self.__dict__.setdefault("clients", {})
        return ObjectStoreBackend(
            clients.setdefault(directory, FakeObjectClient()),
            prefix=self.prefix,
            spool_directory=str(directory / "spool"),
            part_bytes=self.part_bytes,
        )


class TestWholeObjects(TestObjectStoreBackend):
    """Parts of the usual size: most uploads are one request at their end."""

    part_bytes = PART_BYTES
    prefix = ""
