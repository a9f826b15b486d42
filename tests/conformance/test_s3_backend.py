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
from blobstore.testing._backend_listing import ListingTests
from blobstore.testing._backend_resuming import ResumingTests
from blobstore.testing._backend_stage import BackendTests, found_keys
from blobstore.testing._backend_uploads import UploadTests
from blobstore.testing._backend_values import ValueTests
from blobstore.testing.backend_suite import BackendSuite
from tests.servers.processes import S3Server

MIB = 1024 * 1024


@functools.cache
def shared_sdk_session(settings: S3Settings) -> Any:
    """Each new one reads its models of the service anew, which would be half of the time of these tests."""
    return make_sdk_session(settings)


@pytest.mark.usefixtures("no_cloud")
class OnS3(BackendTests):
    """Each test's directory has a prefix of its own in the server's one bucket."""

    SEVERAL_PARTS_BYTES = 2 * PART_MIN_BYTES + MIB
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


class OnWeed(OnS3):
    # It sorts by directories.
    TRICKY_KEYS = tuple(f"blobs/sha256/{name}" for name in ("ab/a", "ab/a-b", "ab/b", "ab0", "ac/a", "b"))
    TRICKY_AFTERS = ("a", "blobs/", "blobs/sha256/ab/", "blobs/sha256/ab/aa", "c")

    @pytest.fixture(autouse=True)
    def _use(self, weed: S3Server) -> None:
        self.server = weed


class OnCeph(OnS3):
    @pytest.fixture(autouse=True)
    def _use(self, ceph: S3Server) -> None:
        self.server = ceph


class OnMoto(OnS3):
    @pytest.fixture(autouse=True)
    def _use(self, moto: S3Server) -> None:
        self.server = moto


class TestWeed(OnWeed, BackendSuite):
    """Every test, at small sizes."""

    LISTED_KEYS = 2_100
    BIG_BYTES = 24 * MIB
    CANCELLED_AWAITS = 6
    UPLOADS_AT_ONCE = 16


class Sample(ListingTests, ResumingTests):
    """What another server may do otherwise: lists, deletes, parts that are listed and joined, conditions. What we make of it all
    when we are cancelled, or given bad keys, is the same everywhere."""

    LISTED_KEYS = 1_010
    BIG_BYTES = 3 * PART_MIN_BYTES
    UPLOADS_AT_ONCE = 6

    test_ranges = ValueTests.test_ranges
    test_put_and_read = ValueTests.test_put_and_read
    test_put_replaces_the_whole = ValueTests.test_put_replaces_the_whole
    test_one_of_many_puts_wins = ValueTests.test_one_of_many_puts_wins
    test_big_objects = UploadTests.test_big_objects
    test_many_uploads_at_once = UploadTests.test_many_uploads_at_once
    test_one_digest_may_be_committed_many_times_at_once = (
        UploadTests.test_one_digest_may_be_committed_many_times_at_once
    )
    test_several_parts_are_visible_once_committed = UploadTests.test_several_parts_are_visible_once_committed
    test_a_commit_is_never_seen_in_part = UploadTests.test_a_commit_is_never_seen_in_part
    test_abort_leaves_nothing = UploadTests.test_abort_leaves_nothing


@pytest.mark.asyncio
class TestCeph(OnCeph, Sample):
    """A sample."""


@pytest.mark.asyncio
class TestMoto(OnMoto, Sample):
    """A sample, without what it is slow at: Ceph has pages of keys, too."""

    test_thousands_of_keys = None


@pytest.mark.long
@pytest.mark.timeout(1200)
class TestWeedFully(OnWeed, BackendSuite):
    """Every test at its full size."""


@pytest.mark.long
@pytest.mark.timeout(1200)
class TestCephFully(OnCeph, BackendSuite):
    """The same."""


@pytest.mark.long
@pytest.mark.timeout(1200)
class TestMotoFully(OnMoto, BackendSuite):
    """The same; it takes its time for each key."""

    LISTED_KEYS = 2_100


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
