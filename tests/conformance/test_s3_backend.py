"""The S3 backend keeps what every backend promises, on every server that we have."""

import functools
import hashlib
from pathlib import Path
from typing import Any

import pytest

from blobstore.abc.backend import Backend
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.backends._s3_session import AwsSession, make_sdk_session
from blobstore.backends.s3 import PART_MIN_BYTES, S3Client, S3Settings
from blobstore.errors import StorageFailed
from blobstore.testing._backend_stage import found_keys
from blobstore.testing.backend_suite import BackendSuite
from tests.servers.processes import S3Server

MIB = 1024 * 1024


@functools.cache
def shared_sdk_session(settings: S3Settings) -> Any:
    """Each new one reads its models of the service anew, which would be half of the time of these tests."""
    return make_sdk_session(settings)


@pytest.mark.usefixtures("no_cloud")
class S3Suite(BackendSuite):
    """Each test's directory has a prefix of its own in the server's one bucket."""

    LISTED_KEYS = 2_100
    BIG_BYTES = 24 * MIB
    SEVERAL_PARTS_BYTES = 2 * PART_MIN_BYTES + MIB
    CANCELLED_AWAITS = 10
    UPLOADS_AT_ONCE = 16
    # Those that are kept for the next requests.
    KEPT_DESCRIPTORS = 12

    server: S3Server

    def make_backend(self, directory: Path) -> Backend:
        settings = S3Settings(
            bucket=self.server.bucket,
            endpoint=self.server.endpoint,
            access_key=self.server.access_key,
            secret_key=self.server.secret_key,
        )
        client = S3Client(settings, lambda each: AwsSession(each, shared_sdk_session(each)))
        return ObjectStoreBackend(
            RetryingClient(client),
            prefix=f"tests/{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}/",
            spool_directory=str(directory / "spool"),
            part_bytes=PART_MIN_BYTES,
        )


class TestWeed(S3Suite):
    # It sorts by directories.
    TRICKY_KEYS = tuple(f"blobs/sha256/{name}" for name in ("ab/a", "ab/a-b", "ab/b", "ab0", "ac/a", "b"))
    TRICKY_AFTERS = ("a", "blobs/", "blobs/sha256/ab/", "blobs/sha256/ab/aa", "c")

    @pytest.fixture(autouse=True)
    def _use(self, weed: S3Server) -> None:
        self.server = weed


class TestCeph(S3Suite):
    @pytest.fixture(autouse=True)
    def _use(self, ceph: S3Server) -> None:
        self.server = ceph


class TestMoto(S3Suite):
    @pytest.fixture(autouse=True)
    def _use(self, moto: S3Server) -> None:
        self.server = moto


async def test_a_listing_out_of_order_is_refused(tmp_path: Path, weed: S3Server, no_cloud: None) -> None:
    """SeaweedFS lists a directory before the names that sort between it and its slash: nobody may compare such a listing."""
    suite = TestWeed()
    suite.server = weed
    backend = suite.make_backend(tmp_path)
    await backend.open()
    try:
        for key in ("blobs/sha256/ab/x", "blobs/sha256/ab-foreign"):
            await backend.put(key, b"")
        with pytest.raises(StorageFailed, match="ab-foreign"):
            await found_keys(backend, "")
    finally:
        await backend.aclose()


del S3Suite
