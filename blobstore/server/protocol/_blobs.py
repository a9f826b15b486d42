"""Blobs: whether one is here, its bytes or parts of them, and letting go of it (end-2, end-10)."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from urllib.parse import quote

from blobstore.abc.backend import HandsOutPaths, Presigns
from blobstore.abc.records import Blob
from blobstore.clock import random_hex
from blobstore.digest import Digest
from blobstore.durable import storage_failed
from blobstore.errors import BlobDamaged, BlobUnknown
from blobstore.events import Alarm
from blobstore.server.protocol._call import Call
from blobstore.server.protocol._ranges import Span, is_unchanged, part_head, parts_end, wanted_spans
from blobstore.server.protocol.messages import FileSpan, Payload, Response, Stream
from blobstore.server.protocol.observing import BlobDeleted, BlobPulled
from blobstore.server.protocol.settings import Delivery
from blobstore.uploads import OCTET_STREAM

_TYPE = ("Content-Type", OCTET_STREAM)
_RANGES = ("Accept-Ranges", "bytes")
# The bytes of a digest never change; whether they are here is asked again by HEAD.
_FOR_EVER = ("Cache-Control", "max-age=31536000")
_NOT_SHARED = ("Cache-Control", "private, no-store")
_NO_REFERRER = ("Referrer-Policy", "no-referrer")
_OPENINGS_MAX = 3
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW

Fields = list[tuple[str, str]]


async def head_blob(call: Call) -> Response:
    """`HEAD /v2/<name>/blobs/<digest>`: a yes is a promise, as a client will not send these bytes."""
    digest = Digest.parse(call.reference)
    blob = await call.index.touch_blob(call.name, digest, call.now_ms(), call.parts.terms)
    if blob is None:
        raise _unknown(digest)
    if is_unchanged(call.request.headers, f'"{digest}"'):
        return Response(304, _fields(digest))
    return Response(200, [*_fields(digest), ("Content-Length", str(blob.size_bytes))])


async def get_blob(call: Call) -> Response:
    """`GET /v2/<name>/blobs/<digest>`: all of it, or the ranges that are asked for, in whatever way its bytes leave."""
    digest = Digest.parse(call.reference)
    blob = await _view(call, digest)
    headers = call.request.headers
    if is_unchanged(headers, f'"{digest}"'):
        return Response(304, _fields(digest))
    elsewhere = await _send_elsewhere(call, digest, blob)
    if elsewhere is not None:
        return elsewhere
    spans = wanted_spans(headers, f'"{digest}"', blob.size_bytes, call.settings.ranges_max)
    if spans is None:
        payload = await _payload(call, digest, blob, Span(0, blob.size_bytes))
        found = Response(200, [*_fields(digest), _FOR_EVER], payload)
    elif len(spans) == 1:
        payload = await _payload(call, digest, blob, spans[0])
        content_range = ("Content-Range", spans[0].content_range(blob.size_bytes))
        found = Response(206, [*_fields(digest), _FOR_EVER, content_range], payload)
    else:
        found = _multipart(call, digest, blob, spans)
    _tell_pulled(call, digest, blob)
    return found


async def delete_blob(call: Call) -> Response:
    """`DELETE /v2/<name>/blobs/<digest>`: this repository lets go of it; the collector frees what nobody keeps."""
    digest = Digest.parse(call.reference)
    await call.repository.delete_blob(digest)
    told = BlobDeleted(request=call.request, principal=call.principal, repository=call.name, digest=digest)
    call.core.observer(told)
    return Response(202)


def _fields(digest: Digest) -> Fields:
    text = str(digest)
    return [_TYPE, _RANGES, ("Docker-Content-Digest", text), ("ETag", f'"{text}"')]


def _unknown(digest: Digest) -> BlobUnknown:
    return BlobUnknown(f"this repository has no blob {digest}")


async def _view(call: Call, digest: Digest) -> Blob:
    blob = await call.index.view_blob(call.name, digest, call.now_ms(), call.parts.terms)
    if blob is None:
        raise _unknown(digest)
    return blob


def _tell_pulled(call: Call, digest: Digest, blob: Blob) -> None:
    call.core.observer(
        BlobPulled(
            request=call.request,
            principal=call.principal,
            repository=call.name,
            digest=digest,
            size_bytes=blob.size_bytes,
        )
    )


# Ways out


async def _send_elsewhere(call: Call, digest: Digest, blob: Blob) -> Response | None:
    """An answer that leaves the bytes to the object store or to the server in front, ranges and all; None for one of ours."""
    settings, backend = call.settings, call.parts.backend
    if settings.delivery is Delivery.REDIRECT and isinstance(backend, Presigns):
        url = await backend.presign(blob.names[0], settings.redirect_valid_s)
        named = ("Docker-Content-Digest", str(digest))
        found = Response(307, [named, ("Location", url), _NOT_SHARED, _NO_REFERRER])
    elif settings.delivery is Delivery.ACCEL and isinstance(backend, HandsOutPaths):
        path = ("X-Accel-Redirect", settings.accel_prefix + quote(blob.names[0]))
        # That it gives ranges nginx says of itself; of ours it would make a second field.
        fields = [field for field in _fields(digest) if field is not _RANGES]
        found = Response(200, [*fields, _FOR_EVER, path])
    else:
        return None
    _tell_pulled(call, digest, blob)
    return found


async def _payload(call: Call, digest: Digest, blob: Blob, span: Span) -> Payload:
    if not span.size_bytes:
        return b""
    backend = call.parts.backend
    if isinstance(backend, HandsOutPaths) and not backend.properties.is_shared:
        # Of a share only its backend knows what its errors mean, and all that asks its server waits in a thread.
        return FileSpan(await _open_file(call, digest, blob, backend.path_of), span.start, span.size_bytes)
    return Stream(span.size_bytes, _chunks(call, digest, span))


async def _open_file(call: Call, digest: Digest, blob: Blob, path_of: Callable[[str], str]) -> int:
    """A descriptor of its file. What was collected, or pushed anew, since we looked is looked for again."""
    for _ in range(_OPENINGS_MAX):
        try:
            handle = os.open(path_of(blob.names[0]), _FLAGS)
        except FileNotFoundError:
            # Entering asks the index again; it tells an operator of bytes that are lost, and raises what a client is told.
            async with call.repository.open_blob(digest):
                pass
            blob = await _view(call, digest)
            continue
        except OSError as error:
            raise storage_failed(f"open {blob.names[0]}", error) from error
        found = os.fstat(handle).st_size
        if found == blob.size_bytes:
            return handle
        os.close(handle)
        text = f"{blob.names[0]} has {found} bytes of {blob.size_bytes}; `blobstore check` marks it, a push heals it"
        call.parts.events(Alarm(text))
        raise BlobDamaged(text)
    raise BlobUnknown(f"{digest} comes and goes; ask again")


@asynccontextmanager
async def _chunks(call: Call, digest: Digest, span: Span) -> AsyncIterator[AsyncIterator[bytes]]:
    async with call.repository.open_blob(digest, span.start, span.stop) as reader:
        yield aiter(reader)


# Several ranges at once


def _multipart(call: Call, digest: Digest, blob: Blob, spans: Sequence[Span]) -> Response:
    boundary = random_hex(16)
    heads = [part_head(boundary, span, blob.size_bytes, OCTET_STREAM) for span in spans]
    end = parts_end(boundary)
    size = sum(map(len, heads)) + sum(span.size_bytes for span in spans) + len(end)
    fields = [field for field in _fields(digest) if field is not _TYPE]
    content_type = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    stream = Stream(size, _parts(call, digest, list(zip(heads, spans, strict=True)), end))
    return Response(206, [content_type, *fields, _FOR_EVER], stream)


@asynccontextmanager
async def _parts(
    call: Call, digest: Digest, parts: Sequence[tuple[bytes, Span]], end: bytes
) -> AsyncIterator[AsyncIterator[bytes]]:
    async def chunks() -> AsyncGenerator[bytes]:
        for head, span in parts:
            yield head
            async with call.repository.open_blob(digest, span.start, span.stop) as reader:
                async for chunk in reader:
                    yield chunk
        yield end

    made = chunks()
    try:
        yield made
    finally:
        await made.aclose()
