"""Files leave whole and unchanged, by the kernel where it can, on both event loops, encrypted and not."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from blobstore.server.daemon.config import TlsConfig
from blobstore.server.daemon.tls import tls_context
from blobstore.server.protocol.messages import FileSpan, Request, Response
from blobstore.server.web import _sendfile
from blobstore.server.web.application import WebSettings
from blobstore.server.web.patience import RateLimits
from tests.server.hosting import LOOPS, Host, is_closed, read_answer, read_head

MIB = 1024 * 1024
SIZE = 9 * MIB + 12345
GET = b"GET /%d-%d HTTP/1.1\r\nHost: a\r\n\r\n"
SPANS = [(0, SIZE), (0, 0), (0, 1), (SIZE - 1, SIZE), (5, 65536 + 5), (5, 65536 + 6), (4096, 3 * MIB), (MIB, MIB + 100)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sendfile") / "file"
    path.write_bytes(hashlib.shake_128(b"sendfile").digest(SIZE))
    return path


class Files:
    """Answers with the part of a file that the path names; knows which were closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.handles: list[int] = []

    async def __call__(self, request: Request) -> Response:
        start, stop = map(int, request.path[1:].split("-"))
        handle = os.open(self._path, os.O_RDONLY)
        self.handles.append(handle)
        return Response(200, (), FileSpan(handle, start, stop - start))

    def are_closed(self) -> bool:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if not any(os.path.exists(f"/proc/self/fd/{handle}") for handle in self.handles):
                return True
            time.sleep(0.01)
        return False


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "unix"])
def test_spans_arrive_as_they_are_in_the_file(loop: str, listen: str, file: Path, tmp_path: Path):
    """From one byte to several megabytes, from the middle, one after the other on a connection."""
    files, content = Files(file), file.read_bytes()
    address = f"unix:{tmp_path}/s" if listen == "unix" else listen
    with Host(files, loop=loop, listen=address) as host, _connect(host) as made:
        for start, stop in SPANS:
            made.sendall(GET % (start, stop))
            status, fields, body = read_answer(made)
            assert (status, fields["content-length"]) == (200, str(stop - start))
            assert body == content[start:stop]
        # Also asked for all at once.
        made.sendall(b"".join(GET % span for span in SPANS))
        for start, stop in SPANS:
            assert read_answer(made)[2] == content[start:stop]
    assert files.are_closed()


def _connect(host: Host) -> socket.socket:
    if isinstance(host.address, tuple) and ":" in host.address[0]:
        return socket.create_connection(host.address[:2], timeout=20)
    return host.connect()


@pytest.mark.parametrize("loop", LOOPS)
def test_files_leave_through_tls(loop: str, file: Path, certificate: TlsConfig):
    """Through a buffer, as the kernel can't encrypt them."""
    files, content = Files(file), file.read_bytes()
    assert certificate.certificate
    trusting = ssl.create_default_context(cafile=certificate.certificate)
    with (
        Host(files, loop=loop, tls=tls_context(certificate)) as host,
        host.connect() as plain,
        trusting.wrap_socket(plain, server_hostname="localhost") as made,
    ):
        for start, stop in SPANS:
            made.sendall(GET % (start, stop))
            assert _read_encrypted(made, stop - start) == content[start:stop]
    assert files.are_closed()


