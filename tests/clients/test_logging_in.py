"""Passwords and tokens, as skopeo, docker and podman show them after a login."""

from __future__ import annotations

from pathlib import Path

from tests.clients.images import blobs_of, make_image
from tests.clients.programs import Program, Skopeo, Storage
from tests.clients.registry import Registry
from tests.clients.test_push_and_pull import load_into_docker
from tests.server.security.guest import PASSWORDS
from tests.server.security.htpasswd import line
from tests.server.security.issuer import ISSUER, SERVICE, public_pem
from tests.server.security.test_real_client import issuing

KIB = 1024
_HTPASSWD = """[server.auth]
method = "htpasswd"
[server.auth.htpasswd]
file = "users"
[server.auth.rights]
"team-a/**" = { alice = ["*"] }
"""
_TOKEN = """[server.auth]
method = "token"
[server.auth.token]
realm = "{realm}"
service = "{service}"
issuer = "{issuer}"
keys = "keys.pem"
"""


def go_through(registry: Registry, skopeo: Skopeo, docker: Program, podman: Storage, directory: Path) -> None:
    """Each client is refused, logs in, pushes, pulls, may not push elsewhere, and is refused again after its logout."""
    image = make_image(directory / "layout", 20 * KIB, salt="login")
    good, bad = PASSWORDS["alice"].encode(), b"wrong"
    own, other = f"{registry.name}/team-a/x", f"{registry.name}/team-b/x:1"

    def skopeo_pushes(name: str) -> bool:
        target = f"docker://{name}"
        copy = ("copy", "--preserve-digests", "--dest-tls-verify=false", image.source, target)
        return skopeo.attempt(*copy).returncode == 0

    login = ("login", "--username", "alice", "--password-stdin")
    assert not skopeo_pushes(f"{own}:1")
    assert skopeo.attempt(*login, "--tls-verify=false", registry.name, given=bad).returncode != 0
    skopeo(*login, "--tls-verify=false", registry.name, given=good)
    assert skopeo_pushes(f"{own}:1")
    assert not skopeo_pushes(other)
    skopeo.pull(f"{own}:1", f"oci:{directory / 'back'}:1")
    assert blobs_of(directory / "back") == image.blobs
    skopeo("logout", registry.name)
    assert not skopeo_pushes(f"{own}:2")

    number = load_into_docker(docker, skopeo, image, f"{own}:docker", directory)
    docker("tag", f"{own}:docker", other)
    assert docker.attempt("push", f"{own}:docker").returncode != 0
    assert docker.attempt(*login, registry.name, given=bad).returncode != 0
    docker(*login, registry.name, given=good)
    docker("push", f"{own}:docker")
    assert docker.attempt("push", other).returncode != 0
    docker("rmi", f"{own}:docker", other)
    docker("pull", f"{own}:docker")
    assert docker("image", "inspect", "--format", "{{.Id}}", f"{own}:docker").decode().strip() == number
    docker("logout", registry.name)
    assert docker.attempt("push", f"{own}:docker").returncode != 0
    docker("rmi", f"{own}:docker")

    pull = ("pull", *podman.policy, "--tls-verify=false", "--quiet", f"docker://{own}:1")
    assert podman.attempt(*pull).returncode != 0
    podman(*login, "--tls-verify=false", registry.name, given=good)
    assert podman(*pull).decode().split()[-1] == number.partition(":")[2]


def test_with_passwords(tmp_path: Path, skopeo: Skopeo, docker: Program, podman: Storage) -> None:
    """From a file of users."""
    (tmp_path / "users").write_text("\n".join(line(user, password) for user, password in PASSWORDS.items()))
    with Registry(tmp_path, config=_HTPASSWD) as registry:
        go_through(registry, skopeo, docker, podman, tmp_path)


def test_with_tokens(tmp_path: Path, skopeo: Skopeo, docker: Program, podman: Storage) -> None:
    """From an issuer that the daemon's challenge names."""
    (tmp_path / "keys.pem").write_bytes(public_pem("ES256"))
    with issuing() as issuer:
        config = _TOKEN.format(realm=f"http://127.0.0.1:{issuer.server_port}/token", service=SERVICE, issuer=ISSUER)
        with Registry(tmp_path, config=config) as registry:
            go_through(registry, skopeo, docker, podman, tmp_path)
        assert len(issuer.asked) > 5  # type: ignore[attr-defined]
