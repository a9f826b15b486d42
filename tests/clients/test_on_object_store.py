"""Real clients against a daemon whose bytes are in a bucket: streamed or fetched there, over two workers, collected, given up."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.remotes import s3_config
from tests.clients.images import Image, blobs_of, content_of, digest_of, make_image, tar_of
from tests.clients.programs import Program, Skopeo, finish
from tests.clients.registry import Registry
from tests.clients.test_push_and_pull import layers_of_docker, load_into_docker
from tests.clients.valve import Valve
from tests.conftest import without_cloud
from tests.server.daemon import Client, place, wait_for, with_digest
from tests.server.security.asking import basic
from tests.server.security.guest import PASSWORDS
from tests.server.security.htpasswd import line
from tests.server.test_workers import clients_of_each
from tests.servers.counting_proxy import CountingProxy, counting_proxy
from tests.servers.processes import S3Server, sdk_of

KIB, MIB = 1024, 1024 * 1024
PART = 8 * MIB
_ALICE = """[server.auth]
method = "htpasswd"
[server.auth.htpasswd]
file = "users"
[server.auth.rights]
"**" = { alice = ["*"] }
"""
_PLACES = ("blobs", "data", "uploads")
_BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(autouse=True)
def _no_cloud(no_cloud: None) -> None:
    """No credentials but those of the configuration."""


class Bucket:
    """A place in the bucket of a server, and what a daemon must know of it."""

    def __init__(self, server: S3Server, directory: Path, endpoint: str | None = None) -> None:
        self._server, self._prefix = server, f"clients/{directory.name}"
        self.endpoint = endpoint or server.endpoint
        self.url = f"s3://{server.bucket}/{self._prefix}"
        secret = directory / "secret"
        secret.write_text(server.secret_key)
        changes = {"access_key": f'"{server.access_key}"', "secret_key_file": f'"{secret}"'}
        self.config = s3_config(server, endpoint=self.endpoint, **changes)

    def blob_sizes(self) -> list[int]:
        """How long each object is that holds bytes of a blob, sorted."""
        with sdk_of(self._server) as sdk:
            pages = sdk.get_paginator("list_objects_v2").paginate(Bucket=self._server.bucket, Prefix=self._prefix)
            found = {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", ())}
        places = tuple(f"{self._prefix}/{name}/" for name in ("blobs", "data"))
        return sorted(size for name, size in found.items() if name.startswith(places))

    def open_uploads(self) -> list[str]:
        """The multipart uploads that somebody began and did not end."""
        with sdk_of(self._server) as sdk:
            answer = sdk.list_multipart_uploads(Bucket=self._server.bucket, Prefix=self._prefix)
        return [each["Key"] for each in answer.get("Uploads", ())]


@contextmanager
def fetched(weed: S3Server, directory: Path) -> Iterator[tuple[Bucket, CountingProxy]]:
    """A bucket behind a relay that sees what is fetched from it; another host than the registry's by its name."""
    port = urlsplit(weed.endpoint).port
    assert port is not None
    with counting_proxy(port) as proxy:
        yield Bucket(weed, directory, f"http://localhost:{proxy.port}"), proxy


# Direct and redirected


@pytest.mark.parametrize("delivery", ["direct", "redirect"])
def test_what_is_pushed_is_pulled(
    delivery: str, weed: S3Server, skopeo: Skopeo, docker: Program, layout: Path, tmp_path: Path
) -> None:
    """By skopeo every byte, by docker every layer; those of a redirect come from the bucket, and nobody shows it a password."""
    image = make_image(layout, PART + MIB, 10 * KIB, 5, salt=delivery)
    assert max(map(len, image.blobs.values())) > PART
    (tmp_path / "users").write_text(line("alice", PASSWORDS["alice"]))
    with fetched(weed, tmp_path) as (bucket, proxy):
        config = f'delivery = "{delivery}"\n{_ALICE}{bucket.config}'
        with Registry(tmp_path, config=f"[server]\n{config}", bucket=bucket.url) as registry:
            name, other = f"{registry.name}/app:1", f"{registry.name}/app:docker"
            login = ("login", "--username", "alice", "--password-stdin")
            skopeo(*login, "--tls-verify=false", registry.name, given=PASSWORDS["alice"].encode())
            docker(*login, registry.name, given=PASSWORDS["alice"].encode())
            skopeo.push(image.source, name)
            number = load_into_docker(docker, skopeo, image, other, tmp_path)
            docker("push", other)
            docker("rmi", other)
            proxy.forget()
            skopeo.pull(name, f"oci:{tmp_path / 'back'}:1")
            assert blobs_of(tmp_path / "back") == image.blobs
            docker("pull", other)
            assert docker("image", "inspect", "--format", "{{.Id}}", other).decode().strip() == number
            assert layers_of_docker(docker("save", other)) == image.diff_ids
            docker("rmi", other)
            signed = [head for head in proxy.read_heads if "X-Amz-Signature=" in head.partition("\r\n")[0]]
            if delivery == "direct":
                assert proxy.read_heads
                assert not signed
            else:
                # Three layers and a config, for each of the two.
                assert len(signed) >= 8
                assert not [head for head in signed if "\r\nauthorization:" in head.lower()]
            asked_by_hand(registry, image, bucket, is_redirected=delivery == "redirect")


