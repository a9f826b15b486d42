"""A request and its answer as values, free of any web framework: what a server hands to `Registry.answer`, and gets from it.

Whoever hosts the registry makes a `Request` and sends the `Response`; `blobstore.server.web.application` does so for aiohttp.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import msgspec

from blobstore.errors import BlobstoreError


class BodyInterrupted(BlobstoreError):
    """The client went away, or was too slow, before its body was whole. The host's `Request.body` raises this, so that what came
    of an upload is kept."""


class Headers:
    """Header fields of a request. Names are compared without case; a field may come more than once."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in fields:
            self._fields.setdefault(name.lower(), []).append(value)

    def get(self, name: str) -> str | None:
        """The first value of a field; None if it didn't come."""
        values = self._fields.get(name.lower())
        return values[0] if values else None

    def every(self, name: str) -> Sequence[str]:
        """All values of a field, in the order they came in."""
        return self._fields.get(name.lower(), ())


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for."""

    method: str
    path: str
    """Percent-decoded once, with its slashes as they came: two in a row stay two."""
    query: Sequence[tuple[str, str]] = ()
    """Names and values, decoded (a plus is a space), in the order they came in."""
    headers: Headers = Headers()
    body: AsyncIterator[bytes] | None = None
    """Its bytes as they come in, read at most once; None if it has none. Not read before the answer needs them, so that a refusal
    comes before the body (RFC 9110, 10.1.1: 100-continue)."""
    size_bytes: int | None = None
    """Length of the body as announced; None if it wasn't."""
    scheme: str = "http"
    """Of the URL that the client used, behind a trusted proxy its own."""
    host: str = "localhost"
    """And its host, with the port if it has one."""
    peer: str = ""
    """Address of the client, for logs and for rate limits."""
    request_id: str = ""
    """What the logs call this request."""


class FileSpan(msgspec.Struct, frozen=True):
    """A part of an open file, to be sent by the kernel. Whoever has the response closes it, sent or not."""

    handle: int
    offset: int
    size_bytes: int

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.handle)


class Stream(msgspec.Struct, frozen=True):
    """Bytes that are made while they are sent; entered when the sending begins, left when it ends, however it ends.

    Enter it before the status is sent: a blob may be gone by then, and what entering raises (`BlobstoreError`) has its answer in
    `blobstore.server.protocol.problems.problem_response`.
    """

    size_bytes: int
    chunks: AbstractAsyncContextManager[AsyncIterator[bytes]]


Payload: TypeAlias = bytes | FileSpan | Stream


class Response(msgspec.Struct, frozen=True):
    """What a client is told. `headers` are complete but for the `Content-Length` of a payload that can be measured; an
    answer to HEAD has it among them and an empty payload."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    payload: Payload = b""

    def header(self, name: str) -> str | None:
        """The first value of a field; None if there is none."""
        return next((value for each, value in self.headers if each.lower() == name.lower()), None)


def json_response(status: int, document: Any, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """An answer of one JSON document."""
    fields = [("Content-Type", "application/json"), *headers]
    # Names are a kind of text that msgspec doesn't know.
    return Response(status, fields, msgspec.json.encode(document, enc_hook=str))
