"""The requests with bodies: objects and parts sent, objects read. The rest is the SDK's (`s3`).

The SDK copies a part for its event loop and hashes it there; by us it is hashed, signed and sent in a thread from where it lies.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

from blobstore.backends._http import HttpAnswer, HttpConnections, HttpEndpoint, HttpRequest
from blobstore.backends._s3_signing import EMPTY_SHA256, S3Credentials, query_text, quoted_path, signed_headers

_NOTHING: Mapping[str, str] = {}


class S3Bodies:
    """Signed requests to one bucket. `base_url` is what a key is appended to."""

    def __init__(self, base_url: str, region: str, endpoint: HttpEndpoint) -> None:
        self._base, self._region = urlsplit(base_url), region
        self._connections = HttpConnections(endpoint)

    async def aclose(self) -> None:
        """Release all. Repeatable."""
        await self._connections.aclose()

    async def put(
        self,
        key: str,
        data: bytes | bytearray,
        credentials: S3Credentials,
        *,
        query: Mapping[str, str] = _NOTHING,
        headers: Mapping[str, str] = _NOTHING,
        sha256: bytes | None = None,
        sends_checksum: bool = False,
    ) -> HttpAnswer:
        """Send a body whose sha256 is part of the signature, so that every server that checks one checks the other.

        Args:
            key: its key.
            data: its bytes.
            credentials: who asks.
            query: what follows the key.
            headers: more of them.
            sha256: of the body, where it is known.
            sends_checksum: have the server keep the sha256 with the object, too.
        """

        def make() -> HttpRequest:
            digest = sha256 if sha256 is not None else hashlib.sha256(data).digest()
            more = dict(headers)
            if sends_checksum:
                more["x-amz-checksum-sha256"] = base64.b64encode(digest).decode()
            more["content-length"] = str(len(data))
            return self._signed("PUT", key, query, more, digest.hex(), credentials, data)

        return await self._connections.ask(make)

    @asynccontextmanager
    async def get(
        self, key: str, credentials: S3Credentials, byte_range: str | None
    ) -> AsyncIterator[tuple[HttpAnswer, AsyncIterator[bytes]]]:
        """The answer, and the body of a success."""
        more = {"range": byte_range} if byte_range is not None else {}
        make: Callable[[], HttpRequest] = lambda: self._signed(  # noqa: E731
            "GET", key, _NOTHING, more, EMPTY_SHA256, credentials, b""
        )
        async with self._connections.stream(make) as found:
            yield found

    def _signed(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        payload_sha256: str,
        credentials: S3Credentials,
        body: bytes | bytearray,
    ) -> HttpRequest:
        path, text = self._base.path + quoted_path(key), query_text(query)
        every = signed_headers(
            method,
            path,
            text,
            {**headers, "host": self._base.netloc},
            payload_sha256=payload_sha256,
            credentials=credentials,
            region=self._region,
            now=datetime.now(UTC),
        )
        return HttpRequest(method, f"{path}?{text}" if text else path, every, body)
