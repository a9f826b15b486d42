"""The daemon and Debian's docker-registry, each on a free port, and one client for both that costs as little as Python can."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from _harness import MIB

from tests.servers.processes import clean_environment, free_ports, running, wait_until

OURS, PEER = "blobstore", "docker-registry"
ROOT = Path(__file__).resolve().parent.parent
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_BYTES = "Content-Type: application/octet-stream"
_PEER_CONFIG = """\
version: 0.1
log: {{level: info}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
  cache: {{blobdescriptor: inmemory}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
_RATE = re.compile(r"^Requests per second:\s+([0-9.]+)", re.MULTILINE)
_ERRORS = re.compile(r"^(?:Failed requests|Non-2xx responses):\s+([1-9][0-9]*)", re.MULTILINE)


@dataclass(frozen=True)
class Server:
    """One that runs."""

    name: str
    port: int
    pid: int
    root: Path

    def forget_blobs(self) -> None:
        """Give the disk the space of big blobs back; they are not asked for again."""
        for path in self.root.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_size >= MIB and "index" not in path.parts:
                    path.unlink()


@contextlib.contextmanager
def our_server(path: Path, *, workers: int = 1, store: Path | None = None, config: str = "") -> Iterator[Server]:
    """`blobstore serve` as anybody starts it; every request is logged into a file."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "blobstore.toml").write_text(config)
    (port,) = free_ports(1)
    root = store or path / "store"
    command = [sys.executable, "-m", "blobstore", "serve", "--store", str(root), "--listen", f"127.0.0.1:{port}"]
    command += ["--workers", str(workers), "--config", str(path / "blobstore.toml")]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    with running(command, path, name=OURS, environment=environment) as process:
        wait_until(lambda: "serving" in (path / f"{OURS}.log").read_text(), OURS, process, path / f"{OURS}.log")
        yield Server(OURS, port, process.pid, root)


@contextlib.contextmanager
def peer_server(path: Path) -> Iterator[Server]:
    """Debian's docker-registry 2.8 with its usual settings: blobs in files, descriptors cached in memory, requests logged."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry (apt-get install docker-registry)")
    path.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1, and_offset=1)
    (path / "config.yml").write_text(_PEER_CONFIG.format(root=path / "root", port=port))
    with running([program, "serve", "config.yml"], path, name=PEER, environment=clean_environment()) as process:
        wait_until(lambda: _listens(port), PEER, process, path / f"{PEER}.log")
        yield Server(PEER, port, process.pid, path / "root")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# The client


class Connection:
    """One connection, kept. Requests are sent in one piece, so that no answer waits for a delayed acknowledgement."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(4 * MIB))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, method: str, target: str, *fields: str, body: Sequence[bytes] = (), wanted: int) -> dict[str, str]:
        """One request; returns the header fields of its answer, whose body is thrown away."""
        size = sum(map(len, body))
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *fields]
        if method not in ("GET", "HEAD"):
            lines.append(f"Content-Length: {size}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if size <= 64 * 1024:
            self._socket.sendall(head + b"".join(body))
        else:
            self._socket.sendall(head)
            for piece in body:
                self._socket.sendall(piece)
        return self._answer(method, wanted)

    def _answer(self, method: str, wanted: int) -> dict[str, str]:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self._socket.recv(65536)
            assert piece, f"hung up after {data!r}"
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        assert first.split()[1] == str(wanted), f"{first}: {rest[:300]!r}"
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        left = int(fields.get("content-length", "0")) - len(rest) if method != "HEAD" else 0
        while left:
            taken = self._socket.recv_into(self._buffer, min(left, len(self._buffer)))
            assert taken, f"hung up with {left} bytes to come"
            left -= taken
        return fields

    def begin(self, repository: str) -> str:
        """Begin an upload."""
        return _target(self.ask("POST", f"/v2/{repository}/blobs/uploads/", wanted=202)["location"])

    def push_big(self, repository: str, pieces: Sequence[bytes], digest: str) -> None:
        """As docker does: one PATCH with all, and a PUT that closes it."""
        answered = self.ask("PATCH", self.begin(repository), _BYTES, body=pieces, wanted=202)
        self.ask("PUT", _closing(_target(answered["location"]), digest), wanted=201)

    def push_small(self, repository: str, data: bytes, digest: str) -> None:
        """As containerd does: is it there, and if not one PUT with all."""
        self.ask("HEAD", f"/v2/{repository}/blobs/{digest}", wanted=404)
        self.ask("PUT", _closing(self.begin(repository), digest), _BYTES, body=[data], wanted=201)

    def pull(self, repository: str, digest: str) -> None:
        """Read a blob and throw it away."""
        self.ask("GET", f"/v2/{repository}/blobs/{digest}", wanted=200)

    def push_image(self, repository: str, tag: str, layer: bytes) -> str:
        """A small image; returns the digest of its layer."""
        config = b'{"architecture":"amd64"}'
        described = []
        for data, kind in ((config, "config.v1+json"), (layer, "layer.v1.tar")):
            self.push_small(repository, data, digest_of([data]))
            media_type = f"application/vnd.oci.image.{kind}"
            described.append({"mediaType": media_type, "digest": digest_of([data]), "size": len(data)})
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
        body = [json.dumps(manifest).encode()]
        self.ask("PUT", f"/v2/{repository}/manifests/{tag}", f"Content-Type: {OCI_MANIFEST}", body=body, wanted=201)
        return digest_of([layer])


def digest_of(pieces: Sequence[bytes]) -> str:
    """Their sha256 digest."""
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


def _target(location: str) -> str:
    found = urlsplit(location)
    return found.path + (f"?{found.query}" if found.query else "")


def _closing(target: str, digest: str) -> str:
    return f"{target}{'&' if '?' in target else '?'}digest={digest}"


@dataclass
class Crowd:
    """Clients that each push small blobs of their own, one after the other; knows how long each push took."""

    server: Server
    clients: int
    layer_bytes: int
    seconds: list[float] = field(default_factory=list)

    def push(self, salt: str, count: int) -> None:
        """`count` layers in all."""
        wanted = len(self.seconds) + count // self.clients * self.clients
        threads = [
            threading.Thread(target=self._push, args=(f"{salt} {number}", count // self.clients))
            for number in range(self.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(self.seconds) == wanted, "a client failed"

    def _push(self, salt: str, count: int) -> None:
        layers = [hashlib.shake_128(f"{salt} {at}".encode()).digest(self.layer_bytes) for at in range(count)]
        digests = [digest_of([layer]) for layer in layers]
        connection = Connection(self.server)
        for layer, digest in zip(layers, digests, strict=True):
            start = time.perf_counter()
            connection.push_small(f"bench/{salt.replace(' ', '-')}", layer, digest)
            self.seconds.append(time.perf_counter() - start)
        connection.close()


def request_rate(server: Server, target: str, count: int, *options: str) -> float:
    """Requests a second, by ApacheBench with 16 connections that are kept."""
    program = shutil.which("ab")
    if program is None:
        pytest.skip("needs ab (apt-get install apache2-utils)")
    url = f"http://127.0.0.1:{server.port}{target}"
    command = [program, "-q", "-k", "-c", "16", "-n", str(count), *options, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment())
    found = _RATE.search(done.stdout)
    assert found is not None, done.stdout
    assert _ERRORS.search(done.stdout) is None, done.stdout
    return float(found[1])


def anonymous_bytes_of(pid: int) -> int:
    """Memory of a process that no file backs, and of its children the largest."""
    return max(_anonymous(each) for each in (pid, *_children(pid)))


def _anonymous(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024
    return 0


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(text) for text in file.read().split()]
    return []
