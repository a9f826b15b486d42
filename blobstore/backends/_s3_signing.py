"""AWS Signature Version 4 of a request whose body's sha256 is known. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote

import msgspec

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = "-_.~"


class S3Credentials(msgspec.Struct, frozen=True):
    """Who asks. `token` belongs to credentials that expire."""

    access_key: str
    secret_key: str
    token: str | None = None


def quoted_path(path: str) -> str:
    """A path as it is sent and signed."""
    return quote(path, safe=f"/{_UNRESERVED}")


def query_text(query: Mapping[str, str]) -> str:
    """A query as it is sent and signed: sorted."""
    return "&".join(f"{quote(name, safe=_UNRESERVED)}={quote(query[name], safe=_UNRESERVED)}" for name in sorted(query))


def signed_headers(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    *,
    payload_sha256: str,
    credentials: S3Credentials,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """`headers` (`host` among them) and those that sign them all. `path` and `query` are quoted."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    every = {name.lower(): value for name, value in headers.items()}
    every |= {"x-amz-date": stamp, "x-amz-content-sha256": payload_sha256}
    if credentials.token is not None:
        every["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(every))
    lines = "".join(f"{name}:{every[name].strip()}\n" for name in sorted(every))
    asked = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{payload_sha256}"
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(asked.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_key}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    every["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return every
