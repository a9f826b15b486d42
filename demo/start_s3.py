"""Starts an S3 server for the demo, SeaweedFS, with an empty bucket, and leaves it running."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = "registry"
START_S = 90
# Each of its services listens a second time, so many ports higher.
SECOND_PORT = 10_000


def main(directory: str) -> None:
    """Serve from below `directory`, write `server.pid` and, once it answers, `blobstore.toml` there, and go."""
    work = Path(directory)
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    identity = {"name": "demo", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
    (work / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (work / "weed").mkdir()
    ports = free_ports(4)
    process = start(work, ports)
    (work / "server.pid").write_text(str(process.pid))
    endpoint = f"http://127.0.0.1:{ports[3]}"
    make_bucket(endpoint, process)
    (work / "blobstore.toml").write_text(
        f'store = "s3://{BUCKET}/demo"\n\n[s3]\nendpoint = "{endpoint}"\nregion = "us-east-1"\n'
    )


def start(work: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    """The whole server in one process, on the loopback only."""
    master, volume, filer, s3 = ports
    command = [
        *("weed", "-logtostderr", "server", f"-dir={work / 'weed'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={work / 's3.json'}"),
        *("-master.electionTimeout=500ms", "-master.heartbeatInterval=100ms", "-master.volumeSizeLimitMB=64"),
    ]
    with (work / "weed.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - a command of our own making
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=work, start_new_session=True
        )


def make_bucket(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    """Ask until the server is up."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    end = time.monotonic() + START_S
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"SeaweedFS did not start: {error}") from error
            time.sleep(0.2)
        else:
            return


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, nor on those that belong to them."""
    found: list[int] = []
    at = 20_000 + os.getpid() % 10_000
    while len(found) < count:
        at += 1
        if is_free(at) and is_free(at + SECOND_PORT):
            found.append(at)
    return found


def is_free(port: int) -> bool:
    """Whether somebody could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit(130)
