"""Where a store and its index are: URLs read into values. Pure."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_to_bytes

import msgspec

from blobstore.errors import ConfigInvalid

DEFAULT_STORE = "./blobstore-data"
_KINDS = "a path, file:///path, nas:///path, s3://bucket/prefix or oss://bucket/prefix"
_SCHEMES = frozenset({"file", "nas", "s3", "oss", "lmdb"})
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
_PREFIX_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}", re.ASCII)
_PREFIX_MAX_CHARS = 300


class FilesystemLocation(msgspec.Struct, frozen=True):
    """A directory of this machine."""

    path: str

    @property
    def default_index_path(self) -> str:
        """Where its index is unless something else is said."""
        return os.path.join(self.path, "index")


class NasLocation(msgspec.Struct, frozen=True):
    """A directory on a share that is mounted here."""

    path: str


class S3Location(msgspec.Struct, frozen=True):
    """A bucket of S3, and what the keys of the store begin with there: empty, or without a slash at either end."""

    bucket: str
    prefix: str


class OssLocation(msgspec.Struct, frozen=True):
    """A bucket of Aliyun OSS; see `S3Location`."""

    bucket: str
    prefix: str


RemoteLocation = NasLocation | S3Location | OssLocation
"""Storage that other hosts reach, too."""
StoreLocation = FilesystemLocation | RemoteLocation


class LmdbLocation(msgspec.Struct, frozen=True):
    """The directory of an LMDB index."""

    path: str


def is_url(text: str) -> bool:
    """Whether it is meant as a URL, be it one that lacks a slash, and no path."""
    scheme, colon, _ = text.partition(":")
    return "://" in text or (bool(colon) and scheme.lower() in _SCHEMES)


def parse_store_url(text: str) -> StoreLocation:
    """A path or a URL.

    Raises:
        ConfigInvalid: of an unknown kind, or with something in it that does not belong there.
    """
    if not text:
        raise ConfigInvalid("the store's URL is empty; give a path, or file:///path")
    scheme, _, rest = text.partition("://")
    _check_slashes(text)
    match scheme.lower():
        case "s3":
            return S3Location(*_bucket_and_prefix("s3", rest))
        case "oss":
            return OssLocation(*_bucket_and_prefix("oss", rest))
    known, path = _split(text)
    if known in (None, "file"):
        return FilesystemLocation(os.path.abspath(path))
    if known == "nas":
        return NasLocation(os.path.abspath(path))
    raise ConfigInvalid(f"{_quoted(text)} is no kind of store; use {_KINDS}")


def parse_index_url(text: str) -> LmdbLocation:
    """A path or an `lmdb:///path`.

    Raises:
        ConfigInvalid: of a kind unknown or not supported by this version.
    """
    _check_slashes(text)
    scheme, path = _split(text)
    if scheme not in (None, "lmdb") or not path:
        raise ConfigInvalid(f"{_quoted(text)} is no index; use lmdb:///path")
    return LmdbLocation(os.path.abspath(path))


def _bucket_and_prefix(scheme: str, rest: str) -> tuple[str, str]:
    # Nothing of such a URL is quoted: it may hold a secret.
    if "@" in rest or "?" in rest or "#" in rest:
        raise ConfigInvalid(
            f"an {scheme} URL is {scheme}://bucket/prefix and nothing else: credentials come from the environment or from files "
            f"that the table [{scheme}] of the configuration names, and the endpoint from there, too. URLs are seen by others"
        )
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.removesuffix("/")
    if not _BUCKET.fullmatch(bucket):
        what = f"{bucket!r:.300} is no name of a bucket" if bucket else "there is no bucket in it"
        if ":" in bucket:
            what = f"a host and its port are the `endpoint` of the table [{scheme}] of the configuration"
        raise ConfigInvalid(f"an {scheme} URL is {scheme}://bucket/prefix; {what}")
    if prefix and not (len(prefix) <= _PREFIX_MAX_CHARS and all(map(_PREFIX_PART.fullmatch, prefix.split("/")))):
        raise ConfigInvalid(
            f"{prefix!r:.300} can't be the prefix of a store: components of letters, digits, dots, hyphens and underscores, "
            f"that don't begin with a dot, {_PREFIX_MAX_CHARS} characters in all"
        )
    return bucket, prefix


def _split(text: str) -> tuple[str | None, str]:
    """A URL's scheme and path; for a plain path, which has no scheme, None and the path itself."""
    # Not urlsplit: it drops line ends, takes the scheme it doesn't know for a path, and raises errors of its own.
    named, is_url, rest = text.partition("://")
    scheme = named.lower() if is_url else None
    host, slash, path = rest.partition("/")
    if scheme in ("file", "nas", "lmdb"):
        if host not in ("", "localhost") or not slash:
            raise ConfigInvalid(_three_slashes(text, scheme))
        if "?" in path or "#" in path:
            raise ConfigInvalid(f"{_quoted(text)}: a ? or # of a path is written %3F or %23 in a URL")
    place = os.fsdecode(unquote_to_bytes(os.fsencode(f"/{path}"))) if is_url else text
    if "\x00" in place:
        raise ConfigInvalid(f"{text!r}: a path holds no zero byte")
    return scheme, place


def _check_slashes(text: str) -> None:
    """A slash that was forgotten must not make a directory of that name."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in _SCHEMES and not rest.startswith("//"):
        raise ConfigInvalid(f"{_quoted(text)}: write {scheme}://… for a URL, or ./ in front of a path of that name")


def _three_slashes(text: str, scheme: str) -> str:
    mount = ", the directory where the share is mounted" if scheme == "nas" else ""
    return f"{_quoted(text)}: write {scheme}:///absolute/path, with three slashes{mount}"


def _quoted(text: str) -> str:
    """A URL for a message: of one that may hold a secret, as http://KEY:SECRET@host/bucket, only the scheme."""
    scheme, colon, _ = text.partition(":")
    told = f"{scheme}:…" if colon and not {"@", "?", "#"}.isdisjoint(text) else text
    return f"{told!r:.300}"
