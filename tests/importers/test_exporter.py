"""Exporting images as OCI image layouts."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

import blobstore
from blobstore import exporter
from blobstore.digest import Algorithm, Digest
from blobstore.errors import BlobDamaged, ManifestUnknown, Refused, StorageFailed, StorageFull
from blobstore.events import Event, Progress
from blobstore.exporter import export_image
from blobstore.importers import import_image
from tests.importers.making import LayoutMaker, tags_of


def files_below(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def files_in_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {each.name: archive.extractfile(each).read() for each in archive if each.isfile()}  # type: ignore[union-attr]


def exported(path: Path) -> dict[str, bytes]:
    return files_in_tar(path) if path.suffix == ".tar" else files_below(path)


def rich_image(maker: LayoutMaker) -> dict[str, Any]:
    """An image index over two images that share a layer, with a signature, and an SBOM of the signature."""
    shared = maker.blob(b"shared" * 1000)
    one = maker.image(shared, maker.blob(os.urandom(2_500_000)))
    two = maker.image(shared, maker.blob(b""))
    image = maker.image_index(one, two)
    signature = maker.image(maker.blob(b"signed"), subject=image, artifactType="application/vnd.example.signature")
    sbom = maker.image(maker.blob(b"bill"), subject=signature, artifactType="application/vnd.example.sbom")
    for entry in (signature, sbom):
        maker.enter(entry)
    return image


@pytest.fixture
def source(maker: LayoutMaker, tmp_path: Path) -> str:
    maker.enter(rich_image(maker), "1.0")
    return maker.write_tar(tmp_path / "source.tar")


@pytest.mark.parametrize("name", ["out", "out.tar"])
async def test_what_was_imported_is_exported(
    store: blobstore.Store, maker: LayoutMaker, source: str, tmp_path: Path, name: str
) -> None:
    """A layout holds the same blobs after a round through the store, and lists the image first, then its referrers."""
    await import_image(store, source, "app")
    report = await export_image(store, "app", "1.0", str(tmp_path / name))
    files = exported(tmp_path / name)
    index = json.loads(files.pop("index.json"))
    assert files == maker.files
    assert index["manifests"][0]["annotations"] == {"org.opencontainers.image.ref.name": "1.0"}
    assert {each["digest"] for each in index["manifests"]} == {each["digest"] for each in maker.entries}
    assert [each.get("annotations") for each in index["manifests"][1:]] == [None, None]
    assert (report.manifests, report.referrers, report.blobs) == (5, 2, 6)
    assert report.bytes_written == sum(map(len, exported(tmp_path / name).values()))
    assert sorted(each.name for each in tmp_path.iterdir()) == [name, "source.tar", "store"]


@pytest.mark.parametrize("name", ["out", "out.tar"])
async def test_an_export_can_be_imported(store: blobstore.Store, source: str, tmp_path: Path, name: str) -> None:
    """An exported image has the same tag, digest and referrers in the repository it is imported into."""
    await import_image(store, source, "app")
    await export_image(store, "app", "1.0", str(tmp_path / name))
    await import_image(store, str(tmp_path / name), "again")
    one, two = store.repository("app"), store.repository("again")
    assert await tags_of(one) == await tags_of(two)
    digest = (await one.get_manifest("1.0")).digest
    assert [each.digest async for each in one.referrers(digest)] == [
        each.digest async for each in two.referrers(digest)
    ]


async def test_the_same_image_gives_the_same_tar(store: blobstore.Store, source: str, tmp_path: Path) -> None:
    """Two exports are equal to the byte, and no header tells of this machine or moment."""
    await import_image(store, source, "app")
    await export_image(store, "app", "1.0", str(tmp_path / "1.tar"))
    await export_image(store, "app", "1.0", str(tmp_path / "2.tar"))
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    with tarfile.open(tmp_path / "1.tar") as archive:
        assert {(each.mtime, each.uid, each.uname) for each in archive} == {(0, 0, "")}


async def test_an_export_by_digest_has_no_tag(store: blobstore.Store, source: str, tmp_path: Path) -> None:
    """A manifest named by its digest is exported without a ref.name."""
    await import_image(store, source, "app")
    digest = (await store.repository("app").get_manifest("1.0")).digest
    await export_image(store, "app", str(digest), str(tmp_path / "out"))
    first = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"][0]
    assert first["digest"] == str(digest)
    assert "annotations" not in first


async def test_content_keeps_the_algorithm_it_is_named_by(
    store: blobstore.Store, maker: LayoutMaker, tmp_path: Path
) -> None:
    """A layer and a manifest that are named by sha512 and blake3 lie under these names, as their parents look for them."""
    layer = maker.blob(b"layer", algorithm=Algorithm.BLAKE3)
    image = maker.image(layer)
    body = maker.files.pop("blobs/sha256/" + image["digest"].partition(":")[2])
    maker.enter(maker.image_index(maker.blob(body, image["mediaType"], Algorithm.SHA512)), "1")
    await import_image(store, maker.write_directory(tmp_path / "source"), "app")
    await export_image(store, "app", "1", str(tmp_path / "out"))
    files = files_below(tmp_path / "out")
    files.pop("index.json")
    assert files == maker.files


async def test_absent_foreign_layers_are_left_out(store: blobstore.Store, maker: LayoutMaker, tmp_path: Path) -> None:
    """A foreign layer that the store does not hold is named in the report, and all else is exported."""
    foreign = {
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "digest": str(Digest.of(b"elsewhere")),
        "size": 9,
        "urls": ["https://example.com/layer"],
    }
    maker.enter(maker.image(foreign, maker.blob(b"here")), "1")
    await import_image(store, maker.write_directory(tmp_path / "source"), "app")
    report = await export_image(store, "app", "1", str(tmp_path / "out"))
    assert [str(each) for each in report.foreign_left_out] == [foreign["digest"]]
    assert report.blobs == 2


async def test_an_empty_directory_may_be_there(store: blobstore.Store, source: str, tmp_path: Path) -> None:
    """An empty directory becomes the layout."""
    await import_image(store, source, "app")
    (tmp_path / "out").mkdir()
    await export_image(store, "app", "1.0", f"{tmp_path / 'out'}/")
    assert (tmp_path / "out" / "oci-layout").exists()


@pytest.mark.parametrize("name", ["file", "full", "link", "file.tar", "link.tar"])
async def test_what_exists_is_not_touched(store: blobstore.Store, source: str, tmp_path: Path, name: str) -> None:
    """A file, a directory with something in it, and a dangling link are refused as destinations and stay as they were."""
    await import_image(store, source, "app")
    target = tmp_path / name
    if name == "full":
        (target / "kept").mkdir(parents=True)
    elif name.startswith("link"):
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.write_bytes(b"kept")
    with pytest.raises(Refused, match="exists already"):
        await export_image(store, "app", "1.0", str(target))
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "source.tar", "store"])


@pytest.mark.parametrize("name", ["out", "out.tar"])
async def test_a_damaged_blob_leaves_nothing(store: blobstore.Store, source: str, tmp_path: Path, name: str) -> None:
    """An export that meets damaged bytes fails and leaves neither the destination nor a part of it."""
    await import_image(store, source, "app")
    victim = max(
        (each for each in (tmp_path / "store").rglob("*.*") if "blobs" in each.parts), key=lambda p: p.stat().st_size
    )
    data = bytearray(victim.read_bytes())
    data[1_000_000] ^= 1
    victim.write_bytes(data)
    with pytest.raises(BlobDamaged):
        await export_image(store, "app", "1.0", str(tmp_path / name))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["source.tar", "store"]


@pytest.mark.parametrize("name", ["out", "out.tar"])
async def test_a_cancelled_export_leaves_nothing(
    store: blobstore.Store, source: str, tmp_path: Path, name: str
) -> None:
    """Cancelled under way, an export removes what it wrote."""
    await import_image(store, source, "app")

    def cancel(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 5:
            running.cancel()

    running = asyncio.create_task(export_image(store, "app", "1.0", str(tmp_path / name), progress=cancel))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(each.name for each in tmp_path.iterdir()) == ["source.tar", "store"]


@pytest.mark.parametrize("name", ["out", "out.tar"])
async def test_a_full_disk_leaves_nothing(
    store: blobstore.Store, source: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the last sync finds no space, the export fails and its parts are gone."""
    await import_image(store, source, "app")

    def no_space(paths: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporter, "_sync", no_space)
    with pytest.raises(StorageFull, match="no space"):
        await export_image(store, "app", "1.0", str(tmp_path / name))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["source.tar", "store"]


async def test_an_unknown_image_is_said_so(store: blobstore.Store, tmp_path: Path) -> None:
    """A tag or digest that isn't there raises, and makes no destination."""
    for reference in ("absent", str(Digest.of(b"absent"))):
        with pytest.raises(ManifestUnknown):
            await export_image(store, "app", reference, str(tmp_path / "out"))
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


async def test_a_destination_that_cant_be_made_is_said_so(store: blobstore.Store, source: str, tmp_path: Path) -> None:
    """A destination below an absent directory is an error that names it."""
    await import_image(store, source, "app")
    for name in ("absent/out", "absent/out.tar"):
        with pytest.raises(StorageFailed, match=name):
            await export_image(store, "app", "1.0", str(tmp_path / name))
