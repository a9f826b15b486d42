"""Where a store and its index are: URLs read into values. Pure."""

from __future__ import annotations

import os
from urllib.parse import unquote_to_bytes

import msgspec

from blobstore.errors import ConfigInvalid

DEFAULT_STORE = "./blobstore-data"
_LATER = {"nas": "NAS", "s3": "S3", "oss": "Aliyun OSS"}


class FilesystemLocation(msgspec.Struct, frozen=True):
    """A directory of this machine."""

    path: str

    @property
    def default_index_path(self) -> str:
        """Where its index is unless something else is said."""
        return os.path.join(self.path, "index")


class LmdbLocation(msgspec.Struct, frozen=True):
    """The directory of an LMDB index."""

    path: str


def parse_store_url(text: str) -> FilesystemLocation:
    """A path or a URL.

    Raises:
        ConfigInvalid: of a kind unknown or not supported by this version.
    """
    if not text:
        raise ConfigInvalid("the store's URL is empty; give a path, or file:///path")
    scheme, path = _split(text)
    if scheme in (None, "file"):
        return FilesystemLocation(os.path.abspath(path))
    if scheme in _LATER:
        raise ConfigInvalid(f"{text!r}: this version has no {_LATER[scheme]} backend; use a path or file:///path")
    raise ConfigInvalid(f"{text!r:.300} is no kind of store; use a path or file:///path")


def parse_index_url(text: str) -> LmdbLocation:
    """A path or an `lmdb:///path`.

    Raises:
        ConfigInvalid: of a kind unknown or not supported by this version.
    """
    scheme, path = _split(text)
    if scheme not in (None, "lmdb") or not path:
        raise ConfigInvalid(f"{text!r} is no index; use lmdb:///path")
    return LmdbLocation(os.path.abspath(path))


def _split(text: str) -> tuple[str | None, str]:
    """A URL's scheme and path; for a plain path, which has no scheme, None and the path itself."""
    # Not urlsplit: it drops line ends, takes the scheme it doesn't know for a path, and raises errors of its own.
    named, is_url, rest = text.partition("://")
    scheme = named.lower() if is_url else None
    host, slash, path = rest.partition("/")
    if scheme in ("file", "lmdb"):
        if host not in ("", "localhost") or not slash:
            raise ConfigInvalid(f"{text!r}: write {scheme}:///absolute/path, with three slashes")
        if "?" in path or "#" in path:
            raise ConfigInvalid(f"{text!r}: a ? or # of a path is written %3F or %23 in a URL")
    place = os.fsdecode(unquote_to_bytes(os.fsencode(f"/{path}"))) if is_url else text
    if "\x00" in place:
        raise ConfigInvalid(f"{text!r}: a path holds no zero byte")
    return scheme, place
