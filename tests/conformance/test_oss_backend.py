"""Aliyun OSS keeps what every backend promises: through oss2, against a stand-in that checks signatures and checksums."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore.abc.backend import Backend
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.backends.oss import OssClient, OssSettings
from blobstore.testing._backend_listing import ListingTests
from blobstore.testing._backend_resuming import ResumingTests
from blobstore.testing._backend_stage import BackendTests
from blobstore.testing._backend_uploads import UploadTests
from blobstore.testing.backend_suite import BackendSuite
from tests.servers.oss_standin import KEY_ID, REGION, SECRET, OssStandin, oss_process, oss_server

__all__ = ["oss_process", "oss_server"]
MIB = 1024 * 1024


class OnOss(BackendTests):
    """Each test has a bucket of its own."""

    # Every thread may leave one behind.
    KEPT_DESCRIPTORS = 32
    signature = "v4"
    versioning = ""
    part_bytes = 8 * MIB

    @pytest.fixture(autouse=True)
    def _server(self, oss_server: OssStandin) -> Iterator[None]:
        self.server = oss_server
        self.buckets: dict[Path, str] = {}
        yield
        for bucket in self.buckets.values():
            oss_server.ask("drop_bucket", name=bucket)

    def make_backend(self, directory: Path) -> Backend:
        if directory not in self.buckets:
            self.buckets[directory] = self.server.new_bucket(self.versioning)
        settings = OssSettings(
            bucket=self.buckets[directory],
            endpoint=self.server.endpoint,
            region=REGION,
            access_key_id=KEY_ID,
            access_key_secret=SECRET,
            signature=self.signature,  # type: ignore[arg-type]
        )
        client = RetryingClient(OssClient(settings))
        spool = str(directory / "spool")
        return ObjectStoreBackend(client, prefix="some/store", spool_directory=spool, part_bytes=self.part_bytes)


class TestSignatureV4(OnOss, BackendSuite):
    """Every test, with small parts."""

    LISTED_KEYS = 1_100
    BIG_BYTES = 24 * MIB
    CANCELLED_AWAITS = 6
    UPLOADS_AT_ONCE = 16
    SEVERAL_PARTS_BYTES = 5 * MIB
    part_bytes = 2 * MIB


@pytest.mark.asyncio
class TestSignatureV1(OnOss, UploadTests, ResumingTests):
    """The older signature, where requests differ most; and parts so small that nearly every upload has several."""

    BIG_BYTES = 4 * MIB
    UPLOADS_AT_ONCE = 6
    SEVERAL_PARTS_BYTES = MIB
    signature = "v1"
    part_bytes = MIB // 4


@pytest.mark.asyncio
class TestVersioned(OnOss, ListingTests):
    """What a bucket that keeps versions does otherwise: deletes, and the listings after them."""

    versioning = "Enabled"
    # A request for each: in the long form.
    test_thousands_of_keys = None  # type: ignore[assignment]
    test_abort_leaves_nothing = UploadTests.test_abort_leaves_nothing


@pytest.mark.long
class TestSignatureV4Fully(OnOss, BackendSuite):
    """Every test at its full size, with parts as they come."""

    SEVERAL_PARTS_BYTES = 20 * MIB


@pytest.mark.long
class TestSignatureV1Fully(OnOss, BackendSuite):
    """The same, with parts so small that nearly every upload has several."""

    signature = "v1"
    part_bytes = MIB // 4


@pytest.mark.long
class TestVersionedFully(OnOss, BackendSuite):
    """All of the suite: it counts on exclusive creation in one process alone."""

    LISTED_KEYS = 1_100
    SEVERAL_PARTS_BYTES = MIB
    versioning = "Enabled"
    part_bytes = MIB // 4
