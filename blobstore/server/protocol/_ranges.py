"""Conditional and partial requests: ETags, `Range` and what it is answered with. Pure text, no I/O.

Source: RFC 9110, 13 and 14.
"""

from __future__ import annotations

import re

import msgspec

from blobstore.server.protocol.messages import Headers
from blobstore.server.protocol.problems import Problem

_RANGE = re.compile(r"[ \t]*(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))[ \t]*", re.ASCII)
_CHUNK = re.compile(r"([0-9]{1,19})-([0-9]{1,19})", re.ASCII)


class Span(msgspec.Struct, frozen=True):
    """Bytes from `start` up to `stop`."""

    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """How many."""
        return self.stop - self.start

    def content_range(self, size_bytes: int) -> str:
        """As `Content-Range` writes it, of a whole of `size_bytes`."""
        return f"bytes {self.start}-{self.stop - 1}/{size_bytes}"


def is_unchanged(headers: Headers, etag: str) -> bool:
    """Whether the client has what `etag` (with its quotes) names: answer 304. Docker's client sends digests without quotes."""
    wanted = headers.get("if-none-match")
    if wanted is None:
        return False
    given = [each.strip().removeprefix("W/") for value in headers.every("if-none-match") for each in value.split(",")]
    return etag in given or etag.strip('"') in given or "*" in given


def wanted_spans(headers: Headers, etag: str, size_bytes: int, count_max: int) -> list[Span] | None:
    """What parts of `size_bytes` are asked for, those beyond its end left out; None for all of it.

    What is no range of bytes is ignored, as the RFC wants; so are ranges that ask for more than there is in all, twice over.

    Raises:
        Problem: 416, nothing of it is there; 400, too many ranges at once: clients ask again for fewer.
    """
    text = headers.get("range")
    if text is None or not _is_fresh(headers, etag):
        return None
    unit, _, listed = text.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    parts = [part for part in listed.split(",") if part.strip()]
    if len(parts) > count_max:
        raise Problem(400, "UNSUPPORTED", f"at most {count_max} ranges at once")
    matches = [_RANGE.fullmatch(part) for part in parts]
    if not matches or None in matches:
        return None
    found = [_span(match, size_bytes) for match in matches if match is not None]
    spans = [span for span in found if span is not None]
    if not spans:
        raise Problem(
            416,
            "SIZE_INVALID",
            f"no byte of {text!r:.80} is among the {size_bytes} there are",
            headers=[("Content-Range", f"bytes */{size_bytes}")],
        )
    if len(spans) > 1 and sum(span.size_bytes for span in spans) > size_bytes:
        return None
    return spans


def _is_fresh(headers: Headers, etag: str) -> bool:
    """`If-Range`: the client has a part of what the ETag names, else it wants the whole. A date is none of ours."""
    validator = headers.get("if-range")
    return validator is None or validator.strip() == etag


def _span(match: re.Match[str], size_bytes: int) -> Span | None:
    if match[3] is not None:
        length = min(int(match[3]), size_bytes)
        return Span(size_bytes - length, size_bytes) if length else None
    start, stop = int(match[1]), int(match[2]) + 1 if match[2] else size_bytes
    stop = min(stop, size_bytes)
    # One that ends before it begins is answered as unsatisfiable, as clients and the conformance suite expect.
    return Span(start, stop) if start < stop else None


def chunk_span(headers: Headers) -> Span | None:
    """The `Content-Range` of an upload's chunk, which is neither RFC 9110's unit nor total: `first-last`.

    Raises:
        Problem: 400, it is no range; 416, it ends before it begins.
    """
    text = headers.get("content-range")
    if text is None:
        return None
    match = _CHUNK.fullmatch(text.strip())
    if match is None:
        raise Problem(400, "BLOB_UPLOAD_INVALID", f"Content-Range {text!r:.80} is not `first-last`")
    span = Span(int(match[1]), int(match[2]) + 1)
    if span.start >= span.stop:
        raise Problem(416, "BLOB_UPLOAD_INVALID", f"Content-Range {text!r:.80} ends before it begins")
    return span


def part_head(boundary: str, span: Span, size_bytes: int, content_type: str) -> bytes:
    """What stands before a part of a `multipart/byteranges`."""
    head = (
        f"\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {span.content_range(size_bytes)}\r\n\r\n"
    )
    return head.encode("ascii")


def parts_end(boundary: str) -> bytes:
    """What stands behind the last part."""
    return f"\r\n--{boundary}--\r\n".encode("ascii")
