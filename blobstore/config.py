"""Configuration: the file of `--config`, read into a value and checked."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import msgspec

from blobstore.errors import ConfigInvalid
from blobstore.locations import is_url
from blobstore.units import parse_duration_s, parse_size_bytes

_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?(.*)`)?")
_WRONG = re.compile(r"(.*) - at `\$\.?(.*)`")

Table = TypeVar("Table", bound=msgspec.Struct)


class GcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[gc]`: durations as text (`24h`), None where the file says nothing."""

    grace: str | None = None
    quarantine: str | None = None
    delete_untagged: bool | None = None
    max_share: float | None = None
    upload_idle: str | None = None


class RequestsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the tables of all object stores have in common: sizes (`8MiB`) and durations (`60s`) as text."""

    part_size: str | None = None
    """The first parts of a big blob; a thousand parts later they are twice as long."""
    part_memory: str | None = None
    """What the parts of all uploads of a process may take."""
    concurrency: int | None = None
    """Requests at once."""
    attempts: int | None = None
    """How often a request is sent, at most, before a command gives up."""
    connect_timeout: str | None = None
    read_timeout: str | None = None


class S3Config(RequestsConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[s3]`. Bucket and prefix are in the URL. Without an access key the SDK's own sources are asked: `AWS_…`
    variables, `~/.aws` (`profile`), the machine's role. Secrets are never in it, only the names of files that hold one."""

    endpoint: str | None = None
    presign_endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    profile: str | None = None
    access_key: str | None = None
    secret_key_file: str | None = None
    session_token_file: str | None = None
    encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: str | None = None
    storage_class: str | None = None
    ca_bundle: str | None = None