def asked_by_hand(registry: Registry, image: Image, bucket: Bucket, *, is_redirected: bool) -> None:
    """HEAD is answered by the daemon in any case; a range is given by whoever has the bytes."""
    digest, alice = image.layers[0], dict([basic("alice", PASSWORDS["alice"])])
    data, path = image.blobs[digest], f"/v2/app/blobs/{image.layers[0]}"
    status, headers, _ = registry.get(path, "HEAD", **alice)
    assert (status, headers["Content-Length"], headers["Location"]) == (200, str(len(data)), None)
    assert headers["Docker-Content-Digest"] == digest
    status, headers, body = registry.get(path, Range=f"bytes={MIB}-{MIB + 9}", **alice)
    if is_redirected:
        assert (status, body, headers["Docker-Content-Digest"]) == (307, b"", digest)
        assert headers["Location"].startswith(f"{bucket.endpoint}/")
        target = urlsplit(headers["Location"])
        assert target.port is not None
        with Client(("127.0.0.1", target.port)) as client:
            own = {"Range": f"bytes={MIB}-{MIB + 9}", "Host": target.netloc}
            status, headers, body = client.ask("GET", f"{target.path}?{target.query}", headers=own)
    assert (status, body) == (206, data[MIB : MIB + 10])
    assert headers["Content-Range"] == f"bytes {MIB}-{MIB + 9}/{len(data)}"
    assert registry.get(path)[0] == 401


# Two workers


@pytest.fixture(scope="module")
def pair(weed: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Bucket]]:
    """Two workers and a collector on one place, with the shortest grace there is."""
    with pytest.MonkeyPatch.context() as patch:
        without_cloud(patch)
        directory = tmp_path_factory.mktemp("pair")
        bucket = Bucket(weed, directory)
        config = f'[gc]\ngrace = "0s"\nquarantine = "0s"\ndelete_untagged = true\n{bucket.config}'
        with Registry(directory, "--workers", "2", config=config, bucket=bucket.url) as registry:
            yield registry, bucket


def test_an_upload_goes_on_in_the_other_worker(pair: tuple[Registry, Bucket]) -> None:
    """Chunk by chunk, across the border of a part; one that breaks off goes on elsewhere where the daemon says it ended."""
    registry, bucket = pair
    content = content_of(PART + 5 * MIB, "two workers")
    digest = digest_of(content)
    first, second = clients_of_each(registry).values()
    location = first.begin("handed/on")
    for client, start, stop in ((first, 0, 3), (second, 3, 6), (first, 6, 9)):
        location = send(client, location, content, start * MIB, stop * MIB)
    with socket.create_connection(registry.address) as raw:
        rest = f"{9 * MIB}-{len(content) - 1}"
        head = f"PATCH {location} HTTP/1.1\r\nHost: a\r\nContent-Length: {4 * MIB}\r\nContent-Range: {rest}\r\n\r\n"
        raw.sendall(head.encode() + content[9 * MIB : 11 * MIB])
    told = [resumable(client, location) for client in (first, second)]
    assert 9 * MIB <= told[-1] <= 11 * MIB
    location = send(second, location, content, told[-1], len(content))
    status, _, said = first.ask("PUT", with_digest(location, digest), b"")
    assert status == 201, said
    for client in (first, second):
        assert client.pull("handed/on", digest) == content
        client.connection.close()
    assert len(content) in bucket.blob_sizes()
    assert bucket.open_uploads() == []


def send(client: Client, location: str, content: bytes, start: int, stop: int) -> str:
    """One chunk; returns where the upload goes on."""
    fields = {"Content-Range": f"{start}-{stop - 1}", **_BYTES}
    status, headers, said = client.ask("PATCH", location, content[start:stop], fields)
    assert (status, headers["Range"]) == (202, f"0-{stop - 1}"), said
    return place(headers)


