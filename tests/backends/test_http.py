"""Bodies from threads: over TLS, broken off, through proxies, and from connections that were kept."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from blobstore.backends._http import HttpConnections, HttpEndpoint, HttpFailed, HttpRequest
from blobstore.backends.s3 import S3Client, S3Settings
from blobstore.errors import StorageFailed, TransientError
from tests.backends.stubs import serving
from tests.tools import require_tool

MIB = 1024 * 1024
pytestmark = pytest.mark.usefixtures("no_cloud")


class Echo:
    """Answers with the length of what it was sent, or with as many bytes as the path says."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.connections = 0
        self.received = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            length = next((int(line[15:]) for line in head.splitlines() if line.startswith("content-length:")), 0)
            while length:
                chunk = await reader.read(min(length, MIB))
                if not chunk:
                    return
                self.received += len(chunk)
                length -= len(chunk)
            size = int(head.split()[1].rpartition("/")[2] or 0) if head.startswith("GET") else 0
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: e\r\n\r\n".encode())
            for _ in range(size // MIB):
                writer.write(bytes(MIB))
                await writer.drain()
            writer.write(bytes(size % MIB))
            await writer.drain()


@asynccontextmanager
async def echoing(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Echo, str]]:
    echo = Echo()
    scheme = "https" if context is not None else "http"
    async with serving(echo.serve, context) as port:
        yield echo, f"{scheme}://localhost:{port}"


@asynccontextmanager
async def connected(endpoint: HttpEndpoint) -> AsyncIterator[HttpConnections]:
    connections = HttpConnections(endpoint)
    try:
        yield connections
    finally:
        await connections.aclose()


def put(size: int, path: str = "/") -> HttpRequest:
    return HttpRequest("PUT", path, {"host": "localhost", "content-length": str(size)}, bytes(size))


def get(size: int) -> HttpRequest:
    return HttpRequest("GET", f"/{size}", {"host": "localhost"})


async def test_a_connection_serves_many_requests() -> None:
    """One after the other; a body that was not read to its end costs its connection."""
    async with echoing() as (echo, url), connected(HttpEndpoint(url)) as connections:
        for _ in range(5):
            assert (await connections.ask(lambda: put(100_000))).status == 200
            async with connections.stream(lambda: get(3 * MIB + 1)) as (_, chunks):
                assert sum([len(chunk) async for chunk in chunks]) == 3 * MIB + 1
        assert echo.connections == 1
        async with connections.stream(lambda: get(3 * MIB)) as (_, chunks):
            async for _ in chunks:
                break
        assert (await connections.ask(lambda: put(1))).status == 200
        assert echo.connections == 2


async def test_a_slow_line_is_no_silent_server() -> None:
    """The time-out is for a while without progress; a part may take as long as it takes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(16):
            await reader.readexactly(MIB)
            await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with (
        serving(serve) as port,
        connected(HttpEndpoint(f"http://127.0.0.1:{port}", read_timeout_s=0.6)) as connections,
    ):
        assert (await connections.ask(lambda: put(16 * MIB))).status == 200


async def test_a_body_that_failed_holds_no_memory() -> None:
    """Also while its error is kept, to be told later."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3600)

    async with (
        serving(serve) as port,
        connected(HttpEndpoint(f"http://127.0.0.1:{port}", read_timeout_s=0.2)) as connections,
    ):
        body = bytearray(64 * MIB)
        with pytest.raises(HttpFailed) as failed:
            await connections.ask(lambda: HttpRequest("PUT", "/", {"content-length": str(len(body))}, body))
        body.clear()
        assert "timed out" in str(failed.value)


async def test_a_cancelled_body_stops_on_its_way() -> None:
    """Not at its end: the thread lets go of the memory before the wait is over."""
    taken = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The head, and then no more: the sender's buffers fill.
        await reader.readuntil(b"\r\n\r\n")
        taken.set()
        await asyncio.sleep(3600)

    async with (
        serving(serve) as port,
        connected(HttpEndpoint(f"http://127.0.0.1:{port}", read_timeout_s=600)) as connections,
    ):
        body = bytearray(256 * MIB)
        request = HttpRequest("PUT", "/", {"content-length": str(len(body))}, body)
        task = asyncio.ensure_future(connections.ask(lambda: request))
        await taken.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)
        # Nothing holds it any more, or this would raise BufferError.
        body.clear()


