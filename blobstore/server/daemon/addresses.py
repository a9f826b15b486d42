"""Addresses to listen on, read from text into values. Pure."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from blobstore.errors import ConfigInvalid

DEFAULT_LISTEN = "127.0.0.1:5000"
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
# What a kernel takes (unix(7), sun_path), with the zero behind it.
_SOCKET_PATH_MAX_BYTES = 107


class TcpAddress(msgspec.Struct, frozen=True):
    """An address of this machine; port 0 is any that is free."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class UnixAddress(msgspec.Struct, frozen=True):
    """A socket that is a file; who may write to that may connect."""

    path: str
    is_loopback = True

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Read `127.0.0.1:5000`, `[::1]:5000`, `localhost:5000`, `:5000` (any address of the machine) or `unix:/path`.

    Raises:
        ConfigInvalid: it is none of these.
    """
    if text.startswith("unix:"):
        return _unix(text)
    host, colon, port = text.rpartition(":")
    if not colon or _PORT.fullmatch(port) is None or int(port) > 65535:
        raise ConfigInvalid(
            f"{text!r:.80} is not an address; write one such as {DEFAULT_LISTEN}, [::1]:5000 or unix:/path"
        )
    host = {"localhost": "127.0.0.1", "": "0.0.0.0"}.get(host, host)  # noqa: S104 - who writes no host wants them all
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError as error:
        raise ConfigInvalid(
            f"{text!r:.80} names no address of a network card; write one such as {DEFAULT_LISTEN} or [::1]:5000"
        ) from error
    if address.version == 6 and bare == host:
        raise ConfigInvalid(f"{text!r:.80} is not an address; write [{host}]:{port}")
    return TcpAddress(str(address), int(port))


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or len(path.encode()) > _SOCKET_PATH_MAX_BYTES or "\0" in path:
        raise ConfigInvalid(
            f"{text!r:.200} is not a socket; write unix: and a path from the root of at most {_SOCKET_PATH_MAX_BYTES} bytes"
        )
    return UnixAddress(path)
