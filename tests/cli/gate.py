"""A gate in front of a server: it hangs up in the middle of what passes through, and lets nobody in until it is opened again."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Gate:
    """Forwards connections to a port of this machine, until so many bytes went in."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._left: int | None = None
        self.is_shut = False
        self.refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def shut_after(self, passing_bytes: int) -> None:
        """Let so many more bytes in."""
        with self._lock:
            self._left = passing_bytes

    def open(self) -> None:
        """Let all in again."""
        with self._lock:
            self._left, self.is_shut = None, False

    def close(self) -> None:
        """Forward nothing any more."""
        self._listener.close()
        self._hang_up()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                incoming, _ = self._listener.accept()
                if self.is_shut:
                    self.refused += 1
                    incoming.close()
                    continue
                outgoing = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._open |= {incoming, outgoing}
                for pair, is_inward in (((incoming, outgoing), True), ((outgoing, incoming), False)):
                    threading.Thread(target=self._forward, args=(*pair, is_inward), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, is_inward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_inward and self._uses_up(len(data)):
                    self._hang_up()
                    return
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _uses_up(self, size: int) -> bool:
        with self._lock:
            if self._left is None:
                return False
            self._left -= size
            self.is_shut = self.is_shut or self._left <= 0
            return self.is_shut

    def _hang_up(self) -> None:
        with self._lock:
            ended, self._open = self._open, set()
        for each in ended:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextlib.contextmanager
def gate_to(port: int) -> Iterator[Gate]:
    """A gate, gone at the end."""
    gate = Gate(port)
    try:
        yield gate
    finally:
        gate.close()
