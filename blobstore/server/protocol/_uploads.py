"""Uploads: sessions, chunks, streams, single requests and mounts (end-4 to end-6, end-11, end-13, end-14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from blobstore.digest import Algorithm, Digest
from blobstore.errors import (
    BlobUnknown,
    DigestInvalid,
    NameInvalid,
    SizeMismatch,
    StorageFull,
    UploadBusy,
    UploadUnknown,
)
from blobstore.names import RepositoryName, UploadId
from blobstore.server.protocol._call import Call
from blobstore.server.protocol._locations import blob_path, location, upload_path
from blobstore.server.protocol._ranges import Span, chunk_span
from blobstore.server.protocol.access import Need, TooManyRequests
from blobstore.server.protocol.messages import Response
from blobstore.server.protocol.observing import BlobMounted, BlobPushed, UploadCancelled, UploadStarted
from blobstore.server.protocol.problems import Problem
from blobstore.server.protocol.routing import PULL
from blobstore.uploads import Upload, open_intent, resume_upload

_ALGORITHMS = frozenset(each.value for each in Algorithm)
_VIEWERS_MAX = 1000
"""How many repositories are looked at for a mount that doesn't say from where."""
_UPLOADS_RETRY_S = 60
_BUSY_LOOK_S = 0.05
"""How often an upload that somebody else has is looked at again."""


async def start_upload(call: Call) -> Response:
    """`POST /v2/<name>/blobs/uploads/`: a mount, a blob in a single request, or a session."""
    algorithm = call.parameter("digest-algorithm")
    if algorithm is not None and algorithm not in _ALGORITHMS:
        raise DigestInvalid(f"digest-algorithm {algorithm!r:.40} is none of {', '.join(sorted(_ALGORITHMS))}")
    if call.parameter("mount") is not None:
        mounted = await _mount(call)
        if mounted is not None:
            return mounted
    elif (digest := call.parameter("digest")) is not None:
        return await _push_whole(call, Digest.parse(digest))
    await _check_room(call)
    if (await call.index.totals()).uploads >= call.settings.uploads_open_max:
        raise TooManyRequests("too many uploads are open; finish or cancel some, others expire", _UPLOADS_RETRY_S)
    intent = await open_intent(call.parts, call.name, None)
    call.core.observer(UploadStarted(request=call.request, principal=call.principal, repository=call.name))
    minimum = call.settings.chunk_min_bytes
    fields = [("OCI-Chunk-Min-Length", str(minimum))] if minimum else []
    return Response(202, [*await _session(call, intent.upload, 0), *fields])


async def append(call: Call) -> Response:
    """`PATCH <location>`: a chunk that says where it belongs, or a stream of whatever comes. What came of one that breaks off
    is kept."""
    upload_id, span = await _upload_id(call), await _announced(call)
    await _check_room(call)
    async with _resumed(call, upload_id) as upload:
        await _take(call, upload, span)
        offset = upload.offset
    return Response(202, await _session(call, upload_id, offset))


async def finish(call: Call) -> Response:
    """`PUT <location>?digest=…`: the end of an upload, with its last bytes or without."""
    upload_id = await _upload_id(call)
    text = call.parameter("digest")
    if text is None:
        raise DigestInvalid("the `digest` parameter is missing; the upload is still open")
    digest, span = Digest.parse(text), await _announced(call)
    try:
        async with _resumed(call, upload_id) as upload:
            await _take(call, upload, span)
            descriptor = await upload.commit(digest)
    except UploadUnknown:
        # Asked for again, as its answer got lost: what it was to bring is here, so it did.
        blob = await call.index.touch_blob(call.name, digest, call.now_ms(), call.parts.terms)
        if blob is None:
            raise
        return _created(call, digest)
    return _pushed(call, digest, descriptor.size_bytes)


async def tell_status(call: Call) -> Response:
    """`GET` and `HEAD <location>`: how far it has come."""
    upload_id = await _upload_id(call)
    async with _resumed(call, upload_id) as upload:
        offset = upload.offset
    return Response(204, await _session(call, upload_id, offset))


async def cancel(call: Call) -> Response:
    """`DELETE <location>`: forget it and its bytes, also while somebody still writes to it."""
    upload_id = await _upload_id(call)
    await _check_is_open(call, upload_id)
    trash = await call.index.cancel_upload(upload_id, call.now_ms())
    if trash is None:
        raise UploadUnknown("no such upload here")
    call.parts.cleaner.add(trash.generation)
    call.core.observer(UploadCancelled(request=call.request, principal=call.principal, repository=call.name))
    return Response(204)


# Sessions


async def _upload_id(call: Call) -> UploadId:
    """The upload in the path, if it is this principal's, in this repository."""
    ids = await call.core.upload_ids()
    return ids.parse(call.reference, call.name, call.principal)


