"""What each client pushes it pulls back byte for byte: plain images, many layers, several platforms."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from tests.clients.images import Image, add_image, blobs_of, content_of, digest_of, make_image, tar_of, write
from tests.clients.programs import Program, Skopeo, Storage
from tests.clients.registry import Registry
from tests.importers.making import LayoutMaker

KIB = 1024


def test_skopeo(registry: Registry, skopeo: Skopeo, layout: Path, tmp_path: Path) -> None:
    """Every file of the layout comes back as it was."""
    image = make_image(layout, 300 * KIB, 5, salt="skopeo")
    skopeo.push(image.source, f"{registry.name}/by/skopeo:1")
    skopeo.pull(f"{registry.name}/by/skopeo:1", f"oci:{tmp_path / 'back'}:1")
    assert blobs_of(tmp_path / "back") == image.blobs
    said = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{registry.name}/by/skopeo:1"))
    assert (said["Digest"], said["RepoTags"]) == (image.digest, ["1"])
    said = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{registry.name}/by/skopeo"))
    assert said["Tags"] == ["1"]


def test_skopeo_converts_to_docker_s_schema(registry: Registry, skopeo: Skopeo, layout: Path, tmp_path: Path) -> None:
    """The same layers under a manifest of the older kind, under its own media type."""
    image = make_image(layout, 10 * KIB, salt="v2s2")
    target = f"docker://{registry.name}/by/v2s2:1"
    skopeo("copy", "--dest-tls-verify=false", "--format", "v2s2", image.source, target)
    skopeo.pull(f"{registry.name}/by/v2s2:1", f"dir:{tmp_path / 'back'}")
    manifest = json.loads((tmp_path / "back" / "manifest.json").read_bytes())
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert [each["digest"] for each in manifest["layers"]] == image.layers
    for digest in image.layers:
        assert (tmp_path / "back" / digest.partition(":")[2]).read_bytes() == image.blobs[digest]


def test_ctr(registry: Registry, skopeo: Skopeo, ctr: Program, layout: Path, tmp_path: Path) -> None:
    """Forgotten by containerd and pulled again, its content store holds the same bytes."""
    image = make_image(layout, 200 * KIB, 5, salt="ctr")
    name = f"{registry.name}/by/ctr:1"
    load_into_containerd(ctr, skopeo, image, name, tmp_path)
    ctr("image", "push", "--plain-http", name)
    ctr("image", "rm", "--sync", name)
    assert not ctr("content", "ls", "--quiet").split()
    ctr("image", "pull", "--plain-http", "--snapshotter", "native", name)
    for digest, data in image.blobs.items():
        assert ctr("content", "get", digest) == data
    ctr("image", "rm", "--sync", name)


def load_into_containerd(ctr: Program, skopeo: Skopeo, image: Image, name: str, directory: Path) -> None:
    """Import an image under a name."""
    archive = directory / "image.tar"
    skopeo("copy", "--preserve-digests", image.source, f"oci-archive:{archive}:{name}")
    ctr("image", "import", "--all-platforms", "--no-unpack", str(archive))
    archive.unlink()


def test_docker(registry: Registry, skopeo: Skopeo, docker: Program, layout: Path, tmp_path: Path) -> None:
    """Forgotten by docker and pulled again, it is the image of the same id, with the same tars."""
    image = make_image(layout, 200 * KIB, 5, salt="docker")
    name = f"{registry.name}/by/docker:1"
    number = load_into_docker(docker, skopeo, image, name, tmp_path)
    docker("push", name)
    docker("rmi", name)
    assert docker.attempt("image", "inspect", number).returncode != 0
    docker("pull", name)
    assert docker("image", "inspect", "--format", "{{.Id}}", name).decode().strip() == number
    assert layers_of_docker(docker("save", name)) == image.diff_ids
    docker("rmi", name)


def load_into_docker(docker: Program, skopeo: Skopeo, image: Image, name: str, directory: Path) -> str:
    """Load an image under a name; returns its id."""
    archive = directory / "docker.tar"
    skopeo("copy", image.source, f"docker-archive:{archive}:{name}")
    docker("load", "--input", str(archive))
    archive.unlink()
    return docker("image", "inspect", "--format", "{{.Id}}", name).decode().strip()


def layers_of_docker(archive: bytes) -> list[str]:
    """What is in a `docker save`."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:

        def read(name: str) -> bytes:
            found = opened.extractfile(name)
            assert found is not None
            return found.read()

        return [digest_of(read(each)) for each in json.loads(read("manifest.json"))[0]["Layers"]]


