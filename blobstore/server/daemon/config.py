"""The tables `[server]` of the configuration file, read into a value and checked."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from blobstore.config import Table, convert_document, read_document
from blobstore.errors import ConfigInvalid
from blobstore.server.auth.config import AuthConfig, FailureLimits, HtpasswdConfig, TokenConfig, check_auth
from blobstore.server.daemon.addresses import parse_address
from blobstore.server.operations.config import (
    CollectConfig,
    EndpointConfig,
    LogsConfig,
    NotificationsConfig,
    check_operations,
    place_notifications,
)
from blobstore.units import parse_duration_s, parse_size_bytes

WORKERS_MAX = 256
_PRESIGNED_MAX_S = 7 * 24 * 3600
"""What S3 takes; none that is valid for no time opens anything."""


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[server.tls]`: files in PEM, read by every process that is started."""

    certificate: str | None = None
    """The server's certificate, and those between it and its authority behind it."""
    key: str | None = None
    """Its private key."""
    client_authority: str | None = None
    """Only clients with a certificate of these authorities may connect."""
    least_version: Literal["1.2", "1.3"] | None = None


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[server]`: durations (`10s`) and sizes (`16KiB`) as text, None where the file says nothing."""

    listen: str | None = None
    """`address:port`, `[address]:port` or `unix:/path`."""
    operator_listen: str | None = None
    """Where `/metrics` and `/api/v1/` are served; by default on `listen`, as long as that is on the loopback."""
    operator_token_file: str | None = None
    """A file with the bearer token that those ask for; needed where `operator_listen` can be reached from other machines."""
    workers: int | None = None
    open_to_all: bool | None = None
    """Serve others than this machine although nobody has to say who they are."""
    insecure_http: bool | None = None
    """Take passwords and tokens from other machines without TLS, and without a trusted proxy that has it."""
    run_directory: str | None = None
    """Where the processes of the daemon find each other."""

    trusted_proxies: list[str] | None = None
    """Networks whose `X-Forwarded-*` and `Forwarded` are believed; `unix` is whoever reaches a socket that is a file."""
    locations: Literal["absolute", "relative"] | None = None
    delivery: Literal["direct", "redirect", "accel"] | None = None
    """How blobs leave: through the daemon, by a presigned URL of the object store, or by nginx."""
    redirect_valid: str | None = None
    """How long a presigned URL opens its blob."""
    accel_prefix: str | None = None
    """The internal location of nginx that is an alias of the store's directory."""
    read_only: bool | None = None
    free_space_min: str | None = None
    """With less, uploads are refused; pulls, deletes and collections go on."""

    connections: int | None = None
    """At once, in each process."""
    connections_per_address: int | None = None
    header_size: str | None = None
    """What a request's line and header fields may be long, all together."""
    header_timeout: str | None = None
    """How long they may take to come."""
    idle_timeout: str | None = None
    """How long a connection is kept without a request."""
    rate_min: str | None = None
    """Bytes a second that a body must have on average, either way, while we wait for the client."""
    stop_within: str | None = None
    """How long a stop waits for what is under way."""
    retire_within: str | None = None
    """How long a worker that was replaced goes on with what is under way."""

    tls: TlsConfig | None = None
    auth: AuthConfig = AuthConfig()
    collect: CollectConfig = CollectConfig()
    notifications: NotificationsConfig = NotificationsConfig()
    logs: LogsConfig = LogsConfig()


class _Document(msgspec.Struct, frozen=True):
    """The file; its other tables are checked elsewhere."""

    server: ServerConfig = ServerConfig()


_TABLES: Mapping[str, type[msgspec.Struct]] = {
    "server": ServerConfig,
    "server.tls": TlsConfig,
    "server.auth": AuthConfig,
    "server.auth.htpasswd": HtpasswdConfig,
    "server.auth.token": TokenConfig,
    "server.auth.limits": FailureLimits,
    "server.collect": CollectConfig,
    "server.notifications": NotificationsConfig,
    "server.notifications.endpoints[...]": EndpointConfig,
    "server.logs": LogsConfig,
}
Check: TypeAlias = Callable[[str], object]


def _network(text: str) -> object:
    try:
        return text == "unix" or ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigInvalid(
            f"{text!r:.80} is not a network; write one such as 10.0.0.0/8 or 127.0.0.1, or unix"
        ) from error


def _is_internal(text: str) -> object:
    if not text.startswith("/") or not text.endswith("/"):
        raise ConfigInvalid(f"{text!r:.80} should begin and end with a slash, such as /blobs/")
    return text


def _is_presigned(text: str) -> object:
    valid_s = parse_duration_s(text)
    if not 1 <= valid_s <= _PRESIGNED_MAX_S:
        raise ConfigInvalid(f"{text!r:.80} is no time for a presigned URL; write one from 1s to 7d, such as 60s")
    return valid_s


# What is checked of a value, by the name of its table and key. A list's values are checked one by one.
_CHECKS: Mapping[str, Check] = {
    "server.listen": parse_address,
    "server.operator_listen": parse_address,
    "server.trusted_proxies": _network,
    "server.accel_prefix": _is_internal,
    "server.redirect_valid": _is_presigned,
    "server.free_space_min": parse_size_bytes,
    "server.header_size": parse_size_bytes,
    "server.header_timeout": parse_duration_s,
    "server.idle_timeout": parse_duration_s,
    "server.rate_min": parse_size_bytes,
    "server.stop_within": parse_duration_s,
    "server.retire_within": parse_duration_s,
}
_BETWEEN: Mapping[str, tuple[int, int]] = {
    "server.workers": (1, WORKERS_MAX),
    "server.connections": (1, 1_000_000),
    "server.connections_per_address": (1, 1_000_000),
}
# Names of files; a relative one is relative to the configuration's directory.
_FILES = frozenset(
    {
        "server.run_directory",
        "server.operator_token_file",
        "server.tls.certificate",
        "server.tls.key",
        "server.tls.client_authority",
        "server.auth.htpasswd.file",
        "server.auth.token.keys",
        "server.auth.token.roots",
    }
)


def load_server_config(path: str) -> ServerConfig:
    """The table `[server]` of a TOML file, and those below it. A relative path in it is relative to the file's directory.

    Raises:
        ConfigInvalid: it can't be read, or a key or value in it can't be used.
    """
    server = convert_document(path, read_document(path), _Document, _TABLES).server
    checked = _checked(path, "server", server)
    try:
        check_auth(checked.auth)
        check_operations(checked.collect, checked.notifications, checked.logs)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{path}: {error}") from error
    folder = os.path.dirname(os.path.abspath(path))
    return msgspec.structs.replace(checked, notifications=place_notifications(checked.notifications, folder))


def _checked(path: str, table: str, values: Table) -> Table:
    """The table with its paths made absolute, when all that is in it can be used."""
    changes: dict[str, Any] = {}
    for key in values.__struct_fields__:
        name, value = f"{table}.{key}", getattr(values, key)
        if isinstance(value, msgspec.Struct):
            changes[key] = _checked(path, name, value)
        elif value is not None:
            _check(path, name, value)
            if name in _FILES:
                changes[key] = os.path.join(os.path.dirname(os.path.abspath(path)), value)
    return msgspec.structs.replace(values, **changes)


def _check(path: str, name: str, value: Any) -> None:
    check = _CHECKS.get(name)
    for each in value if isinstance(value, list) else [value]:
        try:
            if check is not None:
                check(each)
        except ConfigInvalid as error:
            raise ConfigInvalid(f"{path}: the key {name} can't be used: {error}") from error
    least, most = _BETWEEN.get(name, (0, 0))
    if most and isinstance(value, int) and not least <= value <= most:
        raise ConfigInvalid(f"{path}: the key {name} must be between {least} and {most}, not {value}")
