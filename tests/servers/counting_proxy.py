"""A proxy on the loopback that counts the S3 requests which pass through it, so that every program is counted alike."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

_HEAD_MAX_BYTES = 256 * 1024
_PIECE_BYTES = 256 * 1024
_BY_QUERY = {
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "uploadId"): "ListParts",
    ("GET", "versioning"): "GetBucketVersioning",
    ("GET", "versions"): "ListObjectVersions",
    ("GET", "location"): "GetBucketLocation",
    ("POST", "delete"): "DeleteObjects",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("PUT", "uploadId"): "UploadPart",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
}


class CountingProxy:
    """`requests` is how many of each kind went by, `read_keys` which objects were read, `read_heads` by what requests."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.port = 0
        self.requests: collections.Counter[str] = collections.Counter()
        self.read_keys: list[str] = []
        self.read_heads: list[str] = []

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())

    def forget(self) -> None:
        """Count anew."""
        self.requests.clear()
        self.read_keys.clear()
        self.read_heads.clear()

    def told(self) -> str:
        """The kinds, most frequent first."""
        return ", ".join(f"{count:,} {kind}" for kind, count in self.requests.most_common()) or "none"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection. Heads are read, all else passes as it is: what is signed stays as it was signed."""
        back: asyncio.Task[None] | None = None
        server: asyncio.StreamWriter | None = None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            answers, server = await asyncio.open_connection("127.0.0.1", self._target_port)
            back = asyncio.create_task(_pass_on(answers, writer))
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                left = self._count(head.decode("latin-1"))
                server.write(head)
                while left:
                    piece = await reader.read(min(left, _PIECE_BYTES))
                    if not piece:
                        break
                    server.write(piece)
                    await server.drain()
                    left -= len(piece)
        for each in (server, writer):
            if each is not None:
                each.close()
        if back is not None:
            back.cancel()

    def _count(self, head: str) -> int:
        """Note a request; the length of its body."""
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        url = urlsplit(target)
        kind = _kind(method, url.path, set(parse_qs(url.query, keep_blank_values=True)))
        self.requests[kind] += 1
        if kind == "GetObject":
            self.read_keys.append(unquote(url.path).split("/", 2)[2])
            self.read_heads.append(head)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert "transfer-encoding" not in headers, f"{first}: a body without a length can't be followed"
        return int(headers.get("content-length", "0"))


def _kind(method: str, path: str, query: set[str]) -> str:
    for (of_method, of_query), kind in _BY_QUERY.items():
        if method == of_method and of_query in query:
            return kind
    is_of_object = "/" in path.strip("/")
    if method == "GET" and not is_of_object:
        return "ListObjects"
    return f"{method.capitalize()}{'Object' if is_of_object else 'Bucket'}"


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def counting_proxy(target_port: int) -> Iterator[CountingProxy]:
    """One in a thread of its own."""
    proxy = CountingProxy(target_port)
    loop = asyncio.new_event_loop()
    is_up = threading.Event()
    is_over = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=_HEAD_MAX_BYTES)
        proxy.port = server.sockets[0].getsockname()[1]
        is_up.set()
        await is_over.wait()
        server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="counting proxy", daemon=True)
    thread.start()
    is_up.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join()
