"""The tables `[server.collect]`, `[server.notifications]` and `[server.logs]`: how the daemon is run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from blobstore.errors import ConfigInvalid
from blobstore.server.operations.schedule import parse_cron, parse_zone
from blobstore.units import parse_duration_s

QUEUE_MAX = 1_000_000
_TIMEOUT_MAX_S = 300.0
_BACKOFF_MAX_S = 3600.0
_SHARE_MIN = 0.01
_BATCH_MAX = 100_000
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})

EventAction = Literal["push", "pull", "mount", "delete"]


class CollectConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[server.collect]`; what a collection may let go is in `[gc]`."""

    enabled: bool = True
    """Whether it collects by itself; on demand it always does."""
    incremental: str = "*/15 * * * *"
    """Cron expression: when what was let go since the last run is collected; empty for never."""
    full: str = "17 3 * * *"
    """Cron expression: when everything is looked at; empty for never. Stands in for an incremental run of the same minute."""
    time_zone: str = "UTC"
    """Of both, a name of the IANA data base."""
    share: float = 0.5
    """How much of its time a run may work on the index while requests are served; the rest it leaves to them."""
    batch: int = 100
    """How many blobs one transaction of a run takes: pushes wait while it is committed."""


class EndpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[server.notifications.endpoints]]`: who is told."""

    name: str
    """In logs and metrics."""
    url: str
    authorization_file: str | None = None
    """A file that holds the value of `Authorization`, such as `Bearer …`."""
    headers: dict[str, str] = {}
    """More header fields; none that is a secret."""
    timeout: str = "3s"
    """How long one request may take."""
    threshold: int = 5
    """After this many failures in a row it waits for `backoff` before each try."""
    backoff: str = "1s"
    """The first wait; each further one is twice as long, up to a minute."""
    queue: int = 10_000
    """How many events wait at most, in each process; further ones are dropped, counted and logged."""
    ignored_actions: tuple[EventAction, ...] = ()
    ignored_media_types: tuple[str, ...] = ()
    media_type: Literal["v1", "v2"] = "v1"
    """Whose `Content-Type` is sent: that of Docker Distribution 2, or of 3. The events are the same."""


class NotificationsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[server.notifications]`."""

    endpoints: tuple[EndpointConfig, ...] = ()


class LogsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[server.logs]`. Lines go to standard error."""

    format: Literal["json", "text"] = "json"
    """One JSON object a line, or `key=value` pairs."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True
    """A line for every request."""
    audit: bool = True
    """A line for every push, delete, change of a tag and collected blob."""


def check_operations(collect: CollectConfig, notifications: NotificationsConfig, logs: LogsConfig) -> None:
    """See that the values can be used; what the files hold is checked when they are read.

    Raises:
        ConfigInvalid: one can't, with its key.
    """
    del logs  # Its types say it all.
    for problem in (*_problems_of_collect(collect), *_problems_of_notifications(notifications)):
        raise ConfigInvalid(problem)


def place_notifications(config: NotificationsConfig, folder: str) -> NotificationsConfig:
    """The same with relative files taken from `folder`, that of the configuration file."""

    def placed(endpoint: EndpointConfig) -> EndpointConfig:
        path = endpoint.authorization_file
        return msgspec.structs.replace(endpoint, authorization_file=os.path.join(folder, path) if path else None)

    return msgspec.structs.replace(config, endpoints=tuple(placed(each) for each in config.endpoints))


def _problems_of_collect(config: CollectConfig) -> Iterator[str]:
    for key in ("incremental", "full"):
        if getattr(config, key):
            yield from _raised(f"server.collect.{key}", parse_cron, getattr(config, key))
    yield from _raised("server.collect.time_zone", parse_zone, config.time_zone)
    if not _SHARE_MIN <= config.share <= 1:
        yield f"the key server.collect.share must be between {_SHARE_MIN} and 1, not {config.share:g}"
    if not 1 <= config.batch <= _BATCH_MAX:
        yield f"the key server.collect.batch must be between 1 and {_BATCH_MAX}, not {config.batch}"


def _problems_of_notifications(config: NotificationsConfig) -> Iterator[str]:
    names = [endpoint.name for endpoint in config.endpoints]
    for name in names:
        if not name.isprintable() or not name or names.count(name) > 1:
            yield f"server.notifications.endpoints: the name {name!r:.80} is empty, unprintable or there twice"
    for endpoint in config.endpoints:
        yield from _problems_of_endpoint(f"server.notifications.endpoints ({endpoint.name})", endpoint)


def _problems_of_endpoint(where: str, endpoint: EndpointConfig) -> Iterator[str]:
    url = urlsplit(endpoint.url)
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc:
        yield f"{where}: url must be http or https and without a password, not {endpoint.url!r:.200}"
    for name, value in endpoint.headers.items():
        if name.lower() in _SECRET_HEADERS:
            yield f"{where}: {name} is a secret, which doesn't belong here; name a file that holds it in authorization_file"
        elif not _HEADER_NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            yield f"{where}: {name!r:.80} is not a header field of printable ASCII"
    for key, most_s in (("timeout", _TIMEOUT_MAX_S), ("backoff", _BACKOFF_MAX_S)):
        yield from _problems_of_duration(f"{where}: {key}", getattr(endpoint, key), most_s)
    if endpoint.threshold < 1:
        yield f"{where}: threshold must be at least 1, not {endpoint.threshold}"
    if not 1 <= endpoint.queue <= QUEUE_MAX:
        yield f"{where}: queue must be between 1 and {QUEUE_MAX}, not {endpoint.queue}"


def _problems_of_duration(where: str, text: str, most_s: float) -> Iterator[str]:
    problems = list(_raised(where, parse_duration_s, text))
    if not problems and not 0 < parse_duration_s(text) <= most_s:
        problems = [f"{where} must be more than 0s and at most {most_s:g}s, not {text}"]
    yield from problems


def _raised(key: str, check: Callable[[str], object], text: str) -> Iterator[str]:
    try:
        check(text)
    except ConfigInvalid as error:
        yield f"the key {key} can't be used: {error}"