def test_buildah(registry: Registry, buildah: Storage, layout: Path, tmp_path: Path) -> None:
    """Removed from its storage and pulled again, the image has the same config and the same tars."""
    push_and_pull_with_storage(registry, buildah, make_image(layout, 200 * KIB, 5, salt="buildah"), tmp_path)


def test_podman(registry: Registry, podman: Storage, layout: Path, tmp_path: Path) -> None:
    """As buildah, through its own commands."""
    push_and_pull_with_storage(registry, podman, make_image(layout, 200 * KIB, 5, salt="podman"), tmp_path)


def push_and_pull_with_storage(registry: Registry, client: Storage, image: Image, directory: Path) -> None:
    name = f"{registry.name}/by/storage:{client.directory.name}"
    number = client("pull", *client.policy, "--quiet", image.source).decode().split()[-1]
    client("push", *client.policy, "--tls-verify=false", "--quiet", number, f"docker://{name}")
    client("rmi", number)
    assert client("images", "--quiet", "--no-trunc") == b""
    again = client("pull", *client.policy, "--tls-verify=false", "--quiet", f"docker://{name}").decode().split()[-1]
    # The id is the digest of the config.
    assert again == number
    client("push", *client.policy, "--quiet", again, f"dir:{directory / 'back'}")
    manifest = json.loads((directory / "back" / "manifest.json").read_bytes())
    config = json.loads((directory / "back" / manifest["config"]["digest"].partition(":")[2]).read_bytes())
    assert config["rootfs"]["diff_ids"] == image.diff_ids


def test_a_hundred_layers(registry: Registry, skopeo: Skopeo, layout: Path, tmp_path: Path) -> None:
    """All of them come back."""
    image = make_image(layout, *range(1000, 1100), salt="hundred")
    assert len(set(image.layers)) == 100
    skopeo.push(image.source, f"{registry.name}/by/hundred:1")
    skopeo.pull(f"{registry.name}/by/hundred:1", f"oci:{tmp_path / 'back'}:1")
    assert blobs_of(tmp_path / "back") == image.blobs


def make_platforms(directory: Path) -> Image:
    """An image index of two platforms whose images share a layer."""
    maker = LayoutMaker()
    common = tar_of(common=content_of(5000, "common"))
    children = [
        add_image(maker, [common, tar_of(own=content_of(3000, each))], each) for each in ("amd64", "arm64", "s390x")
    ]
    descriptor = maker.image_index(*children)
    maker.enter(descriptor, "1")
    return write(maker, directory, descriptor["digest"], [])


def test_several_platforms_by_skopeo(registry: Registry, skopeo: Skopeo, layout: Path, tmp_path: Path) -> None:
    """With --all every platform comes back as it was; without it, only the one that was asked for."""
    image = make_platforms(layout)
    skopeo.push(image.source, f"{registry.name}/platforms/skopeo:1", "--all")
    assert registry.digest_of("platforms/skopeo", "1") == image.digest
    skopeo.pull(f"{registry.name}/platforms/skopeo:1", f"oci:{tmp_path / 'all'}:1", "--all")
    assert blobs_of(tmp_path / "all") == image.blobs
    arm = ["--override-arch", "arm64"]
    source = f"docker://{registry.name}/platforms/skopeo:1"
    skopeo(*arm, "copy", "--src-tls-verify=false", source, f"oci:{tmp_path / 'arm'}:1")
    alone = blobs_of(tmp_path / "arm")
    assert alone.items() < image.blobs.items()
    assert any(b'"architecture": "arm64"' in data for data in alone.values())


def test_several_platforms_by_ctr(registry: Registry, skopeo: Skopeo, ctr: Program, layout: Path) -> None:
    """What skopeo pushed containerd pulls with all platforms, and pushes on to another repository."""
    image = make_platforms(layout)
    name, other = f"{registry.name}/platforms/ctr:1", f"{registry.name}/platforms/on:1"
    skopeo.push(image.source, name, "--all")
    ctr("content", "fetch", "--plain-http", "--all-platforms", name)
    for digest, data in image.blobs.items():
        assert ctr("content", "get", digest) == data
    ctr("image", "tag", name, other)
    ctr("image", "push", "--plain-http", other)
    assert registry.digest_of("platforms/on", "1") == image.digest
    for digest in image.blobs.keys() - {image.digest}:
        if b'"manifests"' not in image.blobs[digest] and b'"layers"' not in image.blobs[digest]:
            assert registry.blob("platforms/on", digest) == image.blobs[digest]
    ctr("image", "rm", "--sync", name, other)


