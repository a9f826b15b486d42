"""Backends on storage that other hosts reach, as the configuration says, and where this host keeps what belongs to them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from blobstore.backends._multipart import MIB, PART_BUDGET_BYTES, PartBudget
from blobstore.backends._object_client import ObjectClient
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._pacing import RetryBudget, RetryLimits
from blobstore.backends._retrying import RetryingClient
from blobstore.backends.nas import THREADS, NasBackend
from blobstore.config import Config, OssConfig, RequestsConfig, S3Config, read_secret
from blobstore.errors import ConfigInvalid, SlowDown, TransientError
from blobstore.events import Alarm, EventSink, Waiting
from blobstore.locations import NasLocation, OssLocation, S3Location
from blobstore.units import parse_duration_s, parse_size_bytes

_ENDPOINT = re.compile(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", re.IGNORECASE)
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_PART_MIN_BYTES = 5 * MIB
_PART_MAX_BYTES = 1024 * MIB


class SharedBudgets:
    """What all object stores of a process share, as they share its memory and its network."""

    def __init__(self) -> None:
        self.retries = RetryBudget()
        self._parts: dict[int, PartBudget] = {}

    def parts(self, capacity_bytes: int = PART_BUDGET_BYTES) -> PartBudget:
        """Memory for parts: one budget for all stores that were configured with the same."""
        return self._parts.setdefault(capacity_bytes, PartBudget(capacity_bytes))


# Who waits for memory is woken on its own loop, so that each loop has its own; a process has one loop.
_BUDGETS: WeakKeyDictionary[asyncio.AbstractEventLoop, SharedBudgets] = WeakKeyDictionary()


def shared_budgets() -> SharedBudgets:
    """Those of the running event loop."""
    return _BUDGETS.setdefault(asyncio.get_running_loop(), SharedBudgets())


def state_home() -> str:
    """Where this host keeps its own of stores whose bytes are elsewhere, the index above all, each in a directory of its id:
    `$XDG_STATE_HOME/blobstore` (XDG Base Directory Specification).

    Raises:
        ConfigInvalid: the environment says nothing of it.
    """
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):
        # The specification: one that is relative is to be ignored.
        home = os.path.join(os.path.expanduser("~"), ".local", "state")
    if not os.path.isabs(home):
        raise ConfigInvalid("neither XDG_STATE_HOME nor HOME says where the index is to be; set one, or give --index")
    return os.path.join(home, "blobstore")


def make_nas_backend(location: NasLocation, config: Config, state: str, events: EventSink) -> NasBackend:
    """The backend of a share, not yet opened; `state` is a directory on a disk of this host."""

    def notify(text: str) -> None:
        events(Alarm(text))

    def tell_waiting(text: str) -> None:
        events(Waiting(text))

    threads = THREADS if config.nas.concurrency is None else config.nas.concurrency
    return NasBackend(location.path, state, notify=notify, tell_waiting=tell_waiting, threads=threads)


def make_object_store(
    location: S3Location | OssLocation, config: Config, *, budget: PartBudget | None = None
) -> ObjectStoreBackend:
    """The backend of a bucket, not yet opened; it takes uploads once it is told where their spool is. To be called on the event
    loop that it will be used on.

    Args:
        location: which bucket.
        config: how it is reached.
        budget: memory for parts; by default what all stores of the process share.

    Raises:
        ConfigInvalid: the configuration can't be used, or the vendor's packages are not installed.
    """
    requests: RequestsConfig
    if isinstance(location, S3Location):
        client, requests = _s3_client(location, config.s3), config.s3
    else:
        client, requests = _oss_client(location, config.oss), config.oss
    part_bytes = _part_bytes(requests)
    shared = shared_budgets()
    if budget is None:
        memory = requests.part_memory
        budget = shared.parts(parse_size_bytes(memory) if memory is not None else PART_BUDGET_BYTES)
    retrying = RetryingClient(client, budget=shared.retries, limits=_limits(requests))
    options = {} if part_bytes is None else {"part_bytes": part_bytes}
    return ObjectStoreBackend(retrying, prefix=location.prefix, spool_directory=None, budget=budget, **options)


@contextmanager
def naming_endpoint(location: S3Location | OssLocation, config: Config) -> Iterator[None]:
    """Where a bucket was asked for that did not answer: at the first contact that is most often wrong."""
    try:
        yield
    except SlowDown:
        raise
    except TransientError as error:
        table = config.s3 if isinstance(location, S3Location) else config.oss
        asked = table.endpoint or f"that of {table.region or 'the default region'}"
        raise TransientError(f"{error}; the endpoint is {asked}: is it right, and up?") from error


def _s3_client(location: S3Location, config: S3Config) -> ObjectClient:
    # Not at the top: an install without the extra has no SDK.
    from blobstore.backends.s3 import S3Client, S3Settings

    _check_s3(config)
    _check_pair("s3", config.access_key, "access_key", config.secret_key_file, "secret_key_file")
    wanted = {
        "endpoint": config.endpoint,
        "presign_endpoint": config.presign_endpoint,
        "region": config.region,
        "is_path_style": config.path_style,
        "profile": config.profile,
        "access_key": config.access_key,
        "secret_key": _secret(config.secret_key_file),
        "session_token": _secret(config.session_token_file),
        "encryption": config.encryption,
        "kms_key_id": config.kms_key_id,
        "storage_class": config.storage_class,
        "ca_bundle": config.ca_bundle,
        "connections_max": config.concurrency,
        **_timeouts(config),
    }
    return S3Client(_settings("s3", S3Settings, location.bucket, wanted))


def _check_s3(config: S3Config) -> None:
    """What the SDK would take, or refuse without saying which value it was."""
    for key, endpoint in (("endpoint", config.endpoint), ("presign_endpoint", config.presign_endpoint)):
        if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
            # What may hold a password or a token is not quoted.
            quoted = f"{endpoint!r:.300}" if {"@", "?", "#"}.isdisjoint(endpoint) else "it"
            raise ConfigInvalid(
                f"s3.{key}: {quoted} is no endpoint; write https://host or http://host:port, without bucket"
            )
    if config.ca_bundle is not None and not os.path.exists(config.ca_bundle):
        raise ConfigInvalid(f"s3.ca_bundle: there is no {config.ca_bundle}")
    if config.kms_key_id is not None and not (config.encryption or "").startswith("aws:kms"):
        raise ConfigInvalid('s3.kms_key_id is of use with s3.encryption = "aws:kms" or "aws:kms:dsse" alone')
    if config.storage_class in _ARCHIVES:
        raise ConfigInvalid(f"s3.storage_class: what is in {config.storage_class} can't be read; use another class")


def _oss_client(location: OssLocation, config: OssConfig) -> ObjectClient:
    from blobstore.backends.oss import OssClient, OssSettings

    _check_pair("oss", config.access_key_id, "access_key_id", config.access_key_secret_file, "access_key_secret_file")
    wanted = {
        "endpoint": config.endpoint,
        "region": config.region,
        "is_internal": config.internal,
        "addressing": config.addressing,
        "signature": config.signature,
        "access_key_id": config.access_key_id,
        "access_key_secret": _secret(config.access_key_secret_file),
        "security_token": _secret(config.security_token_file),
        "server_side_encryption": config.encryption,
        "kms_key_id": config.kms_key_id,
        "storage_class": config.storage_class,
        "presign_endpoint": config.presign_endpoint,
        "threads": config.concurrency,
        **_timeouts(config),
    }
    return OssClient(_settings("oss", OssSettings, location.bucket, wanted))


def _settings(table: str, make: Callable[..., Any], bucket: str, wanted: dict[str, Any]) -> Any:
    try:
        return make(bucket=bucket, **{key: value for key, value in wanted.items() if value is not None})
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{error} (the table [{table}] of the configuration)") from error


def _check_pair(table: str, key: str | None, key_name: str, secret: str | None, secret_name: str) -> None:
    if (key is None) != (secret is None):
        raise ConfigInvalid(f"{table}.{key_name} and {table}.{secret_name} go together: give both, or neither")


def _secret(path: str | None) -> str | None:
    return read_secret(path) if path is not None else None


def _timeouts(config: RequestsConfig) -> dict[str, float | None]:
    wanted = {"connect_timeout_s": config.connect_timeout, "read_timeout_s": config.read_timeout}
    return {key: parse_duration_s(text) if text is not None else None for key, text in wanted.items()}


def _part_bytes(config: RequestsConfig) -> int | None:
    if config.part_size is None:
        return None
    size = parse_size_bytes(config.part_size)
    if not _PART_MIN_BYTES <= size <= _PART_MAX_BYTES:
        raise ConfigInvalid(f"part_size must be between 5MiB and 1GiB, not {config.part_size}")
    return size


def _limits(config: RequestsConfig) -> RetryLimits:
    wanted = {"requests_max": config.concurrency, "attempts_max": config.attempts}
    return msgspec.structs.replace(RetryLimits(), **{key: value for key, value in wanted.items() if value is not None})
