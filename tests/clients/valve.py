"""A relay between a client and the daemon that stops in mid-layer, and goes on or breaks off when a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self


class Valve:
    """Lets `limit` bytes of each connection through, then holds the rest of it back until `open` or `cut`."""

    def __init__(self, target: tuple[str, int], limit: int) -> None:
        self._target, self._limit = target, limit
        self._lock, self._go = threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.is_shut = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.name = f"127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        # Wakes the thread that accepts, as closing alone doesn't.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(20)
        self._listening.close()
        self._break()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _start(self, what: Callable[..., None], *arguments: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def open(self) -> None:
        """Let everything through from now on."""
        self._go.set()

    def cut(self) -> None:
        """Break all connections, and let those that come after through."""
        self._break()
        self.open()

    def wait(self) -> None:
        """Until bytes are held back."""
        assert self.is_shut.wait(60), "the client never sent as much"

    def _break(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for each in (end for pair in pairs for end in pair):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    self._pairs.append((client, server))
                self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            down = self._start(self._down, client, server)
            self._up(client, server)
            down.join()
            with self._lock:
                if (client, server) in self._pairs:
                    self._pairs.remove((client, server))

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        left = self._limit
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                through = min(len(data), left)
                left -= through
                server.sendall(data[:through])
                if through < len(data) and not self._go.is_set():
                    self.is_shut.set()
                    self._go.wait()
                server.sendall(data[through:])
        _end(server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        # Nothing more will be read by the other thread either.
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _end(made: socket.socket) -> None:
    with contextlib.suppress(OSError):
        made.shutdown(socket.SHUT_WR)
