"""The running daemon as its clients and its operator see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from blobstore.clock import random_hex
from tests.server.daemon import ROOT, Daemon, wait_for
from tests.server.operations.test_whole_daemon import AT_ONCE, collect

NO_SCHEDULE = "[server.collect]\nenabled = false\n"


class Registry(Daemon):
    """A daemon that collects only when it is told to."""

    def __init__(self, directory: Path, *arguments: str, config: str = "", bucket: str | None = None) -> None:
        super().__init__(directory, *arguments, config=NO_SCHEDULE + config, bucket=bucket)

    @property
    def name(self) -> str:
        """How clients name it."""
        return f"127.0.0.1:{self.address[1]}"

    def get(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        """One request of our own on a connection of its own."""
        with self.client() as client:
            return client.ask(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def run(self, **wanted: Any) -> Any:
        """A collection through the operator's API, to its report."""
        with self.client() as client:
            return collect(client, **wanted)

    def frees_at_once(self) -> Any:
        """A collection that frees whatever nothing needs at this moment, untagged manifests among it."""
        return self.run(policy=AT_ONCE)

    def command(self, *arguments: str) -> Any:
        """The command line on the daemon's store, while the daemon has it open."""
        done = subprocess.run(
            [sys.executable, "-m", "blobstore", *arguments, *self.place, "--config", str(self.config), "--json"],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def requests(self) -> list[dict[str, Any]]:
        """The lines of its access log, up to a request that is made now."""
        mark = f"/v2/mark/{random_hex(8)}/tags/list"
        self.get(mark)
        wait_for(lambda: mark in self.log(), "the access log")
        lines = (json.loads(line) for line in self.log().splitlines() if '"request"' in line)
        return [line for line in lines if line["event"] == "request"]

    def blob(self, repository: str, digest: str) -> bytes | None:
        """What is there, if it is."""
        status, _, data = self.get(f"/v2/{repository}/blobs/{digest}")
        assert status in (200, 404)
        return data if status == 200 else None

    def digest_of(self, repository: str, reference: str) -> str | None:
        """Which manifest a tag names."""
        accepted = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
        accepted += ", application/vnd.docker.distribution.manifest.v2+json"
        status, headers, _ = self.get(f"/v2/{repository}/manifests/{reference}", "HEAD", Accept=accepted)
        assert status in (200, 404)
        return headers["Docker-Content-Digest"] if status == 200 else None