def resumable(client: Client, location: str) -> int:
    """Where an upload goes on; told when nobody has it any more."""
    status, headers, said = client.ask("GET", location)
    assert status == 204, said
    return int(headers["Range"].removeprefix("0-")) + 1


def test_a_tag_goes_and_the_rest_is_pulled(pair: tuple[Registry, Bucket], skopeo: Skopeo, tmp_path: Path) -> None:
    """What no other image shares leaves the bucket, and is all that does."""
    registry, bucket = pair
    shared = tar_of(shared=content_of(PART + MIB, "shared"))
    kept = make_image(tmp_path / "kept", 10 * KIB, salt="kept", shared=(shared,))
    gone = make_image(tmp_path / "gone", PART + 2 * MIB, 7 * KIB, salt="gone", shared=(shared,))
    skopeo.push(kept.source, f"{registry.name}/app:kept")
    skopeo.push(gone.source, f"{registry.name}/app:gone")
    # What other tests left goes, and nothing of these.
    registry.run()
    sizes = [len(data) for data in (kept.blobs | gone.blobs).values()]
    assert bucket.blob_sizes() == sorted(sizes)
    skopeo("delete", "--tls-verify=false", f"docker://{registry.name}/app:gone")
    report = registry.run()
    assert sorted(each["digest"] for each in report["candidates"]) == sorted(gone.blobs.keys() - kept.blobs.keys())
    assert report["blobs"]["freed"] == 4
    assert bucket.blob_sizes() == sorted(map(len, kept.blobs.values()))
    skopeo.pull(f"{registry.name}/app:kept", f"oci:{tmp_path / 'back'}:1")
    assert blobs_of(tmp_path / "back") == kept.blobs
    assert registry.blob("app", gone.layers[1]) is None
    assert registry.command("check", "--read-data")["ok"]
    assert registry.get("/v2/app/manifests/kept", "DELETE")[0] == 202


# Given up


def test_what_a_killed_client_sent_leaves_the_bucket(
    pair: tuple[Registry, Bucket], skopeo: Skopeo, layout: Path, tmp_path: Path
) -> None:
    """The upload stays for as long as it may be gone on with; then a collection takes its parts, and its spool on this disk."""
    registry, bucket = pair
    spool = registry.store / "index.state" / "spool"

    def left() -> set[str]:
        found = {"spool"} if has_files(spool) else set()
        return found | ({"parts"} if bucket.open_uploads() else set()) | ({"bytes"} if bucket.blob_sizes() else set())

    is_killed_and_expires(registry, skopeo, make_image(layout, PART + 5 * MIB, salt="given up"), left, tmp_path)


def test_what_a_killed_client_sent_leaves_the_disk(skopeo: Skopeo, layout: Path, tmp_path: Path) -> None:
    """As in a bucket."""
    config = '[gc]\ngrace = "0s"\nquarantine = "0s"\ndelete_untagged = true\n'
    with Registry(tmp_path, config=config) as registry:

        def left() -> set[str]:
            return {"parts" if name == "uploads" else "bytes" for name in _PLACES if has_files(registry.store / name)}

        is_killed_and_expires(registry, skopeo, make_image(layout, PART + 5 * MIB, salt="given up"), left, tmp_path)


def is_killed_and_expires(
    registry: Registry, skopeo: Skopeo, image: Image, left: Callable[[], set[str]], directory: Path
) -> None:
    """Push, and kill the client in the midst of its layer; collect, and push again."""
    registry.run()
    assert left() == set()
    with Valve(registry.address, PART + 3 * MIB) as valve:
        target = f"docker://{valve.name}/given/up:1"
        process = skopeo.start("copy", "--preserve-digests", "--dest-tls-verify=false", image.source, target)
        valve.wait()
        wait_for(lambda: "parts" in left(), "a part to arrive")
        process.send_signal(signal.SIGKILL)
        finish(process)
    registry.run()
    assert "parts" in left()
    # The daemon may still have to see that the client is gone.
    wait_for(lambda: registry.run(policy={"upload_idle_s": 0}) and not left(), "the upload to expire")
    assert json.loads(registry.get("/api/v1/stats")[2])["uploads"] == 0
    skopeo.push(image.source, f"{registry.name}/given/up:1")
    skopeo.pull(f"{registry.name}/given/up:1", f"oci:{directory / 'back'}:1")
    assert blobs_of(directory / "back") == image.blobs


def has_files(directory: Path) -> bool:
    """Whether there is anything below it."""
    return any(each.is_file() for each in directory.rglob("*"))
