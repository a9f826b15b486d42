"""S13, S15: the registry asks nobody on a client's word, and a URL it hands out is short-lived, private and unlogged."""

from __future__ import annotations

import ast
import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from blobstore.backends.memory import MemoryBackend
from blobstore.errors import ConfigInvalid
from blobstore.index.memory import MemoryIndex
from blobstore.server.auth.config import AuthConfig, TokenConfig, check_auth
from blobstore.server.auth.token_access import make_token_access
from blobstore.server.operations.logs import make_log
from blobstore.server.operations.watching import AccessLog, Watch
from blobstore.server.protocol.messages import Headers, Request
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.settings import Delivery, RegistrySettings
from blobstore.store import Store
from blobstore.testing import FakeClock
from blobstore.testing.fakes import START_MS, image, layer
from tests.server.security.asking import bearer
from tests.server.security.guest import House
from tests.server.security.issuer import ISSUER, REALM, SERVICE, access, claims, public_pem, sign
from tests.spec.client import OCI_MANIFEST, Client, digest

ROOT = Path(__file__).resolve().parents[3]
# Those that ask others: what an operator configured to be told, and the daemon's own processes.
ASKERS = {"_listener", "_passing_on"}
CLIENTS = {"urllib.request", "http.client", "httpx", "requests", "urllib3", "ftplib", "smtplib"}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whoever wants to connect, or to learn an address, is noted and refused."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments)
        raise OSError("there is no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def test_no_part_of_the_registry_is_a_client() -> None:
    """But for those that are told whom to ask by the operator."""
    seen = 0
    for path in (ROOT / "blobstore" / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not {
                name for name in names for client in CLIENTS if name == client or name.startswith(client + ".")
            }, path
            if isinstance(node, ast.Attribute) and node.attr == "ClientSession":
                seen += 1
                assert path.stem in ASKERS, path
    assert seen


async def test_the_urls_of_a_layer_are_kept_and_not_followed(house: House, no_network: list[Any]) -> None:
    """Neither at a push nor at a pull (CVE-2020-15157); a manifest may name any place, of ours too."""
    await house.alice.push(b"config", "team-a/x")
    for url in (
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:5000/api/v1/runs",
        "file:///etc/passwd",
        "gopher://x",
    ):
        document = json.loads(image(b"config", [layer(b"far away", is_foreign=True)]).body)
        document["layers"][0]["urls"] = [url]
        body = json.dumps(document).encode()
        answer = await house.alice.put("/v2/team-a/x/manifests/v1", body, headers={"Content-Type": OCI_MANIFEST})
        assert answer.status == 201
        assert (await house.alice.get("/v2/team-a/x/manifests/v1")).body == body
        assert (await house.alice.get(f"/v2/team-a/x/blobs/{digest(b'far away')}")).status == 404
    assert no_network == []


async def test_a_token_sends_us_nowhere(store: Store, clock: FakeClock, tmp_path: Path, no_network: list[Any]) -> None:
    """Keys are in files: no header of a token, and no claim, is a place to look for one."""
    (tmp_path / "keys").write_bytes(public_pem("ES256"))
    token = TokenConfig(realm=REALM, service=SERVICE, issuer=ISSUER, keys=str(tmp_path / "keys"))
    registry = Registry(store, access=make_token_access(AuthConfig(method="token", token=token), clock=clock))
    payload = claims(START_MS // 1000, access("a", "pull"), iss="https://evil.example/")
    for headers in ({"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/x"}, {}):
        signed = sign(payload, "ES256", kid=None, headers=headers)
        answer = await Client(registry).get("/v2/a/tags/list", headers=[bearer(signed)])
        assert answer.status == 401
    assert no_network == []


@pytest.mark.parametrize("field", ["Host", "X-Forwarded-Host", "Forwarded", "Origin", "Referer", "X-Original-URL"])
async def test_the_realm_is_the_operators(store: Store, clock: FakeClock, tmp_path: Path, field: str) -> None:
    """No client decides where clients bring their passwords (CVE-2026-33540)."""
    (tmp_path / "keys").write_bytes(public_pem("ES256"))
    token = TokenConfig(realm=REALM, service=SERVICE, issuer=ISSUER, keys=str(tmp_path / "keys"))
    registry = Registry(store, access=make_token_access(AuthConfig(method="token", token=token), clock=clock))
    answer = await Client(registry).get("/v2/", headers={field: "evil.example"})
    assert answer["WWW-Authenticate"] == f'Bearer realm="{REALM}",service="{SERVICE}"'


@pytest.mark.parametrize(
    "realm", ["evil", "javascript:alert(1)", "ftp://a/b", "https://", "https://user:password@a/", 'https://a/",x="']
)
def test_a_realm_that_is_none(realm: str) -> None:
    """Found at the start."""
    token = TokenConfig(realm=realm, service=SERVICE, issuer=ISSUER, keys="keys")
    with pytest.raises(ConfigInvalid, match="realm"):
        check_auth(AuthConfig(method="token", token=token))


class Signing(MemoryBackend):
    """As an object store: anybody who has the URL has the object."""

    async def presign(self, key: str, valid_s: int) -> str:
        """A URL."""
        return f"https://bucket.example/{key}?X-Amz-Expires={valid_s}&X-Amz-Signature=s3cret"


async def test_a_presigned_url_is_handed_out_on_demand_alone_and_never_written_down() -> None:
    """Off by default; for the one blob that the caller may pull; not for caches, nor for the next page, nor in the log."""
    store = Store(Signing(renames=False), MemoryIndex(), clock=FakeClock())
    await store.open(create=True)
    stream = io.StringIO()
    watch = Watch(AccessLog(make_log(stream=stream)))
    registry = Registry(store, observer=watch)
    client = Client(registry)
    named = await client.push(b"data", "team-a/x")
    url = f"/v2/team-a/x/blobs/{named}"
    assert (await client.get(url)).status == 200
    registry.settings = RegistrySettings(delivery=Delivery.REDIRECT)
    response = await watch.wrap(registry.answer)(
        Request(
            method="GET",
            path=url,
            headers=Headers([("Referer", "https://x/?X-Amz-Signature=s3cret")]),
            query=[("X-Amz-Signature", "s3cret")],
        )
    )
    assert response.status == 307
    assert "X-Amz-Expires=60" in str(response.header("Location"))
    assert (response.header("Cache-Control"), response.header("Referrer-Policy")) == (
        "private, no-store",
        "no-referrer",
    )
    assert response.payload == b""
    assert "s3cret" not in stream.getvalue()
    assert json.loads(stream.getvalue())["status"] == 307
    assert (await client.get(url.replace("team-a", "team-b"))).status == 404
    await store.aclose()
