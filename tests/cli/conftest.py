"""A command line run in this process, a store for it, and images to put in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from blobstore.cli import run

SEED = 20261121
OCI = "application/vnd.oci.image"


class Result(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    def document(self) -> Any:
        """Its JSON document; there is nothing else on standard output."""
        assert self.status == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command; fails the test if a traceback appears."""

    def call(*argv: str) -> Result:
        capfd.readouterr()
        status = run(list(argv))
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Result(status, out, err)

    return call


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the environment says the store is; nothing is there yet. The working directory is empty."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("BLOBSTORE_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("BLOBSTORE_INDEX", raising=False)
    monkeypatch.delenv("BLOBSTORE_DEBUG", raising=False)
    return tmp_path / "store"


@pytest.fixture
def store(cli: Cli, place: Path) -> Path:
    """An empty store."""
    assert cli("init").status == 0
    return place


class Layout:
    """An OCI image layout that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._layers = 0
        self._entries: list[dict[str, Any]] = []
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def layer(self, size: int = 3000) -> dict[str, Any]:
        """A layer that looks random and is the same in every run."""
        self._layers += 1
        data = hashlib.shake_256(f"{SEED} {self._layers}".encode()).digest(size)
        return self._blob(data, f"{OCI}.layer.v1.tar")

    def image(self, tag: str, layers: Sequence[dict[str, Any]], architecture: str = "amd64") -> str:
        """An image of these layers; returns its digest."""
        body = {"os": "linux", "architecture": architecture, "created_by": tag, "rootfs": {"type": "layers"}}
        config = self._blob(json.dumps(body).encode(), f"{OCI}.config.v1+json")
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": config,
            "layers": list(layers),
        }
        entry = self._blob(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")
        self._entries.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": self._entries}
        (self.path / "index.json").write_text(json.dumps(index))
        return str(entry["digest"])

    def _blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (self.path / "blobs" / "sha256" / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty image layout."""
    return Layout(tmp_path / "layout")


class Images(NamedTuple):
    """Two images in `library/app` that share a layer; `b` alone keeps three blobs: manifest, config, layer."""

    store: Path
    a: str
    b: str
    shared_layer: str
    layer_of_b: str


@pytest.fixture
def images(cli: Cli, store: Path, layout: Layout) -> Images:
    """A store with two images."""
    shared, own = layout.layer(), layout.layer(5000)
    a, b = layout.image("a", [shared]), layout.image("b", [shared, own])
    assert cli("import", str(layout.path), "library/app").status == 0
    return Images(store, a, b, shared["digest"], own["digest"])


def file_of(store: Path, digest: str) -> Path:
    """The file that holds a blob."""
    found = [path for path in store.glob("blobs/**/*") if path.is_file() and digest.partition(":")[2] in path.name]
    assert len(found) == 1, found
    return found[0]


def damage(store: Path, digest: str) -> None:
    """Change a byte of a blob on the disk."""
    path = file_of(store, digest)
    os.chmod(path, 0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
