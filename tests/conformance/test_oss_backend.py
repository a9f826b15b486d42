"""Aliyun OSS keeps what every backend promises: through oss2, against a stand-in that checks signatures and checksums."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore.abc.backend import Backend
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.backends.oss import OssClient, OssSettings
from blobstore.testing.backend_suite import BackendSuite
from tests.servers.oss_standin import KEY_ID, REGION, SECRET, OssStandin, oss_process, oss_server

__all__ = ["oss_process", "oss_server"]
MIB = 1024 * 1024


class OssTests(BackendSuite):
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


class TestSignatureV4(OssTests):
    """As it comes, but that parts are small, and all the rest with them: the long form has them as they are."""

    LISTED_KEYS = 2_100
    BIG_BYTES = 24 * MIB
    CANCELLED_AWAITS = 8
    SEVERAL_PARTS_BYTES = 5 * MIB
    part_bytes = 2 * MIB


class TestSignatureV1(OssTests):
    """The older signature; and parts so small that nearly every upload has several."""

    LISTED_KEYS = 1_100
    BIG_BYTES = 8 * MIB
    CANCELLED_AWAITS = 6
    SEVERAL_PARTS_BYTES = MIB
    signature = "v1"
    part_bytes = MIB // 4


@pytest.mark.long
class TestFullSize(OssTests):
    """Parts, objects and listings as large as they come, cancelled at each of many awaits."""

    SEVERAL_PARTS_BYTES = 20 * MIB
