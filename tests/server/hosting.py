"""A server in a thread of this process, with an answer of the test's own; and raw sockets to be nasty with."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

import uvloop

from blobstore.server.daemon.addresses import parse_address
from blobstore.server.daemon.listening import Acceptor, bind
from blobstore.server.protocol.messages import Request, Response
from blobstore.server.web.application import Answer, WebHandler, WebSettings
from blobstore.server.web.connections import ConnectionLimits, Connections, ConnectionServer

Result = TypeVar("Result")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


class Host:
    """A running server."""

    def __init__(
        self,
        answer: Answer,
        *,
        loop: str = "uvloop",
        settings: WebSettings | None = None,
        limits: ConnectionLimits | None = None,
        listen: str = "127.0.0.1:0",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._answer, self._settings, self._limits = answer, settings or WebSettings(), limits or ConnectionLimits()
        self._listening, self._tls = bind(parse_address(listen)), tls
        self.address: Any = self._listening.getsockname()
        self.loop = LOOPS[loop]()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._over = asyncio.Event()
        self._up = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self.handler = WebHandler(self._answer, self._settings)
        self.group = Connections(self._limits, self._settings.proxies, self._resume)
        server = ConnectionServer(self.handler, self.group)
        self._acceptor = Acceptor(self._listening, server, tls=self._tls, is_full=self.group.is_full)
        watching = asyncio.create_task(self.group.watch())
        self._acceptor.resume()
        self._up.set()
        await self._over.wait()
        self._acceptor.close()
        self.group.close_idle()
        await self.group.ended(0.2)
        for task in set(self.handler.tasks):
            task.cancel()
        self.group.abort()
        await self.group.ended(5)
        watching.cancel()
        await self.handler.aclose()

    def _resume(self) -> None:
        self._acceptor.resume()

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        """A connection of the test's."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(20)
        made.connect(self.address)
        return made

    def ask(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes on a new connection, read one answer."""
        with self.connect() as made:
            made.sendall(raw)
            return read_answer(made)


def read_head(made: socket.socket) -> tuple[int, dict[str, str]]:
    """Status, and header fields in lower case; nothing behind them is taken."""
    data = b""
    while b"\r\n\r\n" not in data:
        ahead = made.recv(65536, socket.MSG_PEEK)
        if not ahead:
            raise ConnectionError(f"closed after {data!r}")
        end = (data + ahead).find(b"\r\n\r\n")
        data += made.recv(len(ahead) if end < 0 else end + 4 - len(data))
    lines = data.decode("latin-1").split("\r\n")[:-2]
    fields = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split(" ")[1]), {name.lower(): value for name, value in fields.items()}


def read_answer(made: socket.socket, *, is_head: bool = False) -> tuple[int, dict[str, str], bytes]:
    """One whole answer."""
    status, fields = read_head(made)
    body = bytearray()
    size = 0 if is_head else int(fields.get("content-length", "0"))
    while len(body) < size:
        piece = made.recv(min(1024 * 1024, size - len(body)))
        if not piece:
            raise ConnectionError(f"closed after {len(body)} of {size}")
        body += piece
    return status, fields, bytes(body)


def is_closed(made: socket.socket) -> bool:
    """Whether the other end closes the connection, without a further word."""
    try:
        return made.recv(1) == b""
    except ConnectionResetError:
        return True


async def echo(request: Request) -> Response:
    """Answers with what it was asked, and the size of its body."""
    size = 0
    async for piece in request.body or _nothing():
        size += len(piece)
    text = f"{request.method} {request.path} {list(request.query)} {size}"
    return Response(200, [("Content-Type", "text/plain")], text.encode())


async def refuse(request: Request) -> Response:
    """Answers without a look at the body."""
    del request
    return Response(401, [("Content-Type", "application/json")], b"{}")


async def _nothing() -> Any:
    for piece in ():
        yield piece
