"""Authentication as a real client lives through it: skopeo, with passwords, with tokens, and with nothing."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from blobstore.clock import SystemClock, random_hex
from blobstore.server.auth.config import AuthConfig, HtpasswdConfig, TokenConfig
from tests.server.hosting import Host
from tests.server.security.guest import PASSWORDS, RIGHTS
from tests.server.security.hosted import hosted
from tests.server.security.htpasswd import line
from tests.server.security.issuer import ISSUER, SERVICE, access, claims, public_pem, sign
from tests.spec.client import OCI_MANIFEST, digest
from tests.tools import require_tool

BLOBS = (
    b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}',
    gzip.compress(b"a layer", mtime=0),
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image as a folder."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "blobs" / "sha256").mkdir(parents=True)

    def add(data: bytes, kind: str) -> dict[str, object]:
        (folder / "blobs" / "sha256" / digest(data)[7:]).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    config = add(BLOBS[0], "application/vnd.oci.image.config.v1+json")
    layer = add(BLOBS[1], "application/vnd.oci.image.layer.v1.tar+gzip")
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
    listed = add(json.dumps(document).encode(), OCI_MANIFEST)
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [listed]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def skopeo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What skopeo says, without anybody's own settings."""
    command = [require_tool("skopeo"), "--insecure-policy", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )


def push(image: Path, host: Host, name: str, user: str | None) -> bool:
    """Whether it could."""
    shown = ["--dest-creds", f"{user}:{PASSWORDS[user]}"] if user else ["--dest-no-creds"]
    target = f"docker://127.0.0.1:{host.address[1]}/{name}"
    return skopeo("copy", "--dest-tls-verify=false", *shown, f"oci:{image}", target).returncode == 0


def pull(folder: Path, host: Host, name: str, user: str | None) -> bool:
    """Whether it could, and got the bytes."""
    shown = ["--src-creds", f"{user}:{PASSWORDS[user]}"] if user else ["--src-no-creds"]
    place = folder / f"{user}-{name.replace('/', '-').replace(':', '-')}-{random_hex(4)}"
    source = f"docker://127.0.0.1:{host.address[1]}/{name}"
    done = skopeo("copy", "--src-tls-verify=false", *shown, source, f"oci:{place}")
    return done.returncode == 0 and (place / "blobs" / "sha256" / digest(BLOBS[1])[7:]).read_bytes() == BLOBS[1]


class Issuer(BaseHTTPRequestHandler):
    """Gives whoever asks what the rights of the tests allow."""

    asked: list[str]

    def do_GET(self) -> None:
        """A token for the scopes in the query."""
        query = parse_qs(urlsplit(self.path).query)
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        shown = (self.headers.get("Authorization") or "").partition("Basic ")[2]
        user, _, password = base64.b64decode(shown).decode().partition(":")
        if user and PASSWORDS.get(user) != password:
            self.send_error(401)
            return
        entries = []
        for scope in " ".join(query.get("scope", [])).split():
            _, name, actions = scope.split(":")
            owned = RIGHTS.get(f"{name.partition('/')[0]}/**", {}).get(user, ())
            allowed = set(owned) | ({"pull"} if name.startswith("public/") else set()) | set(RIGHTS["**"].get(user, ()))
            entries.append(access(name, *(each for each in actions.split(",") if allowed & {each, "*"})))
        body = json.dumps(
            {"token": sign(claims(SystemClock().now_ms() / 1000, *entries, sub=user), "ES256", kid=None)}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def issuing() -> Iterator[ThreadingHTTPServer]:
    """A running issuer."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_with_passwords(image: Path, tmp_path: Path) -> None:
    """Each where the table says; and anybody pulls what is public, without a password to show."""
    path = tmp_path / "htpasswd"
    path.write_text("\n".join(line(user, password) for user, password in PASSWORDS.items()))
    config = AuthConfig(
        method="htpasswd", htpasswd=HtpasswdConfig(file=str(path)), rights=RIGHTS, anonymous_pull=("public/**",)
    )
    with hosted(tmp_path / "store", config) as host:
        assert push(image, host, "team-a/x:v1", "alice")
        assert pull(tmp_path, host, "team-a/x:v1", "alice")
        assert not pull(tmp_path, host, "team-a/x:v1", "bob")
        assert not pull(tmp_path, host, "team-a/x:v1", None)
        assert not push(image, host, "team-b/x:v1", "alice")
        assert not push(image, host, "public/x:v1", None)
        assert push(image, host, "public/x:v1", "root")
        assert pull(tmp_path, host, "public/x:v1", None)
        assert pull(tmp_path, host, "public/x:v1", "bob")


def test_with_tokens(image: Path, tmp_path: Path) -> None:
    """The challenge sends skopeo to the issuer, with the scopes that it needs; the token opens just those."""
    (tmp_path / "keys").write_bytes(public_pem("ES256"))
    with issuing() as issuer:
        realm = f"http://127.0.0.1:{issuer.server_port}/token"
        token = TokenConfig(realm=realm, service=SERVICE, issuer=ISSUER, keys=str(tmp_path / "keys"))
        with hosted(tmp_path / "store", AuthConfig(method="token", token=token)) as host:
            assert push(image, host, "team-a/x:v1", "alice")
            assert pull(tmp_path, host, "team-a/x:v1", "alice")
            assert not pull(tmp_path, host, "team-a/x:v1", "bob")
            assert not pull(tmp_path, host, "team-a/x:v1", None)
            assert not push(image, host, "team-b/x:v1", "alice")
            assert push(image, host, "public/x:v1", "root")
            assert pull(tmp_path, host, "public/x:v1", None)
        asked = issuer.asked  # type: ignore[attr-defined]
    assert any("repository%3Ateam-a%2Fx%3Apull%2Cpush" in each for each in asked)
    assert all(f"service={SERVICE}" in each for each in asked)
