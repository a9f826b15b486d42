"""Tags that go, and collections that name and free exactly what nobody needs, while clients push."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.images import Image, blobs_of, content_of, make_image, tar_of
from tests.clients.programs import Program, Skopeo, finish
from tests.clients.registry import Registry
from tests.clients.test_push_and_pull import layers_of_docker, load_into_containerd, load_into_docker
from tests.clients.valve import Valve
from tests.server.daemon import wait_for
from tests.server.operations.test_whole_daemon import AT_ONCE, figures

KIB, MIB = 1024, 1024 * 1024


def named(report: dict[str, Any]) -> list[str]:
    """What a dry run or a run lists."""
    return sorted(each["digest"] for each in report["candidates"])


@pytest.mark.parametrize("by", ["skopeo", "tag", "digest"])
def test_a_tag_is_deleted_and_just_its_own_is_freed(by: str, tmp_path: Path, skopeo: Skopeo) -> None:
    """The command line and the API name the same garbage: what no other image shares. The run frees it, the rest is pulled."""
    shared = tar_of(shared=content_of(20 * KIB, "shared"))
    kept = make_image(tmp_path / "kept", 10 * KIB, salt="kept", shared=(shared,))
    gone = make_image(tmp_path / "gone", 10 * KIB, salt="gone", shared=(shared,))
    garbage = sorted(gone.blobs.keys() - kept.blobs.keys())
    assert len(garbage) == 3
    with Registry(tmp_path) as registry:
        skopeo.push(kept.source, f"{registry.name}/app:kept")
        skopeo.push(gone.source, f"{registry.name}/app:gone")
        options = ("--delete-untagged", "--grace", "0s", "--quarantine", "0s")
        assert named(registry.command("gc", "--dry-run", *options)) == []
        if by == "skopeo":
            skopeo("delete", "--tls-verify=false", f"docker://{registry.name}/app:gone")
        else:
            reference = "gone" if by == "tag" else gone.digest
            assert registry.get(f"/v2/app/manifests/{reference}", "DELETE")[0] == 202
        assert registry.digest_of("app", "gone") is None
        assert named(registry.command("gc", "--dry-run", *options)) == garbage
        assert named(registry.run(dry_run=True, policy=AT_ONCE)) == garbage
        # With the usual grace nothing goes yet.
        assert registry.run()["blobs"]["freed"] == 0
        report = registry.frees_at_once()
        assert named(report) == garbage
        assert (report["blobs"]["freed"], report["bytes"]["freed"]) == (
            3,
            sum(len(gone.blobs[each]) for each in garbage),
        )
        assert registry.blob("app", gone.layers[1]) is None
        skopeo.pull(f"{registry.name}/app:kept", f"oci:{tmp_path / 'back'}:1")
        assert blobs_of(tmp_path / "back") == kept.blobs
        assert registry.command("check", "--read-data")["ok"]


@contextmanager
def collecting(registry: Registry, **policy: Any) -> Iterator[list[dict[str, Any]]]:
    """One collection after the other, all the time; their reports."""
    reports: list[dict[str, Any]] = []
    is_over = threading.Event()
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            while not is_over.is_set() or not reports:
                reports.append(registry.run(policy=policy))
        except BaseException as failure:  # noqa: BLE001 - told to the test
            failures.append(failure)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield reports
    finally:
        is_over.set()
        thread.join()
    assert not failures, failures


def promises_broken(registry: Registry) -> float:
    with registry.client() as client:
        return sum(value for (name, _), value in figures(client).items() if name == "blobstore_promises_broken_total")


def test_collections_in_the_middle_of_pushes_with_the_usual_grace(
    tmp_path: Path, skopeo: Skopeo, ctr: Program, docker: Program
) -> None:
    """Skopeo, containerd and docker push what shares layers while tags go and runs come: no push fails, all of it is whole."""
    shared = tar_of(shared=content_of(50 * KIB, "together"))
    images = [make_image(tmp_path / f"i{at}", 20 * KIB, 5 * KIB, salt=f"m{at}", shared=(shared,)) for at in range(6)]
    with Registry(tmp_path) as registry, collecting(registry, delete_untagged=True, quarantine_s=0) as reports:
        by_ctr, by_docker = f"{registry.name}/app:ctr", f"{registry.name}/app:docker"
        load_into_containerd(ctr, skopeo, images[0], by_ctr, tmp_path)
        load_into_docker(docker, skopeo, images[1], by_docker, tmp_path)
        others = [ctr.start("image", "push", "--plain-http", by_ctr), docker.start("push", by_docker)]
        for at, image in enumerate(images[2:]):
            skopeo.push(image.source, f"{registry.name}/app:{at}")
            # Of two tags of an image the one goes, or the other, which is then set again.
            skopeo.push(image.source, f"{registry.name}/app:gone-{at}")
            assert registry.get(f"/v2/app/manifests/{at if at % 2 else f'gone-{at}'}", "DELETE")[0] == 202
            skopeo.push(image.source, f"{registry.name}/app:{at}")
        for process in others:
            status, said = finish(process)
            assert status == 0, said
        assert len(reports) >= 2
        for at, image in enumerate(images[2:]):
            _is_whole(registry, skopeo, image, f"app:{at}", tmp_path / f"back{at}")
        _is_whole(registry, skopeo, images[0], "app:ctr", tmp_path / "back-ctr")
        docker("rmi", by_docker)
        docker("pull", by_docker)
        assert layers_of_docker(docker("save", by_docker)) == images[1].diff_ids
        docker("rmi", by_docker)
        ctr("image", "rm", "--sync", by_ctr)
        assert promises_broken(registry) == 0
        assert registry.command("check", "--read-data")["ok"]


def _is_whole(registry: Registry, skopeo: Skopeo, image: Image, name: str, target: Path) -> None:
    skopeo.pull(f"{registry.name}/{name}", f"oci:{target}:1")
    assert blobs_of(target) == image.blobs


def test_a_collection_without_grace_between_two_layers(tmp_path: Path, skopeo: Skopeo) -> None:
    """It takes what the push has sent; the push is told so, no image is there by half, and the next push is whole."""
    image = make_image(tmp_path / "layout", 10 * KIB, 4 * MIB, salt="no grace")
    with Registry(tmp_path) as registry, Valve(registry.address, 2 * MIB) as valve:
        target = f"docker://{valve.name}/app:1"
        process = skopeo.start("copy", "--preserve-digests", "--dest-tls-verify=false", image.source, target)
        valve.wait()
        wait_for(lambda: registry.command("stats")["blobs"] == 1, "the small layer")
        assert named(registry.frees_at_once()) == [image.layers[0]]
        # An upload that is alive is no garbage.
        assert registry.command("stats")["uploads"] >= 1
        valve.open()
        status, said = finish(process)
        assert status != 0
        assert "blob unknown" in said
        assert registry.digest_of("app", "1") is None
        skopeo.push(image.source, f"{registry.name}/app:1")
        assert registry.frees_at_once()["blobs"]["live"] == len(image.blobs)
        _is_whole(registry, skopeo, image, "app:1", tmp_path / "second")
        assert promises_broken(registry) == 0


def test_a_collection_with_the_usual_grace_between_two_layers(tmp_path: Path, skopeo: Skopeo) -> None:
    """It keeps what the push has sent so far, though nothing refers to it yet."""
    image = make_image(tmp_path / "layout", 10 * KIB, 4 * MIB, salt="grace")
    with Registry(tmp_path) as registry, Valve(registry.address, 2 * MIB) as valve:
        target = f"docker://{valve.name}/app:1"
        process = skopeo.start("copy", "--preserve-digests", "--dest-tls-verify=false", image.source, target)
        valve.wait()
        wait_for(lambda: registry.command("stats")["blobs"] == 1, "the small layer")
        report = registry.run(policy={"quarantine_s": 0, "delete_untagged": True})
        assert (report["blobs"]["condemned"], report["blobs"]["freed"]) == (0, 0)
        valve.open()
        status, said = finish(process)
        assert status == 0, said
        _is_whole(registry, skopeo, image, "app:1", tmp_path / "back")
