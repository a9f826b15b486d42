"""Values of the index as JSON has them, shortened to what the guards need."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from blobstore.digest import Algorithm, Digest
from blobstore.generation import Generation
from blobstore.layout import parse_blob_key, parse_upload_key
from blobstore.manifest import Manifest

LEFT_OUT = frozenset({"minter", "boot", "hash_state", "blake3", "size", "size_bytes", "offset", "report", "record"})
_DIGEST_CHARS = 16


def plain(value: Any) -> Any:
    """A value, whatever it is made of. Digests are cut to 64 bits."""
    if value is None or type(value) in (int, bool):
        return value
    if isinstance(value, Digest):
        kind = "" if value.algorithm is Algorithm.SHA256 else f"{value.algorithm.value}:"
        return kind + value.hex[:_DIGEST_CHARS]
    if isinstance(value, Generation):
        return f"{value.epoch:x}-{value.counter:x}"
    if isinstance(value, Manifest):
        references = [[plain(each.digest), each.kind] for each in value.references]
        subject = plain(value.subject.digest) if value.subject is not None else None
        return {"digest": plain(value.digest), "references": references, "subject": subject}
    if isinstance(value, msgspec.Struct):
        fields = [name for name in value.__struct_fields__ if name not in LEFT_OUT]
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return _short_name(value) if type(value) is str else str(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(plain(each) for each in value)
    if isinstance(value, Iterable):
        return [plain(each) for each in value]
    return value


def _short_name(text: str) -> str:
    """A name on the backend, with a short digest and generation; any other text as it is."""
    blob = parse_blob_key(text)
    if blob is not None:
        return f"blob {plain(blob.digest)} {plain(blob.generation)}"
    upload = parse_upload_key(text)
    return f"upload {plain(upload)}" if upload is not None else text