def test_several_platforms_by_podman(registry: Registry, podman: Storage, tmp_path: Path) -> None:
    """A list that podman made of images in the registry is pushed with them, and found whole."""
    names = []
    for at, architecture in enumerate(("amd64", "arm64")):
        maker = LayoutMaker()
        found = add_image(maker, [tar_of(own=content_of(2000 + at, "podman"))], architecture)
        maker.enter(found, "1")
        one = write(maker, tmp_path / architecture, found["digest"], [])
        names.append(f"docker://{registry.name}/platforms/podman:{architecture}")
        Skopeo(tmp_path).push(one.source, names[-1].partition("//")[2])
    podman("manifest", "create", "both")
    for name in names:
        podman("manifest", "add", "--tls-verify=false", "both", name)
    target = f"docker://{registry.name}/platforms/podman:both"
    podman("manifest", "push", "--all", "--tls-verify=false", "--format", "oci", "both", target)
    status, _, body = registry.get("/v2/platforms/podman/manifests/both")
    assert status == 200
    children = {each["platform"]["architecture"]: each["digest"] for each in json.loads(body)["manifests"]}
    assert children == {each: registry.digest_of("platforms/podman", each) for each in ("amd64", "arm64")}


def uploads_of(registry: Registry, since: int) -> list[tuple[str, str, int]]:
    """Requests that would send a blob, after so many lines of the access log; a manifest came in any case."""
    assert any(each["method"] == "PUT" and "/manifests/" in each["path"] for each in registry.requests()[since:])
    return [
        (each["method"], each["path"], each["received_bytes"])
        for each in registry.requests()[since:]
        if each["method"] in ("POST", "PATCH", "PUT") and "/blobs/" in each["path"]
    ]


def test_what_is_there_is_not_sent_again(
    registry: Registry, skopeo: Skopeo, ctr: Program, docker: Program, layout: Path, tmp_path: Path
) -> None:
    """By none of the clients: they ask, are told, and put the manifest alone."""
    image = make_image(layout, 100 * KIB, 50 * KIB, salt="again")
    skopeo.push(image.source, f"{registry.name}/again/skopeo:1")
    before = len(registry.requests())
    skopeo.push(image.source, f"{registry.name}/again/skopeo:2")
    assert uploads_of(registry, before) == []

    name = f"{registry.name}/again/skopeo:3"
    load_into_containerd(ctr, skopeo, image, name, tmp_path)
    before = len(registry.requests())
    ctr("image", "push", "--plain-http", name)
    assert uploads_of(registry, before) == []
    ctr("image", "rm", "--sync", name)

    name = f"{registry.name}/again/docker:1"
    load_into_docker(docker, skopeo, image, name, tmp_path)
    docker("push", name)
    docker("tag", name, f"{registry.name}/again/docker:2")
    before = len(registry.requests())
    docker("push", f"{registry.name}/again/docker:2")
    # Docker sends the config, of a few hundred bytes, whenever its manifest is to be put anew.
    assert sum(size for _, _, size in uploads_of(registry, before)) < 2000
    docker("rmi", name, f"{registry.name}/again/docker:2")


def test_docker_mounts_from_the_repository_it_knows(
    registry: Registry, skopeo: Skopeo, docker: Program, layout: Path, tmp_path: Path
) -> None:
    """A push to a second repository sends no layer: the registry is asked to mount it, and does."""
    image = make_image(layout, 100 * KIB, salt="mount")
    name, other = f"{registry.name}/mount/first:1", f"{registry.name}/mount/second:1"
    load_into_docker(docker, skopeo, image, name, tmp_path)
    docker("push", name)
    docker("tag", name, other)
    before = len(registry.requests())
    docker("push", other)
    sent = uploads_of(registry, before)
    assert sum(size for _, _, size in sent) < 2000
    mounted = [each for each in registry.requests()[before:] if each["method"] == "POST" and each["status"] == 201]
    assert mounted
    skopeo.pull(other, f"dir:{tmp_path / 'back'}")
    docker("rmi", name, other)
