"""Sockets to listen on: bound, or inherited from systemd, and what is accepted on them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Callable, Mapping

from blobstore.errors import ConfigInvalid
from blobstore.server.daemon.addresses import Address, TcpAddress, UnixAddress

_LOG = logging.getLogger("blobstore.server")

BACKLOG = 2048
_INHERITED_FIRST = 3
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_OUT_OF_FILES_WAIT_S = 0.5
_HANDSHAKE_MAX_S = 10.0
# Those of a socket that is a file: its directory says who may come near it.
_SOCKET_MODE = 0o660


def bind(address: Address) -> socket.socket:
    """A socket that listens; it is not inherited by processes that are started.

    Raises:
        ConfigInvalid: the address is taken, not of this machine, or not allowed.
    """
    try:
        return _bind_unix(address) if isinstance(address, UnixAddress) else _bind_tcp(address)
    except OSError as error:
        hint = (
            "; another process listens there: stop it, or choose another address"
            if error.errno == errno.EADDRINUSE
            else ""
        )
        raise ConfigInvalid(f"can't listen on {address}: {error.strerror or error}{hint}") from error


def _bind_tcp(address: TcpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address.host, address.port))
        made.listen(BACKLOG)
        made.settimeout(0)
    except BaseException:
        made.close()
        raise
    return made


def _bind_unix(address: UnixAddress) -> socket.socket:
    _remove_dead_socket(address.path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(address.path)
        os.chmod(address.path, _SOCKET_MODE)
        made.listen(BACKLOG)
        made.settimeout(0)
    except BaseException:
        made.close()
        raise
    return made


def _remove_dead_socket(path: str) -> None:
    """One that nobody listens on is left of a process that was killed."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)


def inherited(environment: Mapping[str, str], pid: int) -> list[socket.socket]:
    """The sockets that systemd opened for this process (sd_listen_fds(3)); none if there are none."""
    if environment.get("LISTEN_PID") != str(pid):
        return []
    count = environment.get("LISTEN_FDS", "")
    found = []
    for descriptor in range(_INHERITED_FIRST, _INHERITED_FIRST + (int(count) if count.isdecimal() else 0)):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - it takes no names
        found.append(adopt(descriptor))
    return found


def adopt(descriptor: int) -> socket.socket:
    """A listening socket that another process made."""
    made = socket.socket(fileno=descriptor)
    made.settimeout(0)
    return made


def address_of(listening: socket.socket) -> Address:
    """Where a socket listens, with the port it got."""
    name = listening.getsockname()
    return TcpAddress(str(name[0]), int(name[1])) if isinstance(name, tuple) else UnixAddress(str(name))


def notify(state: str, environment: Mapping[str, str] | None = None) -> None:
    """Tell systemd how it is going (sd_notify(3)), if it wants to know."""
    path = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
    if not path:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect("\0" + path[1:] if path.startswith("@") else path)
        out.send(state.encode())


class Acceptor:
    """Takes connections off a socket, one a turn, so that processes which share it get about the same number each."""

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None = None,
        is_full: Callable[[int], bool],
    ) -> None:
        """`is_full` says whether no more should be accepted, told how many were and are no connection yet."""
        self._listening, self._protocol, self._tls, self._is_full = listening, protocol, tls, is_full
        self._loop = asyncio.get_running_loop()
        self._is_accepting = self._is_over = False
        self._beginning: set[asyncio.Task[None]] = set()

    def resume(self) -> None:
        """Accept, from now on or again. Repeatable."""
        if not self._is_accepting and not self._is_over and not self._is_full(len(self._beginning)):
            self._is_accepting = True
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _pause(self) -> None:
        if self._is_accepting:
            self._is_accepting = False
            self._loop.remove_reader(self._listening.fileno())

    def close(self) -> None:
        """Accept no more, and let go of the socket: other processes may go on with it. Repeatable."""
        self._pause()
        if not self._is_over:
            self._is_over = True
            self._listening.close()

    async def finish_beginning(self) -> None:
        """Wait for those that were accepted and have no connection yet."""
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _accept(self) -> None:
        if self._is_full(len(self._beginning)):
            self._pause()
            return
        try:
            accepted, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            # Another process was quicker, or the client changed its mind.
            return
        except OSError as error:
            if error.errno not in _OUT_OF_FILES:
                raise
            _LOG.error("can't accept a connection: %s", error)
            self._pause()
            self._loop.call_later(_OUT_OF_FILES_WAIT_S, self.resume)
            return
        accepted.settimeout(0)
        task = self._loop.create_task(self._begin(accepted))
        self._beginning.add(task)
        task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        # It may have been the last that was allowed, and have come to nothing.
        self.resume()

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=_HANDSHAKE_MAX_S if self._tls is not None else None,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            # It went, or speaks no TLS.
            accepted.close()