async def _check_is_open(call: Call, upload_id: UploadId) -> None:
    intent = await call.index.find_upload(upload_id)
    if intent is None or intent.repository != call.name:
        raise UploadUnknown("no such upload here")


async def _session(call: Call, upload_id: UploadId, offset: int) -> list[tuple[str, str]]:
    """Where an upload goes on, and behind which byte. Without any, Docker's registry says `0-0` too, as its clients want a
    range."""
    public = (await call.core.upload_ids()).public(upload_id, call.name, call.principal)
    return [
        location(call, upload_path(call.name, public)),
        ("Range", f"0-{max(0, offset - 1)}"),
        ("Docker-Upload-UUID", public),
    ]


@asynccontextmanager
async def _resumed(call: Call, upload_id: UploadId) -> AsyncIterator[Upload]:
    """A session of an upload. One that another request still has, as its client broke off and came back, is waited for."""
    await _check_is_open(call, upload_id)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + call.settings.busy_wait_s
    while True:
        try:
            upload = await resume_upload(call.parts, call.name, upload_id)
        except UploadBusy:
            if loop.time() >= deadline:
                raise
            await asyncio.sleep(_BUSY_LOOK_S)
            continue
        break
    async with upload:
        yield upload


async def _announced(call: Call) -> Span | None:
    """Where the body says it belongs; refused before it is read if it can't be right.

    Raises:
        Problem: see `chunk_span`.
        SizeMismatch: the body is longer or shorter than its place.
    """
    span, size = chunk_span(call.request.headers), call.request.size_bytes
    if span is not None and size is not None and span.size_bytes != size:
        raise SizeMismatch("Content-Range and Content-Length", span.size_bytes, size)
    return span


async def _take(call: Call, upload: Upload, span: Span | None) -> None:
    """Append the body."""
    if span is not None and span.start != upload.offset:
        session = await _session(call, upload.upload_id, upload.offset)
        text = f"this upload goes on at byte {upload.offset}, not at {span.start}"
        raise Problem(416, "BLOB_UPLOAD_INVALID", text, detail={"offset": upload.offset}, headers=session)
    if call.request.body is not None:
        async for piece in call.request.body:
            if span is not None and upload.offset + len(piece) > span.stop:
                raise SizeMismatch("the chunk", span.size_bytes, upload.offset + len(piece) - span.start)
            if await call.core.room.is_exhausted():
                raise StorageFull("hardly any room is left: uploads that were begun before are broken off, too")
            await upload.write(piece)
    if span is not None and upload.offset != span.stop:
        raise SizeMismatch("the chunk", span.size_bytes, upload.offset - span.start)


async def _check_room(call: Call) -> None:
    if await call.core.room.is_short():
        raise StorageFull("below the low-water mark: pulls, deletes and collections go on, uploads don't")


# Whole blobs


async def _push_whole(call: Call, digest: Digest) -> Response:
    """`POST …?digest=`: one request, all or nothing, as nobody knows of an upload to go on with."""
    await _check_room(call)
    async with call.repository.open_upload(digest) as upload:
        try:
            await _take(call, upload, None)
            descriptor = await upload.commit(digest)
        except BaseException:
            await upload.cancel()
            raise
    return _pushed(call, digest, descriptor.size_bytes)


def _pushed(call: Call, digest: Digest, size_bytes: int) -> Response:
    call.core.observer(
        BlobPushed(
            request=call.request,
            principal=call.principal,
            repository=call.name,
            digest=digest,
            size_bytes=size_bytes,
        )
    )
    return _created(call, digest)


def _created(call: Call, digest: Digest) -> Response:
    headers = [location(call, blob_path(call.name, digest)), ("Docker-Content-Digest", str(digest))]
    return Response(201, headers)


# Mounts


async def _mount(call: Call) -> Response | None:
    """The blob of another repository becomes this one's; None if it can't, for whatever reason: then it is uploaded, and nobody
    learns what other repositories have."""
    try:
        digest = Digest.parse(call.parameter("mount") or "")
        source = call.parameter("from")
        sources = [RepositoryName.parse(source)] if source is not None else await _viewers(call, digest)
    except (DigestInvalid, NameInvalid):
        return None
    for each in sources:
        if not call.core.access.may(call.principal, Need(each, PULL)):
            continue
        try:
            mounted = await call.repository.mount_blob(digest, each)
        except BlobUnknown:
            continue
        call.core.observer(
            BlobMounted(
                request=call.request,
                principal=call.principal,
                repository=call.name,
                digest=digest,
                size_bytes=mounted.size_bytes,
                source=each,
            )
        )
        return _created(call, digest)
    return None


async def _viewers(call: Call, digest: Digest) -> list[RepositoryName]:
    """Where it might be mounted from; the repository itself first."""
    found = await call.index.list_viewers(digest, _VIEWERS_MAX, call.now_ms(), call.parts.terms)
    return sorted(found, key=lambda name: name != call.name)
