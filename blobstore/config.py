"""Configuration: the file of `--config`, read into a value and checked."""

from __future__ import annotations

import os
import re
import tomllib

import msgspec

from blobstore.errors import ConfigInvalid
from blobstore.units import parse_duration_s

_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?(.*)`)?")
_WRONG = re.compile(r"(.*) - at `\$\.?(.*)`")


class GcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[gc]`: durations as text (`24h`), None where the file says nothing."""

    grace: str | None = None
    quarantine: str | None = None
    delete_untagged: bool | None = None
    max_share: float | None = None
    upload_idle: str | None = None


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a configuration file says; None where it says nothing."""

    store: str | None = None
    index: str | None = None
    gc: GcConfig = GcConfig()


def load_config(path: str) -> Config:
    """Read a TOML file. A relative path of a store or index in it is relative to the file's directory.

    Raises:
        ConfigInvalid: it can't be read, or a key or value in it can't be used.
    """
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigInvalid(f"the configuration file {path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        # Not only its own errors: tomllib lets through those of a number too long and of tables nested too deeply.
        raise ConfigInvalid(f"{path} is not TOML: {error}") from error
    try:
        config = msgspec.convert(document, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"{path}: {_explain(str(error))}") from error
    _check_values(path, config.gc)
    base = os.path.dirname(os.path.abspath(path))
    return Config(_below(base, config.store), _below(base, config.index), config.gc)


def _explain(text: str) -> str:
    unknown = _UNKNOWN.fullmatch(text)
    if unknown is not None:
        table = unknown[2]
        known = GcConfig.__struct_fields__ if table == "gc" else Config.__struct_fields__
        key = f"{table}.{unknown[1]}" if table else unknown[1]
        return f"the key {key} is unknown; remove it, or use one of {', '.join(known)}"
    wrong = _WRONG.fullmatch(text)
    if wrong is None:
        return text
    what = wrong[1].replace("`str | null`", "text in quotes").replace("`bool | null`", "true or false")
    what = what.replace("`float | null`", "a number").replace("`object`", "a table, written [gc]")
    return f"the key {wrong[2]} can't be used: {what[:1].lower()}{what[1:]}"


def _check_values(path: str, gc: GcConfig) -> None:
    for key in ("grace", "quarantine", "upload_idle"):
        text = getattr(gc, key)
        try:
            if text is not None:
                parse_duration_s(text)
        except ConfigInvalid as error:
            raise ConfigInvalid(f"{path}: the key gc.{key} can't be used: {error}") from error
    if gc.max_share is not None and not 0 <= gc.max_share <= 1:
        raise ConfigInvalid(f"{path}: the key gc.max_share must be between 0 and 1, not {gc.max_share:g}")


def _below(base: str, place: str | None) -> str | None:
    if not place or "://" in place:
        return place
    return os.path.join(base, place)
