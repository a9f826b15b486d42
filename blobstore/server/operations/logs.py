"""Log lines: one event each on standard error, JSON or `key=value`, without secrets and whole on its line whatever it quotes."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Protocol, TextIO, cast

import msgspec
import structlog

from blobstore.server.operations.config import LogsConfig
from blobstore.server.protocol.messages import Headers

HIDDEN = "[hidden]"
_TEXT_MAX_CHARS = 2000
_TRACE_MAX_CHARS = 20_000
_SECRET_KEYS = frozenset(
    {"authorization", "proxy_authorization", "cookie", "set_cookie", "password", "secret", "token", "key"}
)
_OURS = frozenset({"time", "level"})
_TALKATIVE = ("aiobotocore", "botocore")
"""Loggers that say at each start of a process where credentials were found."""
_CREDENTIALS = re.compile(r"\b(bearer|basic|digest)\s+[^\s,\"']+", re.IGNORECASE)
_URL_USER = re.compile(r"([a-z][a-z0-9+.-]{0,20}://)[^\s/?#@]+@", re.IGNORECASE)
_URL_QUERY = re.compile(r"([a-z][a-z0-9+.-]{0,20}://[^\s?\"']+)\?[^\s\"']*", re.IGNORECASE)
# What signs a request to an object store or to us, wherever it is quoted without its URL.
_SIGNED = re.compile(
    r"\b(x-amz-[a-z-]+|x-oss-[a-z-]+|(?:aws|oss)accesskeyid|signature|security-token|access_token|token|_state)=[^&\s\"']+",
    re.IGNORECASE,
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:=+/-]{1,128}", re.ASCII)


class Log(Protocol):
    """Takes events; `bind` gives one that adds fields to each."""

    def bind(self, **fields: Any) -> Log:
        """The same with more fields."""

    def info(self, event: str, **fields: Any) -> Any:
        """What is as it should be."""

    def warning(self, event: str, **fields: Any) -> Any:
        """What somebody should look at."""

    def error(self, event: str, **fields: Any) -> Any:
        """What went wrong."""


def make_log(config: LogsConfig | None = None, stream: TextIO | None = None) -> Log:
    """A log as the configuration wants it. Nothing global is changed; each line is one write."""
    config = config or LogsConfig()
    render = (
        _render_json
        if config.format == "json"
        else structlog.processors.LogfmtRenderer(bool_as_flag=False, key_order=["time", "level", "event"])
    )
    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(cast("TextIO", _Unfailing(stream or sys.stderr))),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", key="time"),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _make_safe,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(config.level.upper())),
        cache_logger_on_first_use=True,
    ).bind()
    return log


class _Unfailing:
    """A stream that loses what it can't write: a disk that is full of logs, or a pipe that nobody reads any more, must not keep
    anybody from pulling, deleting and collecting. There is no other place to tell it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """As `TextIO.write`, if that can."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """As `TextIO.flush`, if that can."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def make_audit_log(config: LogsConfig | None = None, stream: TextIO | None = None) -> Log | None:
    """A log of who changed what, whatever level the other has; None where none is wanted."""
    config = config or LogsConfig()
    return make_log(msgspec.structs.replace(config, level="info"), stream) if config.audit else None


def no_log() -> Log:
    """A log that nobody reads; for tests and embedders."""
    log: Log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[_drop]).bind()
    return log


def request_id_of(headers: Headers) -> str | None:
    """What the client, or a proxy, calls its request, if that is fit for a log and a header."""
    given = headers.get("X-Request-Id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


def bridge_standard_logging(log: Log) -> logging.Handler:
    """Let what libraries log through `logging` come out here too; for a daemon, which is alone in its process."""
    handler = _Bridge(log)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # The command line tells the engine's in lines of its own.
    logging.getLogger("blobstore").handlers.clear()
    root.setLevel(logging.INFO)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    return handler


class _Bridge(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """One line of a library."""
        tell = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        if record.levelno < logging.WARNING:
            tell = self._log.info
        tell(record.getMessage(), logger=record.name, **({"exc_info": record.exc_info} if record.exc_info else {}))


def safe_text(text: str, max_chars: int = _TEXT_MAX_CHARS) -> str:
    """Text without credentials and signatures, and with everything that could leave its line, or command a terminal, escaped."""
    # Cut before the expressions look at it: what a client sends may be long.
    is_cut, text = len(text) > max_chars, text[:max_chars]
    if " " in text:
        text = _CREDENTIALS.sub(rf"\1 {HIDDEN}", text)
    if "://" in text:
        text = _URL_QUERY.sub(rf"\1?{HIDDEN}", _URL_USER.sub(rf"\1{HIDDEN}@", text))
    if "=" in text:
        text = _SIGNED.sub(rf"\1={HIDDEN}", text)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return f"{text}…" if is_cut else text


def _make_safe(logger: Any, method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    del logger, method
    for key, value in fields.items():
        if value is None or isinstance(value, (bool, int, float)) or key in _OURS:
            continue
        if key.lower().replace("-", "_") in _SECRET_KEYS:
            fields[key] = HIDDEN
        else:
            fields[key] = safe_text(str(value), _TRACE_MAX_CHARS if key == "exception" else _TEXT_MAX_CHARS)
    return fields


def _render_json(logger: Any, method: str, fields: MutableMapping[str, Any]) -> str:
    del logger, method
    # What people look for first.
    ordered = {key: fields[key] for key in ("time", "level", "event")}
    return msgspec.json.encode({**ordered, **fields}).decode()


def _drop(logger: Any, method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    del logger, method, fields
    raise structlog.DropEvent
