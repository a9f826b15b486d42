"""Importing OCI image layouts, from directories and from tar files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import blobstore
from blobstore.digest import Algorithm, Digest
from blobstore.errors import ArchiveInvalid, BlobUnknown, ManifestUnknown, TagInvalid
from blobstore.events import BlobPushed, Event, Progress
from blobstore.importers import import_image
from blobstore.importers._images import small_blob_max_bytes
from tests.importers.making import CONTAINERD_NAME, LayoutMaker, open_uploads, read_blob, tags_of

Write = Callable[[LayoutMaker], str]


async def test_an_image_arrives_byte_for_byte(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """An image's layers, config and manifest can be read back, and its tag names it."""
    layers = [maker.blob(os.urandom(size)) for size in (0, 1, 70_000, small_blob_max_bytes, 3 * 1024 * 1024 + 7)]
    image = maker.image(*layers)
    maker.enter(image, "1.0")
    report = await import_image(store, write(maker), "library/app")
    repository = store.repository("library/app")
    manifest = await repository.get_manifest("1.0")
    assert str(manifest.digest) == image["digest"]
    for path, data in maker.files.items():
        if path.startswith("blobs/"):
            assert await read_blob(repository, f"sha256:{path.rpartition('/')[2]}") == data
    assert (report.blobs_imported, report.blobs_skipped, report.manifests_put) == (6, 0, 1)
    assert report.bytes_read == sum(layer["size"] for layer in layers) + 2
    assert [(str(each.digest), each.tags) for each in report.manifests] == [(image["digest"], ("1.0",))]


