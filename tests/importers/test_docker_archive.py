"""Importing what `docker save` wrote before and since version 25."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import blobstore
from blobstore.digest import Digest
from blobstore.errors import ArchiveInvalid
from blobstore.importers import import_image
from blobstore.importers._images import manifests_at_once
from blobstore.manifest import DOCKER_MANIFEST
from tests.importers.making import LayoutMaker, docker_files, read_blob, tags_of, write_tar

LAYERS = {"aaa/layer.tar": b"one" * 1000, "bbb/layer.tar": b"two"}


async def test_an_old_archive_becomes_a_schema_2_manifest(store: blobstore.Store, tmp_path: Path) -> None:
    """Config and layers arrive byte for byte under a Docker manifest, tagged by what follows the colon of its RepoTags."""
    files = docker_files(LAYERS, ["registry.example:5000/library/app:1.2", "app:latest"])
    report = await import_image(store, write_tar(tmp_path / "x.tar", files), "app")
    repository = store.repository("app")
    manifest = await repository.get_manifest("1.2")
    assert manifest.media_type == DOCKER_MANIFEST
    assert manifest.config is not None
    assert await read_blob(repository, str(manifest.config.digest)) == next(iter(files.values()))
    assert [await read_blob(repository, str(layer.digest)) for layer in manifest.layers] == list(LAYERS.values())
    assert await tags_of(repository) == {"1.2": str(manifest.digest), "latest": str(manifest.digest)}
    assert report.blobs_imported == 3


async def test_the_manifest_is_the_same_each_time(store: blobstore.Store, tmp_path: Path) -> None:
    """The same image in archives that name and order their files differently has the same digest."""
    files = docker_files(LAYERS, ["app:1"])
    renamed = docker_files({"x.tar": LAYERS["aaa/layer.tar"], "y.tar": LAYERS["bbb/layer.tar"]}, None)
    one = await import_image(store, write_tar(tmp_path / "1.tar", files), "one")
    two = await import_image(store, write_tar(tmp_path / "2.tar", dict(reversed(renamed.items()))), "two")
    assert one.manifests[0].digest == two.manifests[0].digest
    assert two.manifests[0].tags == ()


async def test_a_layer_may_be_a_link_to_another(store: blobstore.Store, tmp_path: Path) -> None:
    """Docker writes an equal layer as a symbolic link to the first; it is resolved inside the archive."""
    files = docker_files({"aaa/layer.tar": b"same", "bbb/layer.tar": b"same"}, ["app:1"])
    del files["bbb/layer.tar"]
    source = write_tar(tmp_path / "x.tar", files, {"bbb/layer.tar": "../aaa/layer.tar"})
    report = await import_image(store, source, "app")
    assert report.blobs_imported == 2
    assert len((await store.repository("app").get_manifest("1")).layers) == 2


async def test_an_archive_that_is_also_a_layout_is_read_as_one(
    store: blobstore.Store, maker: LayoutMaker, tmp_path: Path
) -> None:
    """Since version 25 `docker save` writes both forms in one tar: the layout's own manifest is imported, not a made one."""
    image = maker.image(maker.blob(b"layer"))
    maker.enter(image, "1", **{"io.containerd.image.name": "docker.io/library/app:1"})
    config = json.dumps([{"Config": "blobs/sha256/absent", "RepoTags": ["app:1"], "Layers": []}])
    maker.files["manifest.json"] = config.encode()
    await import_image(store, maker.write_tar(tmp_path / "x.tar"), "app")
    assert await tags_of(store.repository("app")) == {"1": image["digest"]}


async def test_several_images_share_layers(store: blobstore.Store, tmp_path: Path) -> None:
    """Images of one archive are told apart by their configs and share what is equal."""
    count = manifests_at_once + 1
    files: dict[str, bytes] = {}
    listed = []
    for number in range(count):
        made = docker_files(LAYERS, [f"app:{number}"], created=str(number))
        listed += json.loads(made.pop("manifest.json"))
        files |= made
    files["manifest.json"] = json.dumps(listed).encode()
    report = await import_image(store, write_tar(tmp_path / "x.tar", files), "app")
    assert report.blobs_imported == count + 2
    assert len(await tags_of(store.repository("app"))) == count


async def test_a_given_tag_needs_one_image(store: blobstore.Store, tmp_path: Path) -> None:
    """With a tag and two images in the archive, the error lists their tags."""
    one, two = docker_files(LAYERS, ["a:x"]), docker_files(LAYERS, ["a:y"], created="later")
    listed = json.loads(one["manifest.json"]) + json.loads(two["manifest.json"])
    files = {**one, **two, "manifest.json": json.dumps(listed).encode()}
    with pytest.raises(ArchiveInvalid, match=r"2 images.*x; y"):
        await import_image(store, write_tar(tmp_path / "x.tar", files), "app", "mine")


async def test_a_layer_that_is_not_its_diff_id_is_refused(store: blobstore.Store, tmp_path: Path) -> None:
    """A layer whose bytes are not what the config says fails the import, and no manifest is put."""
    files = docker_files(LAYERS, ["app:1"])
    files["aaa/layer.tar"] = b"eno" * 1000
    with pytest.raises(ArchiveInvalid, match=str(Digest.of(LAYERS["aaa/layer.tar"]))):
        await import_image(store, write_tar(tmp_path / "x.tar", files), "app")
    assert (await store.totals()).manifests == 0


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("manifest.json", b"{", "manifest.json .* can't be read"),
        ("manifest.json", b"[" * 100_000, "manifest.json .* can't be read"),
        ("manifest.json", b"[]", "no image"),
        ("manifest.json", b'[{"Config":"/etc/passwd","Layers":[]}]', "/etc/passwd"),
        ("manifest.json", b'[{"Config":"../../etc/passwd","Layers":[]}]', "etc/passwd"),
        ("manifest.json", b'[{"Config":"aaa/layer.tar","Layers":[]}]', "can't be read"),
        ("manifest.json", b" " * (4 * 1024 * 1024 + 1), "at most 4194304"),
        ("aaa/layer.tar", b"\x1f\x8b" + os.urandom(100), "is compressed"),
    ],
)
async def test_a_spoilt_archive_is_refused(
    store: blobstore.Store, tmp_path: Path, path: str, data: bytes, message: str
) -> None:
    """A broken list, a config from elsewhere and a compressed layer are each refused by name."""
    files = docker_files(LAYERS, ["app:1"]) | {path: data}
    with pytest.raises(ArchiveInvalid, match=message):
        await import_image(store, write_tar(tmp_path / "x.tar", files), "app")


async def test_the_number_of_layers_must_agree(store: blobstore.Store, tmp_path: Path) -> None:
    """A config with fewer layers than the list names is refused."""
    files = docker_files(LAYERS, ["app:1"], rootfs={"type": "layers", "diff_ids": []})
    with pytest.raises(ArchiveInvalid, match=r"lists 0 layers, manifest\.json lists 2"):
        await import_image(store, write_tar(tmp_path / "x.tar", files), "app")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "layer.tar", "../absent/layer.tar"])
async def test_a_link_that_leads_elsewhere_is_refused(store: blobstore.Store, tmp_path: Path, target: str) -> None:
    """A layer that is a link outside of the archive, to itself, or to nothing is refused."""
    files = docker_files(LAYERS, ["app:1"])
    del files["aaa/layer.tar"]
    with pytest.raises(ArchiveInvalid, match=r"aaa/layer\.tar"):
        await import_image(store, write_tar(tmp_path / "x.tar", files, {"aaa/layer.tar": target}), "app")
