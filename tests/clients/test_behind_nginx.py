"""nginx in front of the daemon, as deploy/nginx.conf sets it up: it takes uploads as they come, and sends the files itself."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.clients.images import blobs_of, make_image
from tests.clients.programs import Skopeo, finish
from tests.clients.registry import Registry
from tests.clients.valve import Valve
from tests.server.daemon import ROOT, Client, wait_for
from tests.servers.processes import answers, free_ports, running, wait_until
from tests.tools import require_tool

KIB, MIB = 1024, 1024 * 1024
_MAIN = """user {user};
daemon off;
pid {place}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    include {place}/site.conf;
}}
"""
_CONFIG = """[server]
delivery = "accel"
trusted_proxies = ["127.0.0.1"]
"""


def handed_out(port: int, daemon: str, store: Path) -> str:
    """`deploy/nginx.conf`, with the addresses and the place of a test, and without TLS."""
    text = re.sub(r" *ssl_certificate.*\n", "", (ROOT / "deploy" / "nginx.conf").read_text())
    for old, new in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        ("127.0.0.1:5000", daemon),
        ("/var/lib/blobstore/store/", f"{store}/"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def running_nginx(directory: Path, registry: Registry) -> Iterator[tuple[str, int]]:
    """One of its own; where it listens."""
    nginx = require_tool("nginx", how="Debian: apt-get install nginx-light")
    (port,) = free_ports(1)
    (directory / "site.conf").write_text(handed_out(port, registry.name, registry.store))
    (directory / "nginx.conf").write_text(_MAIN.format(user=pwd.getpwuid(os.getuid()).pw_name, place=directory))
    command = [nginx, "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")]
    with running(command, directory, name="nginx") as process:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/v2/"), "nginx", process, directory / "error.log")
        yield "127.0.0.1", port


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, tuple[str, int]]]:
    """The daemon, and where nginx in front of it listens."""
    directory = tmp_path_factory.mktemp("both")
    (directory / "nginx").mkdir()
    with Registry(directory, config=_CONFIG) as registry, running_nginx(directory / "nginx", registry) as address:
        yield registry, address


def test_what_is_pushed_through_nginx_is_pulled_from_it(
    both: tuple[Registry, tuple[str, int]], skopeo: Skopeo, layout: Path, tmp_path: Path
) -> None:
    """Every byte, and none of a blob by way of the daemon; half a layer is in the store before the other half is sent."""
    registry, address = both
    image = make_image(layout, 12 * MIB, 10 * KIB, 5, salt="nginx")
    with Valve(address, 4 * MIB) as valve:
        target = f"docker://{valve.name}/by/nginx:1"
        process = skopeo.start("copy", "--preserve-digests", "--dest-tls-verify=false", image.source, target)
        valve.wait()
        wait_for(lambda: longest_upload(registry) >= MIB, "the bytes that were sent")
        valve.open()
        status, said = finish(process)
        assert status == 0, said
    before = len(registry.requests())
    skopeo.pull(f"{address[0]}:{address[1]}/by/nginx:1", f"oci:{tmp_path / 'back'}:1")
    assert blobs_of(tmp_path / "back") == image.blobs
    pulled = [each for each in registry.requests()[before:] if "/blobs/" in each["path"] and each["method"] == "GET"]
    assert {(each["status"], each["sent_bytes"]) for each in pulled} == {(200, 0)}
    assert len(pulled) == len(image.layers) + 1


def longest_upload(registry: Registry) -> int:
    """How many bytes the store has of an upload that is open."""
    try:
        return max((each.stat().st_size for each in (registry.store / "uploads").iterdir()), default=0)
    except FileNotFoundError:
        # One that was finished meanwhile.
        return 0


def test_parts_and_fields_are_as_the_daemon_would_give_them(both: tuple[Registry, tuple[str, int]]) -> None:
    """Digest, ETag and range of what nginx sends; a blob is unchanged by the daemon's word; nobody gets a file by its name."""
    registry, address = both
    data = bytes(range(256)) * KIB
    with Client(address) as client:
        digest = client.push("parts", data)
        path = f"/v2/parts/blobs/{digest}"
        assert client.pull("parts", digest) == data
        for method, fields in (("HEAD", {}), ("GET", {}), ("GET", {"Range": "bytes=70000-70009"})):
            status, headers, body = client.ask(method, path, headers=fields)
            named = (headers.get_all("ETag"), headers.get_all("Docker-Content-Digest"), headers["Content-Type"])
            assert named == ([f'"{digest}"'], [digest], "application/octet-stream")
            assert headers.get_all("Docker-Distribution-API-Version") == ["registry/2.0"]
            # nginx doesn't say it again of a part.
            assert headers.get_all("Accept-Ranges") == (["bytes"] if status == 200 else None)
            assert headers["X-Accel-Redirect"] is None
        assert (status, body, headers["Content-Range"]) == (206, data[70000:70010], f"bytes 70000-70009/{len(data)}")
        status, headers, body = client.ask("GET", path, headers={"Range": "bytes=0-1,5-6"})
        assert (status, headers["Content-Type"].partition(";")[0]) == (206, "multipart/byteranges")
        assert client.ask("GET", path, headers={"Range": f"bytes={len(data)}-"})[0] == 416
        assert client.ask("GET", path, headers={"If-None-Match": f'"{digest}"'})[0] == 304
        assert client.ask("GET", f"/v2/other/blobs/{digest}")[0] == 404
        (file,) = (each for each in (registry.store / "blobs").rglob("*") if digest[7:] in each.name)
        assert client.ask("GET", f"/blobstore-files/{file.relative_to(registry.store)}")[0] == 404
        for path in ("/metrics", "/api/v1/stats", "/readyz"):
            assert client.ask("GET", path)[0] == 404


def test_a_client_is_known_by_its_own_address(both: tuple[Registry, tuple[str, int]]) -> None:
    """Whatever it says of itself."""
    registry, address = both
    for field, said in (("Forwarded", "for=203.0.113.9"), ("X-Forwarded-For", "203.0.113.9")):
        with contextlib.closing(HTTPConnection(*address, source_address=("127.0.0.2", 0))) as connection:
            connection.request("GET", f"/v2/made/up/{field.lower()}/tags/list", headers={field: said})
            assert connection.getresponse().status == 404
    found = [each for each in registry.requests() if "/made/up/" in each["path"]]
    assert [each["peer"] for each in found] == ["127.0.0.2"] * 2
