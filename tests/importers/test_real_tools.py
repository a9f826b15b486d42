"""Images that umoci and Skopeo made of real files, through the store, and back to Skopeo."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

import blobstore
from blobstore.exporter import export_image
from blobstore.importers import import_image
from blobstore.manifest import DOCKER_MANIFEST
from tests.importers.making import read_blob, tags_of
from tests.tools import require_tool

# What every Debian has, of some megabytes: real layers compress and nest as random bytes don't.
_LAYERS = ("/usr/share/perl5", "/usr/lib/python3/dist-packages", "/etc")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image layout with tags `one` and `two`, whose images share their first layer."""
    umoci = require_tool("umoci")
    path = tmp_path_factory.mktemp("umoci") / "layout"
    run(umoci, "init", "--layout", str(path))
    run(umoci, "new", "--image", f"{path}:one")
    sources = [each for each in _LAYERS if Path(each).is_dir()]
    insert(umoci, path, "one", sources[0])
    run(umoci, "tag", "--image", f"{path}:one", "two")
    for each in sources[1:]:
        insert(umoci, path, "two", each)
    return str(path)


def insert(umoci: str, path: Path, tag: str, source: str) -> None:
    run(umoci, "insert", "--rootless", "--image", f"{path}:{tag}", source, "/data" + source)


def copy(source: str, target: str) -> None:
    run(require_tool("skopeo"), "--insecure-policy", "copy", source, target)


def skopeo_digest(path: Path) -> str:
    return digest_of((path / "manifest.json").read_bytes())


async def test_a_umoci_layout_arrives(store: blobstore.Store, layout: str) -> None:
    """Both tags name the manifests they name in the layout, and every blob is the file it was."""
    report = await import_image(store, layout, "debian/pieces")
    repository = store.repository("debian/pieces")
    listed = json.loads((Path(layout) / "index.json").read_bytes())["manifests"]
    expected = {each["annotations"]["org.opencontainers.image.ref.name"]: each["digest"] for each in listed}
    assert await tags_of(repository) == expected
    assert report.blobs_imported >= 4
    manifest = await repository.get_manifest("two")
    for layer in manifest.layers:
        assert (
            await read_blob(repository, str(layer.digest))
            == (Path(layout) / "blobs" / "sha256" / layer.digest.hex).read_bytes()
        )


@pytest.mark.parametrize("name", ["out", "out.tar"])
async def test_skopeo_reads_what_we_export(store: blobstore.Store, layout: str, tmp_path: Path, name: str) -> None:
    """Skopeo copies an exported image out again, and its files are those of the original layout, digest by digest."""
    await import_image(store, layout, "pieces")
    await export_image(store, "pieces", "two", str(tmp_path / name))
    kind = "oci-archive" if name.endswith(".tar") else "oci"
    await asyncio.to_thread(copy, f"{kind}:{tmp_path / name}:two", f"dir:{tmp_path / 'back'}")
    await asyncio.to_thread(copy, f"oci:{layout}:two", f"dir:{tmp_path / 'original'}")
    assert {each.name: each.read_bytes() for each in (tmp_path / "back").iterdir()} == {
        each.name: each.read_bytes() for each in (tmp_path / "original").iterdir()
    }
    manifest = await store.repository("pieces").get_manifest("two")
    assert skopeo_digest(tmp_path / "back") == str(manifest.digest)


async def test_a_skopeo_oci_archive_arrives(store: blobstore.Store, layout: str, tmp_path: Path) -> None:
    """An `oci-archive:` tar gives the image under its own tag, and under another one where that is asked for."""
    archive = tmp_path / "x.tar"
    await asyncio.to_thread(copy, f"oci:{layout}:one", f"oci-archive:{archive}:docker.io/library/pieces:1.0")
    await import_image(store, str(archive), "own")
    await import_image(store, str(archive), "other", "mine")
    expected = json.loads(tar_member(archive, "index.json"))["manifests"][0]["digest"]
    assert await tags_of(store.repository("own")) == {"1.0": expected}
    assert await tags_of(store.repository("other")) == {"mine": expected}


async def test_a_skopeo_oci_directory_arrives(store: blobstore.Store, layout: str, tmp_path: Path) -> None:
    """An `oci:` directory that Skopeo wrote two images into gives both."""
    for tag in ("one", "two"):
        await asyncio.to_thread(copy, f"oci:{layout}:{tag}", f"oci:{tmp_path / 'skopeo'}:{tag}")
    await import_image(store, str(tmp_path / "skopeo"), "pieces")
    assert set(await tags_of(store.repository("pieces"))) == {"one", "two"}


async def test_a_skopeo_docker_archive_arrives(store: blobstore.Store, layout: str, tmp_path: Path) -> None:
    """A `docker-archive:` tar becomes an image with the same config and layers; exported, Skopeo finds them again."""
    archive = tmp_path / "x.tar"
    await asyncio.to_thread(copy, f"oci:{layout}:two", f"docker-archive:{archive}:pieces:2.0")
    await import_image(store, str(archive), "pieces")
    repository = store.repository("pieces")
    manifest = await repository.get_manifest("2.0")
    assert manifest.media_type == DOCKER_MANIFEST
    listed = json.loads(tar_member(archive, "manifest.json"))[0]
    assert manifest.config is not None
    assert await read_blob(repository, str(manifest.config.digest)) == tar_member(archive, listed["Config"])
    assert [str(layer.digest) for layer in manifest.layers] == [
        digest_of(tar_member(archive, path)) for path in listed["Layers"]
    ]
    await export_image(store, "pieces", "2.0", str(tmp_path / "out"))
    # Without the tag: Skopeo looks for it at OCI media types only (skopeo issue 1975).
    await asyncio.to_thread(copy, f"oci:{tmp_path / 'out'}", f"dir:{tmp_path / 'back'}")
    config = json.loads((tmp_path / "back" / "manifest.json").read_bytes())["config"]
    diff_ids = json.loads((tmp_path / "back" / config["digest"].partition(":")[2]).read_bytes())["rootfs"]["diff_ids"]
    assert diff_ids == [str(layer.digest) for layer in manifest.layers]


async def test_a_layout_packed_by_tar_arrives(store: blobstore.Store, layout: str, tmp_path: Path) -> None:
    """A layout packed by GNU tar, in each of its formats, is the same as the directory."""
    tar = require_tool("tar")
    expected = await import_image(store, layout, "pieces")
    for form in ("gnu", "ustar", "pax", "oldgnu", "v7"):
        archive = str(tmp_path / f"{form}.tar")
        packing = "." if form != "v7" else "index.json oci-layout blobs"
        await asyncio.to_thread(run, tar, f"--format={form}", "-cf", archive, "-C", layout, *packing.split())
        report = await import_image(store, archive, f"pieces-{form}")
        assert report.manifests == expected.manifests


def tar_member(path: Path, name: str) -> bytes:
    with tarfile.open(path) as archive:
        found = archive.extractfile(name)
        assert found is not None
        return found.read()


async def test_umoci_unpacks_what_we_export(store: blobstore.Store, layout: str, tmp_path: Path) -> None:
    """Umoci accepts an exported layout as its own, and lists its tag."""
    await import_image(store, layout, "pieces")
    await export_image(store, "pieces", "one", str(tmp_path / "out"))
    listed = await asyncio.to_thread(run, require_tool("umoci"), "list", "--layout", str(tmp_path / "out"))
    assert listed.split() == ["one"]
