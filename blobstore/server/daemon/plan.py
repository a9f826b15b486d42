"""What a process of the daemon must know before it can do anything: handed over by the one that starts it."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from blobstore.config import Config
from blobstore.errors import ConfigInvalid
from blobstore.server.daemon.addresses import DEFAULT_LISTEN, Address, TcpAddress, parse_address
from blobstore.server.daemon.config import ServerConfig

Role = Literal["all", "worker", "operator"]


class StorePlan(msgspec.Struct, frozen=True):
    """Which store is served."""

    url: str
    index: str | None
    config: Config


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One process: what it does, and the descriptors it inherits."""

    store: StorePlan
    server: ServerConfig
    role: Role = "all"
    number: int = 0
    """Among its like, for logs; a process that takes another's place has its number."""
    public: tuple[int, ...] = ()
    """Listening sockets for clients."""
    operator: tuple[int, ...] = ()
    """Listening sockets for operators."""
    internal: int | None = None
    """The listening socket of the operator's process for what workers pass on."""
    internal_path: str | None = None
    """Where workers reach it."""
    control: int | None = None
    """A socket to whoever started this: told when it is ready, and at its end when the other is gone."""
    address: str = ""
    """Of the first of `public`, for what is told of this daemon."""
    is_restart: bool = False
    """Whether it takes the place of one that died."""
    serves_operator: bool = False
    """Whether clients' sockets also answer what is for operators."""

    def write(self) -> int:
        """A descriptor that a process which inherits it can read this from."""
        descriptor = os.memfd_create("blobstore-plan", 0)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(msgspec.msgpack.encode(self))
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    @classmethod
    def read(cls, descriptor: int) -> Plan:
        """What `write` wrote; closes the descriptor."""
        with os.fdopen(descriptor, "rb") as file:
            return msgspec.msgpack.decode(file.read(), type=cls)


def listen_addresses(server: ServerConfig) -> tuple[Address, Address | None]:
    """Where clients are served, and operators, if they have an address of their own.

    Raises:
        ConfigInvalid: it would be open to everybody, and nobody said that it should.
    """
    public = parse_address(server.listen or DEFAULT_LISTEN)
    operator = parse_address(server.operator_listen) if server.operator_listen else None
    if operator == public and not (isinstance(operator, TcpAddress) and operator.port == 0):
        raise ConfigInvalid(
            f"server.listen and server.operator_listen are both {public}; choose another one for operators, or leave it out: "
            "on the loopback they are served on the clients' address"
        )
    check_exposure(server, public, operator)
    return public, operator


def check_exposure(server: ServerConfig, public: Address, operator: Address | None) -> None:
    """See that nobody from outside gets in without being asked who they are.

    Raises:
        ConfigInvalid: they would, and nobody said that they should.
    """
    if server.auth.method == "none" and not public.is_loopback and not server.open_to_all:
        raise ConfigInvalid(
            f"on {public} everybody who can reach this machine could push and delete: set server.auth.method, listen on "
            "127.0.0.1, or say that this is wanted with --insecure-open or server.open_to_all = true"
        )
    is_clear = server.tls is None and not server.trusted_proxies and not server.insecure_http
    if server.auth.method != "none" and not public.is_loopback and is_clear:
        raise ConfigInvalid(
            f"to {public} passwords and tokens would cross the network in the clear: set [server.tls], name the proxy that "
            "has TLS in server.trusted_proxies, or say that this is wanted with server.insecure_http = true"
        )
    if operator is not None and not operator.is_loopback and not server.operator_token_file:
        raise ConfigInvalid(
            f"on {operator} everybody who can reach this machine could start collections: name a file with a token in "
            "server.operator_token_file, or let server.operator_listen be on 127.0.0.1 or a unix socket"
        )
