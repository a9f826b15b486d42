"""The daemon as people start it: a process of its own on a free port of the loopback, asked over HTTP."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
START_S = 60


class Daemon:
    """`blobstore serve` on a store in a directory; killed at the end if it is still there."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        config: str | None = None,
        store: str = "store",
        bucket: str | None = None,
    ) -> None:
        self._directory, self._arguments = directory, list(arguments)
        self.store = directory / store
        self.place = ["--store", str(self.store)]
        """How the command line is told of the store. Of one in a bucket `store` holds the index."""
        if bucket is not None:
            self.place = ["--store", bucket, "--index", f"lmdb://{self.store}/index"]
        self._log = directory / "serve.log"
        if config is not None:
            self.config = directory / "blobstore.toml"
            self.config.write_text(config)
            self._arguments += ["--config", str(self.config)]
        self.process: subprocess.Popen[bytes] | None = None
        self.said: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._close_output()
        # Workers see that it is gone, and go.
        wait_for(lambda: not self._leftovers(), "the workers to go")

    def _close_output(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def start(self, *more: str, environment: dict[str, str] | None = None, pass_fds: Sequence[int] = ()) -> None:
        """Start it, and wait until it says that it serves."""
        command = [sys.executable, "-m", "blobstore", "serve", "--json", *self.place]
        if not any(each.startswith("--listen") for each in (*self._arguments, *more)):
            command += ["--listen", "127.0.0.1:0"]
        self._close_output()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self._arguments, *more],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                pass_fds=pass_fds,
            )
        assert self.process.stdout is not None
        text = b""
        while line := self.process.stdout.readline():
            text += line
            if line == b"}\n":
                self.said = json.loads(text)
                return
        raise AssertionError(f"it did not start ({self.process.wait()}): {self.log()}")

    def log(self) -> str:
        """What it said on standard error."""
        return self._log.read_text(errors="replace")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        found = urlsplit(self.said["listen"][0])
        assert found.hostname is not None
        assert found.port is not None
        return found.hostname, found.port

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """The processes that it started to serve clients."""
        return [pid for pid in children(self.pid) if _command(pid).endswith(b"\0worker\0")]

    def _leftovers(self) -> list[int]:
        mine = str(self.store).encode()
        return [pid for pid in _pids() if b"blobstore.server" in _command(pid) and mine in _plan_of(pid)]

    def send(self, number: signal.Signals) -> None:
        """A signal to the process that was started."""
        os.kill(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 40) -> int:
        """Send a signal and wait; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def client(self) -> Client:
        """Somebody who asks."""
        return Client(self.address)


class Client:
    """One connection, with as much of the protocol as tests of the daemon need."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.connection = http.client.HTTPConnection(*address, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request and its answer. A connection that ends before the answer is an error."""
        self.connection.request(method, path, body=body, headers=headers or {})
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def begin(self, repository: str) -> str:
        """Begin an upload; returns where it goes on."""
        status, headers, _ = self.ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        assert status == 202
        return place(headers)

    def push(self, repository: str, data: bytes) -> str:
        """Push a blob; returns its digest."""
        location = self.begin(repository)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        status, _, body = self.ask("PUT", with_digest(location, digest), data, _BYTES)
        assert status == 201, body
        return digest

    def push_image(self, repository: str, tag: str, layers: Sequence[bytes]) -> str:
        """Push blobs and a manifest; returns its digest."""
        config = b"{}"
        described = [
            {"mediaType": f"application/vnd.oci.image.{kind}", "digest": self.push(repository, data), "size": len(data)}
            for kind, data in (("config.v1+json", config), *(("layer.v1.tar", layer) for layer in layers))
        ]
        media_type = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": media_type, "config": described[0], "layers": described[1:]}
        body = json.dumps(manifest).encode()
        status, headers, said = self.ask("PUT", f"/v2/{repository}/manifests/{tag}", body, {"Content-Type": media_type})
        assert status == 201, said
        return headers["Docker-Content-Digest"]

    def pull(self, repository: str, digest: str) -> bytes:
        """A blob, whose bytes are checked."""
        status, _, data = self.ask("GET", f"/v2/{repository}/blobs/{digest}")
        assert status == 200, data
        assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
        return data


_BYTES = {"Content-Type": "application/octet-stream"}


def place(headers: http.client.HTTPMessage) -> str:
    """Path and query of a Location."""
    found = urlsplit(headers["Location"])
    return found.path + (f"?{found.query}" if found.query else "")


def with_digest(location: str, digest: str) -> str:
    """Where an upload is closed."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def wait_for(is_so: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Processes outside can only be looked at again and again."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that a process started, and that are alive."""
    found = []
    for each in _pids():
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(each)
    return sorted(found)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _plan_of(pid: int) -> bytes:
    """Files of the store that a process has open."""
    try:
        return Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return b""