async def test_a_cancelled_wait_for_a_body_ends() -> None:
    """While nothing comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        await asyncio.sleep(3600)

    async def read(connections: HttpConnections) -> None:
        async with connections.stream(lambda: get(100)) as (_, chunks):
            async for _ in chunks:
                pass

    async with (
        serving(serve) as port,
        connected(HttpEndpoint(f"http://127.0.0.1:{port}", read_timeout_s=600)) as connections,
    ):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(connections), 0.5)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's side, and the bundle that vouches for it."""
    directory = tmp_path_factory.mktemp("tls")
    key, bundle = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        [
            *(require_tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-keyout", str(key), "-out", str(bundle), "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, key)
    return context, str(bundle)


async def test_over_tls(certificate: tuple[ssl.SSLContext, str]) -> None:
    """With the bundle of a private authority bodies come and go; by us and by the SDK."""
    context, bundle = certificate
    async with echoing(context) as (echo, url):
        settings = S3Settings(bucket="bucket", endpoint=url, access_key="a", secret_key="s", ca_bundle=bundle)
        client = S3Client(settings)
        await client.open()
        try:
            part = await client.put_part("x", "id", 1, bytes(5 * MIB))
            assert (part.size_bytes, echo.received) == (5 * MIB, 5 * MIB)
            await client.abort("x", "id")
        finally:
            await client.aclose()
        async with (
            connected(HttpEndpoint(url, ca_bundle=bundle)) as connections,
            connections.stream(lambda: get(3 * MIB)) as (_, chunks),
        ):
            assert sum([len(chunk) async for chunk in chunks]) == 3 * MIB


async def test_a_certificate_that_nobody_vouches_for(certificate: tuple[ssl.SSLContext, str]) -> None:
    """Not a fault that passes: said once, with what to set."""
    context, _ = certificate
    async with echoing(context) as (_, url):
        client = S3Client(S3Settings(bucket="bucket", endpoint=url, access_key="a", secret_key="s"))
        await client.open()
        try:
            for verb in (lambda: client.put_part("x", "id", 1, b"x"), lambda: client.head("x")):
                with pytest.raises(StorageFailed, match="ca_bundle") as told:
                    await verb()
                assert not isinstance(told.value, TransientError)
        finally:
            await client.aclose()


async def test_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment names is asked for a tunnel; what it excepts is reached directly."""
    asked: list[str] = []

    async with echoing() as (echo, url):
        port = int(url.rpartition(":")[2])

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[0])
            near, far = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                await asyncio.gather(_pump(reader, far), _pump(near, writer))
            finally:
                far.transport.abort()

        async with serving(proxy) as proxy_port:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy_port}")
            async with connected(HttpEndpoint(url)) as connections:
                assert (await connections.ask(lambda: put(1000))).status == 200
            assert asked == [f"CONNECT localhost:{port} HTTP/1.0"]
            monkeypatch.setenv("no_proxy", "localhost")
            async with connected(HttpEndpoint(url)) as connections:
                assert (await connections.ask(lambda: put(1000))).status == 200
            assert len(asked) == 1
            assert echo.received == 2000


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


async def test_many_at_once() -> None:
    """More than there are threads; all get theirs."""
    async with echoing() as (echo, url), connected(HttpEndpoint(url)) as connections:

        async def both() -> int:
            await connections.ask(lambda: put(50_000))
            async with connections.stream(lambda: get(50_000)) as (_, chunks):
                return sum([len(chunk) async for chunk in chunks])

        assert await asyncio.gather(*[both() for _ in range(100)]) == [50_000] * 100
        assert echo.received == 100 * 50_000


async def test_half_an_answer() -> None:
    """Is none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        await writer.drain()

    async with serving(serve) as port, connected(HttpEndpoint(f"http://127.0.0.1:{port}")) as connections:
        with pytest.raises(HttpFailed):
            await connections.ask(lambda: put(0))


def test_the_authority_is_read_once(tmp_path: Path) -> None:
    """A bundle that isn't there is said when the first connection needs it, as an error of the operating system."""
    connections = HttpConnections(HttpEndpoint("https://localhost:1", ca_bundle=str(tmp_path / "none")))
    with pytest.raises(OSError, match="No such file"):
        connections._tls_context()