class OssConfig(RequestsConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[oss]`. Without an access key `OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET` and `OSS_SESSION_TOKEN` are asked."""

    endpoint: str | None = None
    region: str | None = None
    internal: bool | None = None
    addressing: Literal["virtual", "custom_domain", "path"] | None = None
    signature: Literal["v4", "v1"] | None = None
    access_key_id: str | None = None
    access_key_secret_file: str | None = None
    security_token_file: str | None = None
    encryption: Literal["AES256", "KMS", "SM4"] | None = None
    kms_key_id: str | None = None
    storage_class: Literal["Standard", "IA"] | None = None
    presign_endpoint: str | None = None


class NasConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[nas]`."""

    concurrency: int | None = None
    """Calls to the share at once."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a configuration file says; None where it says nothing."""

    store: str | None = None
    index: str | None = None
    gc: GcConfig = GcConfig()
    s3: S3Config = S3Config()
    oss: OssConfig = OssConfig()
    nas: NasConfig = NasConfig()
    server: Mapping[str, Any] = {}
    """The table `[server]` as it stands there; `blobstore.server.daemon.config` checks it."""


_TABLES: Mapping[str, type[msgspec.Struct]] = {"gc": GcConfig, "s3": S3Config, "oss": OssConfig, "nas": NasConfig}
_DURATIONS = frozenset({"grace", "quarantine", "upload_idle", "connect_timeout", "read_timeout"})
_SIZES = frozenset({"part_size", "part_memory"})
_NEVER_NOTHING = frozenset({"connect_timeout", "read_timeout", "part_memory"})
_COUNTS = frozenset({"concurrency", "attempts"})
_FILES = frozenset(
    {"secret_key_file", "session_token_file", "ca_bundle", "access_key_secret_file", "security_token_file"}
)


def load_config(path: str) -> Config:
    """Read a TOML file. A relative path in it is relative to the file's directory.

    Raises:
        ConfigInvalid: it can't be read, or a key or value in it can't be used.
    """
    config = convert_document(path, read_document(path), Config, _TABLES)
    for table in _TABLES:
        _check_values(path, table, getattr(config, table))
    return _below(os.path.dirname(os.path.abspath(path)), config)


def read_document(path: str) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        ConfigInvalid: it can't be read, or is none.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigInvalid(f"the configuration file {path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        # Not only its own errors: tomllib lets through those of a number too long and of tables nested too deeply.
        raise ConfigInvalid(f"{path} is not TOML: {error}") from error


def convert_document(
    path: str, document: dict[str, Any], kind: type[Table], tables: Mapping[str, type[msgspec.Struct]]
) -> Table:
    """A document as a value; `tables` are those in it by their names, for what an error says.

    Raises:
        ConfigInvalid: a key is unknown, or its value of another type.
    """
    try:
        return msgspec.convert(document, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"{path}: {_explain(str(error), kind, tables)}") from error


def read_secret(path: str) -> str:
    """What a file holds that a configuration names, without the end of its line.

    Raises:
        ConfigInvalid: it can't be read, or holds nothing.
    """
    try:
        with open(path, encoding="utf-8") as file:
            secret = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"the secret in {path} can't be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not secret:
        raise ConfigInvalid(f"{path} should hold a secret, but is empty")
    return secret


def _explain(text: str, root: type[msgspec.Struct], tables: Mapping[str, type[msgspec.Struct]]) -> str:
    unknown = _UNKNOWN.fullmatch(text)
    if unknown is not None:
        table = unknown[2]
        known = tables.get(re.sub(r"\[[0-9]+\]", "[...]", table or ""), root).__struct_fields__
        key = f"{table}.{unknown[1]}" if table else unknown[1]
        files = [name for name in known if name == f"{unknown[1]}_file"]
        if files:
            return f"the key {key} is unknown, as secrets don't belong here; name a file that holds it in {table}.{files[0]}"
        return f"the key {key} is unknown; remove it, or use one of {', '.join(known)}"
    wrong = _WRONG.fullmatch(text)
    if wrong is None:
        return text
    what = wrong[1].replace("`str | null`", "text in quotes").replace("`bool | null`", "true or false")
    what = what.replace("`float | null`", "a number").replace("`int | null`", "a whole number")
    what = what.replace("`array | null`", "a list of texts in quotes")
    what = re.sub(r"`object(?: \| null)?`", f"a table, written [{wrong[2]}]", what)
    choices = _choices_of(wrong[2], root, tables) if what.startswith("Invalid enum value") else []
    choice = f"; use one of {', '.join(choices)}" if choices else ""
    return f"the key {wrong[2]} can't be used: {what[:1].lower()}{what[1:]}{choice}"


def _choices_of(path: str, root: type[msgspec.Struct], tables: Mapping[str, type[msgspec.Struct]]) -> list[str]:
    """What the value of a key may be, where only some words are."""
    table, _, key = re.sub(r"(\[[^]]*\])+$", "", path).rpartition(".")
    hint = get_type_hints(tables.get(re.sub(r"\[[0-9]+\]", "[...]", table), root)).get(key)
    return list(_words_of(hint))


def _words_of(hint: object) -> Iterator[str]:
    for each in get_args(hint):
        if isinstance(each, str):
            yield each
        else:
            yield from _words_of(each)


def _check_values(path: str, table: str, values: msgspec.Struct) -> None:
    checks: dict[str, Callable[[str], object]] = dict.fromkeys(_DURATIONS, parse_duration_s)
    checks |= dict.fromkeys(_SIZES, parse_size_bytes)
    for key in values.__struct_fields__:
        value = getattr(values, key)
        if value is None:
            continue
        if key in checks:
            try:
                is_nothing = checks[key](value) == 0
            except ConfigInvalid as error:
                raise ConfigInvalid(f"{path}: the key {table}.{key} can't be used: {error}") from error
            if is_nothing and key in _NEVER_NOTHING:
                raise ConfigInvalid(f"{path}: the key {table}.{key} must be more than {value}")
        if key in _COUNTS and not 1 <= value <= 1000:
            raise ConfigInvalid(f"{path}: the key {table}.{key} must be between 1 and 1000, not {value}")
        if key == "max_share" and not 0 <= value <= 1:
            raise ConfigInvalid(f"{path}: the key {table}.{key} must be between 0 and 1, not {value:g}")


def _below(base: str, config: Config) -> Config:
    def place(text: str | None) -> str | None:
        return text if not text or is_url(text) else os.path.join(base, text)

    def placed(values: msgspec.Struct, keys: frozenset[str]) -> dict[str, str | None]:
        return {key: place(getattr(values, key)) for key in keys & set(values.__struct_fields__)}

    return msgspec.structs.replace(
        config,
        store=place(config.store),
        index=place(config.index),
        s3=msgspec.structs.replace(config.s3, **placed(config.s3, _FILES)),
        oss=msgspec.structs.replace(config.oss, **placed(config.oss, _FILES)),
    )