async def test_all_images_come_with_their_own_tags(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """Without a tag every image is imported, one that has several tags gets all, one that has none stays untagged."""
    one, two, three = (maker.image(maker.blob(name)) for name in (b"one", b"two", b"three"))
    maker.enter(one, "a")
    maker.enter(one, "b")
    maker.enter(two, "c")
    maker.enter(three)
    await import_image(store, write(maker), "app")
    repository = store.repository("app")
    assert await tags_of(repository) == {"a": one["digest"], "b": one["digest"], "c": two["digest"]}
    assert (await repository.get_manifest(Digest.parse(three["digest"]))).digest


@pytest.mark.parametrize(
    ("annotations", "tag"),
    [
        ({"ref_name": "docker.io/library/x:1"}, "1"),
        ({"ref_name": "localhost:5000/x:2"}, "2"),
        ({"ref_name": "x:3@sha256:" + "0" * 64}, "3"),
        ({"ref_name": "4", CONTAINERD_NAME: "docker.io/library/x:other"}, "4"),
        ({CONTAINERD_NAME: "docker.io/library/x:5"}, "5"),
        ({"ref_name": "localhost:5000/x"}, None),
        ({CONTAINERD_NAME: "docker.io/library/x"}, None),
        ({"ref_name": "not a tag"}, None),
    ],
)
async def test_the_tag_is_taken_out_of_a_full_reference(
    store: blobstore.Store, maker: LayoutMaker, tmp_path: Path, annotations: dict[str, str], tag: str | None
) -> None:
    """References as Docker, BuildKit and containerd write them give the tag alone; what has none is untagged."""
    maker.enter(maker.image(), **annotations)
    report = await import_image(store, maker.write_tar(tmp_path / "x.tar"), "app")
    assert report.manifests[0].tags == (() if tag is None else (tag,))


async def test_a_given_tag_takes_the_place_of_the_own_one(
    store: blobstore.Store, maker: LayoutMaker, write: Write
) -> None:
    """With a tag the one image is tagged so, and only so."""
    maker.enter(maker.image(), "own")
    await import_image(store, write(maker), "app", "mine")
    assert list(await tags_of(store.repository("app"))) == ["mine"]


async def test_a_given_tag_needs_one_image(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """With a tag and several images nothing is imported; the error lists the choices."""
    maker.enter(maker.image(maker.blob(b"one")), "first")
    untagged = maker.image(maker.blob(b"two"))
    maker.enter(untagged)
    with pytest.raises(ArchiveInvalid, match=f"2 images.*first; {untagged['digest']}"):
        await import_image(store, write(maker), "app", "mine")
    assert (await store.totals()).present_blobs == 0


async def test_referrers_are_no_choice(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """A signature listed beside its image comes along, and neither gets in the way of a tag nor gets it."""
    image = maker.image(maker.blob(b"app"))
    signature = maker.image(maker.blob(b"signed"), subject=image, artifactType="application/vnd.example.signature")
    maker.enter(signature)
    maker.enter(image)
    await import_image(store, write(maker), "app", "1")
    repository = store.repository("app")
    assert await tags_of(repository) == {"1": image["digest"]}
    found = [str(each.digest) async for each in repository.referrers(Digest.parse(image["digest"]))]
    assert found == [signature["digest"]]


async def test_nested_image_indexes_arrive_whole(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """An image index in an image index is put after its children, and all of it can be found."""
    inner = maker.image_index(maker.image(maker.blob(b"arm")), maker.image(maker.blob(b"amd")))
    outer = maker.image_index(inner, maker.image(maker.blob(b"mips")))
    maker.enter(outer, "all")
    report = await import_image(store, write(maker), "app")
    manifest = await store.repository("app").get_manifest("all")
    assert str(manifest.manifests[0].digest) == inner["digest"]
    assert report.manifests_put == 5


async def test_a_buildkit_cache_arrives(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """An image index whose children are layers, as BuildKit exports its cache, keeps them as blobs."""
    layer = maker.blob(b"cached layer", "application/vnd.oci.image.layer.v1.tar+gzip")
    config = maker.blob(b'{"layers":[]}', "application/vnd.buildkit.cacheconfig.v0")
    maker.enter(maker.image_index(layer, config), "cache")
    report = await import_image(store, write(maker), "app")
    assert (report.blobs_imported, report.manifests_put) == (2, 1)
    assert await read_blob(store.repository("app"), layer["digest"]) == b"cached layer"


async def test_an_absent_foreign_layer_is_fine(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """A layer that may only be had elsewhere need not be in the source."""
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": str(Digest.of(b"elsewhere")),
        "size": 9,
        "urls": ["https://example.com/layer"],
    }
    maker.enter(maker.image(foreign, maker.blob(b"here")), "win")
    assert (await import_image(store, write(maker), "app")).blobs_imported == 2


async def test_digests_of_other_algorithms_are_kept(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """Blobs and manifests under sha512 are verified and found by it."""
    layer = maker.blob(b"long digest", algorithm=Algorithm.SHA512)
    image = maker.image(layer)
    body = maker.files["blobs/sha256/" + image["digest"].partition(":")[2]]
    renamed = maker.blob(body, image["mediaType"], Algorithm.SHA512)
    maker.enter(maker.image_index(renamed), "1")
    await import_image(store, write(maker), "app")
    repository = store.repository("app")
    assert await read_blob(repository, layer["digest"]) == b"long digest"
    assert (await repository.get_manifest(Digest.parse(renamed["digest"]))).body == body


async def test_an_image_index_saved_for_one_platform_gives_that_image(
    store: blobstore.Store, maker: LayoutMaker, write: Write
) -> None:
    """An image index saved by containerd is whole, but only one image of it: that one gets the tag, attestations are left."""
    here = {**maker.image(maker.blob(b"amd64")), "platform": {"os": "linux", "architecture": "amd64"}}
    note = {**maker.image(maker.blob(b"attested")), "platform": {"os": "unknown", "architecture": "unknown"}}
    gone = {**maker.image(config=b'{"arm":1}'), "platform": {"os": "linux", "architecture": "arm64"}}
    del maker.files["blobs/sha256/" + gone["digest"].partition(":")[2]]
    image_index = maker.image_index(here, gone, note)
    maker.enter(image_index, "1")
    report = await import_image(store, write(maker), "app")
    assert await tags_of(store.repository("app")) == {"1": here["digest"]}
    assert str(report.manifests[0].instead_of) == image_index["digest"]


async def test_an_image_index_with_several_of_its_images_is_refused(
    store: blobstore.Store, maker: LayoutMaker, write: Write
) -> None:
    """Where some children are absent and several are present, the error names the absent."""
    gone = {**maker.image(config=b'{"arm":1}'), "platform": {"os": "linux", "architecture": "arm64"}}
    del maker.files["blobs/sha256/" + gone["digest"].partition(":")[2]]
    maker.enter(maker.image_index(maker.image(config=b"1"), maker.image(config=b"2"), gone), "1")
    with pytest.raises(ArchiveInvalid, match=f"{gone['digest']} linux/arm64"):
        await import_image(store, write(maker), "app")


async def test_entries_of_unknown_types_are_reported(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """An entry of `index.json` that is no manifest known here is left out and named in the report."""
    maker.enter(maker.image(), "1")
    maker.enter(maker.blob(b"?", "application/vnd.example.unknown"))
    report = await import_image(store, write(maker), "app")
    assert [each.media_type for each in report.ignored] == ["application/vnd.example.unknown"]


async def test_a_shared_blob_is_read_once(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """A layer that two images share, or one image has twice, counts and is read once."""
    shared = maker.blob(b"s" * 1000)
    maker.enter(maker.image(shared, shared, config=b"{}"), "1")
    maker.enter(maker.image(shared, config=b"{ }"), "2")
    report = await import_image(store, write(maker), "app")
    assert (report.blobs_imported, report.bytes_read) == (3, 1005)


async def test_importing_again_reads_nothing(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """A second import of the same source skips all blobs and ends the same."""
    maker.enter(maker.image(maker.blob(os.urandom(2_000_000))), "1")
    source = write(maker)
    first = await import_image(store, source, "app")
    second = await import_image(store, source, "app")
    assert (second.blobs_imported, second.blobs_skipped, second.bytes_read) == (0, 2, 0)
    assert second.manifests == first.manifests


async def test_another_repository_is_not_trusted(tmp_path: Path, maker: LayoutMaker, write: Write) -> None:
    """A blob that only another repository has is read and verified, yet not stored a second time."""
    events: list[Event] = []
    maker.enter(maker.image(maker.blob(b"secret" * 1000)), "1")
    source = write(maker)
    async with blobstore.open(str(tmp_path / "store"), create=True, events=events.append) as store:
        await import_image(store, source, "one")
        before = (await store.totals()).present_bytes
        report = await import_image(store, source, "two")
        assert (report.blobs_imported, report.bytes_read) == (2, 6002)
        assert (await store.totals()).present_bytes == before
    pushed = [event.was_present for event in events if isinstance(event, BlobPushed) and event.repository == "two"]
    assert pushed == [True, True]


async def test_progress_ends_at_the_total(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """The last progress says that all bytes are done."""
    seen: list[Event] = []
    maker.enter(maker.image(maker.blob(bytes(5_000_000))), "1")
    await import_image(store, write(maker), "app", progress=seen.append)
    assert seen[-1] == Progress("import", 5_000_002, 5_000_002)


async def test_many_small_blobs_arrive(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """More blobs than are imported at once all arrive."""
    maker.enter(maker.image(*(maker.blob(b"%d" % number) for number in range(200))), "1")
    assert (await import_image(store, write(maker), "app")).blobs_imported == 201


async def test_a_failed_import_leaves_nothing_half(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """A wrong blob among good ones fails the import: no manifest, no tag, no open upload; mended, it goes on."""
    good = [maker.blob(os.urandom(1000)) for _ in range(50)]
    bad = maker.blob(b"b" * 3_000_000)
    path = "blobs/sha256/" + bad["digest"].partition(":")[2]
    maker.enter(maker.image(*good, bad), "1")
    data, maker.files[path] = maker.files[path], b"x" * 3_000_000
    with pytest.raises(ArchiveInvalid, match=bad["digest"]):
        await import_image(store, write(maker), "app")
    assert await open_uploads(store) == 0
    with pytest.raises(ManifestUnknown):
        await store.repository("app").get_manifest("1")
    with pytest.raises(BlobUnknown):
        await store.repository("app").stat_blob(Digest.parse(bad["digest"]))
    maker.files[path] = data
    report = await import_image(store, write(maker), "app")
    assert report.blobs_imported + report.blobs_skipped == 52


async def test_a_cancelled_import_goes_on_next_time(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """Cancelled in the middle of a blob, an import leaves no upload open and no tag; the next one skips what is there."""
    small = maker.blob(b"small")
    maker.enter(maker.image(small), "1")
    await import_image(store, write(maker), "app")
    maker.enter(maker.image(small, maker.blob(os.urandom(20_000_000))), "2")
    source = write(maker)

    def cancel_in_the_middle(event: Event) -> None:
        if isinstance(event, Progress) and event.done > 5_000_000 and not running.cancelling():
            running.cancel()

    running = asyncio.create_task(import_image(store, source, "app", progress=cancel_in_the_middle))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await open_uploads(store) == 0
    assert list(await tags_of(store.repository("app"))) == ["1"]
    report = await import_image(store, source, "app")
    assert (report.blobs_skipped, report.blobs_imported) == (2, 1)


async def test_two_imports_of_one_source_agree(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """Run at the same time into one repository, two imports both succeed, and each blob is stored once."""
    maker.enter(maker.image(*(maker.blob(os.urandom(3000)) for _ in range(100))), "1")
    source = write(maker)
    one, two = await asyncio.gather(*(import_image(store, source, "app") for _ in range(2)))
    assert one.manifests == two.manifests
    assert (await store.totals()).present_blobs == 102
    assert await open_uploads(store) == 0


async def test_a_wrong_tag_is_refused_before_anything(store: blobstore.Store, tmp_path: Path) -> None:
    """The tag is checked before the source is looked at."""
    with pytest.raises(TagInvalid):
        await import_image(store, str(tmp_path / "absent"), "app", "-no")


async def test_two_images_of_one_tag_are_refused(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """A tag that a layout gives to two images is an error that names both."""
    one, two = maker.image(config=b"1"), maker.image(config=b"2")
    maker.enter(one, "same")
    maker.enter(two, "same")
    with pytest.raises(ArchiveInvalid, match=f"{one['digest']} and to {two['digest']}"):
        await import_image(store, write(maker), "app")
