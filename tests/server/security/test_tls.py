"""S23: what is encrypted is encrypted well, and a port of TLS speaks nothing else."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore.errors import ConfigInvalid
from blobstore.server.daemon.config import TlsConfig
from blobstore.server.daemon.tls import tls_context
from tests.server.hosting import Host, echo
from tests.tools import require_tool


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    """A certificate that vouches for itself, and its key."""
    certificate, key = str(folder / f"{name}.crt"), str(folder / f"{name}.key")
    made = [
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    command = [require_tool("openssl"), "req", *made, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client", "stranger"):
        make_certificate(folder, name)
    return folder


@pytest.fixture
def host(files: Path) -> Iterator[Host]:
    context = tls_context(TlsConfig(certificate=str(files / "server.crt"), key=str(files / "server.key")))
    with Host(echo, tls=context) as running:
        yield running


def client(files: Path) -> ssl.SSLContext:
    """A client that knows the server."""
    context = ssl.create_default_context(cafile=str(files / "server.crt"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def greet(host: Host, context: ssl.SSLContext) -> tuple[str, str]:
    """Version and cipher of a connection over which a request was answered."""
    with (
        socket.create_connection(host.address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as made,
    ):
        made.sendall(b"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: made.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        found = made.cipher()
        assert found is not None
        return str(made.version()), found[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_good_versions_are_spoken(host: Host, files: Path, version: ssl.TLSVersion) -> None:
    """With forward secrecy and authenticated encryption."""
    context = client(files)
    context.minimum_version = context.maximum_version = version
    spoken, cipher = greet(host, context)
    assert spoken == version.name.replace("TLSv1_", "TLSv1.")
    assert "GCM" in cipher or "CHACHA20" in cipher


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_and_weak_ciphers_are_not(host: Host, files: Path) -> None:
    """A client that can do no better gets no connection."""
    old = client(files)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        greet(host, old)
    for ciphers in ("AES128-SHA:@SECLEVEL=0", "ECDHE-RSA-AES128-SHA:@SECLEVEL=0", "AES128-GCM-SHA256:@SECLEVEL=0"):
        weak = client(files)
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers(ciphers)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            greet(host, weak)


def test_a_port_of_tls_answers_nothing_in_the_clear(host: Host) -> None:
    """Whoever forgets the `s` sends a password, and gets no answer that would look like one."""
    with host.connect() as made:
        made.sendall(b"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        try:
            assert b"HTTP/1.1 200" not in made.recv(65536)
        except ConnectionResetError:
            return


def test_a_clients_certificate_can_be_asked_for(files: Path) -> None:
    """Then nobody without one gets as far as a request."""
    config = TlsConfig(
        certificate=str(files / "server.crt"), key=str(files / "server.key"), client_authority=str(files / "client.crt")
    )
    with Host(echo, tls=tls_context(config)) as host:
        known = client(files)
        known.load_cert_chain(files / "client.crt", files / "client.key")
        greet(host, known)
        stranger = client(files)
        stranger.load_cert_chain(files / "stranger.crt", files / "stranger.key")
        for context in (stranger, client(files)):
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                greet(host, context)


def test_what_cannot_be_used_is_said_at_the_start(files: Path) -> None:
    """A key of another certificate, a file that isn't there, or half a table."""
    for config in (
        TlsConfig(certificate=str(files / "server.crt")),
        TlsConfig(certificate=str(files / "server.crt"), key=str(files / "client.key")),
        TlsConfig(certificate=str(files / "none"), key=str(files / "server.key")),
        TlsConfig(
            certificate=str(files / "server.crt"), key=str(files / "server.key"), client_authority=str(files / "none")
        ),
    ):
        with pytest.raises(ConfigInvalid, match=r"server\.tls"):
            tls_context(config)