def _read_encrypted(made: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += made.recv(1)
    body = bytearray()
    while len(body) < size:
        body += made.recv(min(MIB, size - len(body)))
    return bytes(body)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> TlsConfig:
    """Of localhost, signed by itself."""
    path = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run([*command.split(), *names], cwd=path, check=True, capture_output=True)
    return TlsConfig(certificate=str(path / "certificate.pem"), key=str(path / "key.pem"))


@pytest.mark.parametrize("loop", LOOPS)
def test_the_kernel_sends_what_is_not_small(loop: str, file: Path, monkeypatch: pytest.MonkeyPatch):
    """No byte of it passes through this process."""
    sent: list[int] = []
    real = os.sendfile

    def counting(out: int, handle: int, offset: int, count: int) -> int:
        sent.append(real(out, handle, offset, count))
        return sent[-1]

    monkeypatch.setattr(_sendfile.os, "sendfile", counting)
    with Host(Files(file), loop=loop) as host, host.connect() as made:
        made.sendall(GET % (0, SIZE))
        assert len(read_answer(made)[2]) == SIZE
    assert sum(sent) == SIZE


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("answer", [errno.EAGAIN, errno.EOPNOTSUPP], ids=["no", "cannot-tell"])
def test_what_is_not_in_memory_is_read_by_a_thread(loop: str, answer: int, file: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk holds up one request, not all."""
    threads: list[str] = []
    real = os.sendfile

    def noting(out: int, handle: int, offset: int, count: int) -> int:
        import threading

        threads.append(threading.current_thread().name)
        return real(out, handle, offset, count)

    def never_there(*_: object) -> int:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(_sendfile.os, "sendfile", noting)
    monkeypatch.setattr(_sendfile.os, "preadv", never_there)
    content = file.read_bytes()
    with Host(Files(file), loop=loop) as host, host.connect() as made:
        made.sendall(GET % (0, SIZE) + GET % (10, 20))
        assert read_answer(made)[2] == content
        assert read_answer(made)[2] == content[10:20]
    assert threads
    assert all(name.startswith("blobstore-send") for name in threads)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_client_that_goes_ends_the_sending_and_closes_the_file(loop: str, ending: str, file: Path):
    """Nothing is left open."""
    files = Files(file)
    with Host(files, loop=loop) as host:
        for _ in range(5):
            made = host.connect(receive_buffer=4096)
            made.sendall(GET % (0, SIZE))
            read_head(made)
            if ending == "reset":
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            made.close()
        assert files.are_closed()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_does_not_read_is_cut_off(loop: str, file: Path):
    """The socket is given back to the others."""
    files = Files(file)
    settings = WebSettings(rates=RateLimits(rate_min_bytes_s=10**9, allowance_s=0.3))
    with Host(files, loop=loop, settings=settings) as host, host.connect(receive_buffer=4096) as made:
        made.sendall(GET % (0, SIZE))
        read_head(made)
        assert files.are_closed()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size", [100, 5 * MIB])
def test_a_file_that_is_too_short_is_not_taken_for_whole(
    loop: str, size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The connection is cut: the client sees that bytes are missing."""
    (tmp_path / "short").write_bytes(b"x" * (size // 2))
    with Host(Files(tmp_path / "short"), loop=loop) as host, host.connect() as made:
        made.sendall(GET % (0, size))
        with pytest.raises(ConnectionError):
            read_answer(made)
    assert "less than it should" in caplog.text


def test_a_head_is_answered_without_the_file(file: Path):
    """Its length is told all the same, and it is closed."""
    files = Files(file)
    with Host(files) as host, host.connect() as made:
        made.sendall((GET % (0, SIZE)).replace(b"GET", b"HEAD"))
        status, fields, _ = read_answer(made, is_head=True)
        assert (status, fields["content-length"]) == (200, str(SIZE))
        made.sendall(GET.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n") % (0, 5))
        assert len(read_answer(made)[2]) == 5
        assert is_closed(made)
    assert files.are_closed()


@pytest.mark.parametrize("loop", LOOPS)
def test_many_are_served_at_once(loop: str, file: Path):
    """A slow one doesn't hold up the others."""
    content = file.read_bytes()
    with Host(Files(file), loop=loop) as host:
        slow = host.connect(receive_buffer=4096)
        slow.sendall(GET % (0, SIZE))
        read_head(slow)
        for _ in range(5):
            with host.connect() as made:
                made.sendall(GET % (0, SIZE))
                assert read_answer(made)[2] == content
        slow.close()
