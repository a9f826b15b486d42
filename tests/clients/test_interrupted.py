"""Pushes that are killed, cut, shared and restarted under: nothing half is visible, and the next attempt is whole."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

from tests.clients.images import content_of, digest_of, make_image
from tests.clients.programs import Program, Skopeo, finish
from tests.clients.registry import Registry
from tests.clients.test_push_and_pull import load_into_containerd, load_into_docker
from tests.clients.valve import Valve
from tests.server.daemon import place, wait_for, with_digest

MIB = 1024 * 1024


def test_a_skopeo_that_is_killed_in_mid_layer(registry: Registry, skopeo: Skopeo, layout: Path, tmp_path: Path) -> None:
    """Neither tag nor layer is there; the same push again is whole."""
    image = make_image(layout, 4 * MIB, salt="killed")
    with Valve(registry.address, MIB) as valve:
        process = skopeo.start(
            "copy", "--preserve-digests", "--dest-tls-verify=false", image.source, f"docker://{valve.name}/killed:1"
        )
        valve.wait()
        process.send_signal(signal.SIGKILL)
        finish(process)
    assert registry.blob("killed", image.layers[0]) is None
    assert registry.digest_of("killed", "1") is None
    assert registry.command("stats")["uploads"] >= 1
    skopeo.push(image.source, f"{registry.name}/killed:1")
    skopeo.pull(f"{registry.name}/killed:1", f"oci:{tmp_path / 'back'}:1")
    assert registry.blob("killed", image.layers[0]) == image.blobs[image.layers[0]]


def test_docker_tries_again_when_its_connection_breaks(
    registry: Registry, skopeo: Skopeo, docker: Program, layout: Path, tmp_path: Path
) -> None:
    """Of itself, within the same push; what arrives is whole."""
    image = make_image(layout, 4 * MIB, salt="cut")
    before = len(registry.requests())
    with Valve(registry.address, MIB) as valve:
        name = f"{valve.name}/cut:1"
        load_into_docker(docker, skopeo, image, name, tmp_path)
        process = docker.start("push", name)
        valve.wait()
        valve.cut()
        status, said = finish(process)
        assert status == 0, said
        docker("rmi", name)
    begun = [each for each in registry.requests()[before:] if each["method"] == "POST" and "/cut/" in each["path"]]
    # One for the config, and two for the layer.
    assert len(begun) >= 3
    skopeo.pull(f"{registry.name}/cut:1", f"dir:{tmp_path / 'back'}")
    manifest = json.loads((tmp_path / "back" / "manifest.json").read_bytes())
    assert len(manifest["layers"]) == 1


def test_a_docker_push_that_is_given_up(
    registry: Registry, skopeo: Skopeo, docker: Program, layout: Path, tmp_path: Path
) -> None:
    """Ctrl-C in mid-layer: no tag; the same command again is whole."""
    image = make_image(layout, 4 * MIB, salt="given up")
    with Valve(registry.address, MIB) as valve:
        name = f"{valve.name}/given/up:1"
        load_into_docker(docker, skopeo, image, name, tmp_path)
        process = docker.start("push", name)
        valve.wait()
        process.send_signal(signal.SIGINT)
        assert finish(process)[0] != 0
        assert registry.digest_of("given/up", "1") is None
        valve.cut()
        docker("push", name)
        docker("rmi", name)
        docker("pull", name)
        docker("rmi", name)
    assert registry.digest_of("given/up", "1") is not None


def test_a_chunk_that_is_broken_off_goes_on_at_the_range_that_is_told(registry: Registry) -> None:
    """By a raw client: what arrived before the cut is not sent again."""
    content = content_of(3 * MIB, "chunk")
    with registry.client() as client:
        location = client.begin("resumed")
    with socket.create_connection(registry.address) as raw:
        size = len(content)
        head = f"PATCH {location} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\nContent-Range: 0-{size - 1}\r\n"
        raw.sendall(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + content[: 2 * MIB])
    with registry.client() as client:
        begun = 0

        def has_ended() -> bool:
            nonlocal begun
            status, headers, _ = client.ask("GET", location)
            assert status == 204
            begun = int(headers["Range"].removeprefix("0-")) + 1
            return begun > 1

        wait_for(has_ended, "the upload to be told")
        assert begun <= 2 * MIB
        _, headers, _ = client.ask("GET", location)
        fields = {"Content-Range": f"{begun}-{len(content) - 1}", "Content-Type": "application/octet-stream"}
        status, headers, said = client.ask("PATCH", place(headers), content[begun:], fields)
        assert status == 202, said
        status, _, said = client.ask("PUT", with_digest(place(headers), digest_of(content)), b"")
        assert status == 201, said
        assert client.pull("resumed", digest_of(content)) == content


def test_two_clients_push_the_same_layer_at_once(tmp_path: Path, skopeo: Skopeo, ctr: Program, layout: Path) -> None:
    """Both are in the middle of it at the same time, both succeed, and it is stored once."""
    image = make_image(layout, 4 * MIB, salt="at once")
    with Registry(tmp_path) as registry, Valve(registry.address, MIB) as one, Valve(registry.address, MIB) as two:
        name = f"{two.name}/shared:2"
        load_into_containerd(ctr, skopeo, image, name, tmp_path)
        first = skopeo.start(
            "copy", "--preserve-digests", "--dest-tls-verify=false", image.source, f"docker://{one.name}/shared:1"
        )
        second = ctr.start("image", "push", "--plain-http", name)
        one.wait()
        two.wait()
        assert registry.command("stats")["uploads"] >= 2
        one.open()
        two.open()
        for process in (first, second):
            status, said = finish(process)
            assert status == 0, said
        assert registry.digest_of("shared", "1") == registry.digest_of("shared", "2") == image.digest
        assert registry.blob("shared", image.layers[0]) == image.blobs[image.layers[0]]
        stats = registry.command("stats")
        assert (stats["blobs"], stats["uploads"]) == (len(image.blobs), 0)
        assert stats["bytes_stored"] == sum(len(each) for each in image.blobs.values())
        ctr("image", "rm", "--sync", name)


def test_a_restart_in_the_middle_of_pushes(tmp_path: Path, skopeo: Skopeo, docker: Program, layout: Path) -> None:
    """SIGHUP while skopeo and docker are in mid-layer: every process is replaced, and neither push notices."""
    image = make_image(layout, 4 * MIB, MIB, salt="restart")
    with (
        Registry(tmp_path, "--workers", "2") as registry,
        Valve(registry.address, MIB) as one,
        Valve(registry.address, MIB) as two,
    ):
        name = f"{two.name}/restart:2"
        load_into_docker(docker, skopeo, image, name, tmp_path)
        first = skopeo.start(
            "copy", "--preserve-digests", "--dest-tls-verify=false", image.source, f"docker://{one.name}/restart:1"
        )
        second = docker.start("push", name)
        one.wait()
        two.wait()
        before = set(registry.workers())
        registry.send(signal.SIGHUP)
        wait_for(lambda: len(set(registry.workers()) - before) >= 2, "new workers")
        one.open()
        two.open()
        for process in (first, second):
            status, said = finish(process)
            assert status == 0, said
        wait_for(lambda: not before & set(registry.workers()), "the old workers to go")
        skopeo.pull(f"{registry.name}/restart:1", f"oci:{tmp_path / 'back'}:1")
        for digest in image.layers:
            found = tmp_path / "back" / "blobs" / "sha256" / digest.partition(":")[2]
            assert found.read_bytes() == image.blobs[digest]
        docker("rmi", name)
        docker("pull", name)
        docker("rmi", name)
        assert not [each for each in registry.requests() if each["status"] >= 500]
