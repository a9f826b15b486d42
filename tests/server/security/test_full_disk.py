"""S21: below the low-water mark nobody fills the disk further, and everything that frees it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import blobstore
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.room import DiskRoom
from blobstore.testing import FakeClock
from blobstore.testing.fakes import image
from tests.server.security.guest import Guest
from tests.spec.client import Body, Client, digest


async def test_a_disk_that_is_nearly_full_takes_no_more(tmp_path: Path, clock: FakeClock) -> None:
    """507 before a byte is read, whoever asks; pulls, deletes, and the end of what was begun go on; and uploads too, once there
    is room again."""
    free = shutil.disk_usage(tmp_path).free
    low_water = DiskRoom([str(tmp_path)], free * 2, clock)
    async with blobstore.open(str(tmp_path / "store"), create=True) as store:
        before = Guest(Registry(store))
        await before.push_image("v1", "a")
        begun = await before.begin("a")
        await before.patch(begun, b"layer two")
        client = Client(Registry(store, room=low_water))
        for method, url in (
            ("POST", "/v2/a/blobs/uploads/"),
            ("POST", f"/v2/a/blobs/uploads/?digest={digest(b'x')}"),
            ("PATCH", begun),
        ):
            body = Body(b"x")
            assert (await client.ask(method, url, body)).status == 507
            assert not body.was_read
        assert (await client.put(begun, digest=digest(b"layer two"))).status == 201
        manifest = image(b"config one", [b"layer two"]).body
        assert (await client.get("/v2/a/manifests/v1")).status == 200
        assert (await client.delete("/v2/a/manifests/v1")).status == 202
        assert (await client.head(f"/v2/a/blobs/{digest(b'layer two')}")).status == 200
        roomy = Client(Registry(store, room=DiskRoom([str(tmp_path)], 1, clock)))
        assert (
            await roomy.put(
                "/v2/a/manifests/v2", manifest, headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
            )
        ).status == 201
