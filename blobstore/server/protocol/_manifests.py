"""Manifests: pulling, pushing and deleting them, by tag and by digest (end-3, end-7, end-9)."""

from __future__ import annotations

from blobstore.abc.records import ManifestRecord
from blobstore.digest import Digest
from blobstore.errors import (
    ManifestTooLarge,
    ManifestUnknown,
    StorageFull,
    TagInvalid,
    TagUnknown,
    TransientError,
    UploadInterrupted,
)
from blobstore.manifest import Manifest, parse_manifest
from blobstore.names import TagName
from blobstore.readers import open_blob
from blobstore.server.protocol._call import Call
from blobstore.server.protocol._locations import location, manifest_path
from blobstore.server.protocol._ranges import is_unchanged
from blobstore.server.protocol._warnings import warnings
from blobstore.server.protocol.access import TooManyRequests
from blobstore.server.protocol.messages import Response
from blobstore.server.protocol.observing import ManifestDeleted, ManifestPulled, ManifestPushed, TagDeleted
from blobstore.server.protocol.problems import Problem

_ARRIVING_RETRY_S = 1
_IGNORED_TAGS = "the `tag` parameters were ignored: they go with a digest in the path"


async def get_manifest(call: Call) -> Response:
    """`GET` and `HEAD /v2/<name>/manifests/<tag-or-digest>`: the exact bytes, whatever `Accept` says: nothing is converted."""
    reference = _reference(call.reference)
    record = await call.index.resolve(call.name, reference)
    if record is None or not await _promise(call, record):
        raise _unknown(call)
    digest = reference if isinstance(reference, Digest) else record.tagged_as or record.key.digest
    text = str(digest)
    headers = [("Content-Type", record.media_type), ("Docker-Content-Digest", text), ("ETag", f'"{text}"')]
    if call.settings.notice is not None:
        headers += warnings(call.settings.notice)
    if is_unchanged(call.request.headers, f'"{text}"'):
        return Response(304, headers)
    if call.request.method == "HEAD":
        return Response(200, [*headers, ("Content-Length", str(record.size_bytes))])
    body = await read_body(call, record.key.digest)
    _tell_pulled(call, record, digest, reference if isinstance(reference, TagName) else None)
    return Response(200, headers, body)


async def put_manifest(call: Call) -> Response:
    """`PUT /v2/<name>/manifests/<tag-or-digest>`, with more tags as `tag` parameters beside a digest."""
    digest = Digest.parse(call.reference) if ":" in call.reference else None
    more = [value for key, value in call.request.query if key == "tag"]
    tags = _tags(call, more) if digest is not None else [TagName.parse(call.reference)]
    if await call.core.room.is_exhausted():
        raise StorageFull("hardly any room is left: not even manifests are taken")
    manifest = await _parsed(call, await _read_request(call))
    try:
        await call.repository.put_parsed_manifest(manifest, tags, digest=digest)
    except UploadInterrupted as error:
        # Its own short upload was expired under way; unlike a client's, it can simply be sent again.
        raise TransientError(str(error)) from error
    named = digest or manifest.digest
    call.core.observer(
        ManifestPushed(
            request=call.request,
            principal=call.principal,
            repository=call.name,
            digest=named,
            size_bytes=manifest.size_bytes,
            media_type=manifest.media_type,
            tags=tuple(tags),
        )
    )
    headers = [location(call, manifest_path(call.name, named)), ("Docker-Content-Digest", str(named))]
    if manifest.subject is not None:
        headers.append(("OCI-Subject", str(manifest.subject.digest)))
    if digest is not None:
        headers += [("OCI-Tag", tag) for tag in tags]
    headers += warnings(call.settings.notice, _IGNORED_TAGS if more and digest is None else None)
    return Response(201, headers)


async def delete_manifest(call: Call) -> Response:
    """`DELETE /v2/<name>/manifests/<tag-or-digest>`: a tag alone, or a manifest with all tags that name it."""
    reference = _reference(call.reference)
    if isinstance(reference, Digest):
        await call.repository.delete_manifest(reference)
        told: ManifestDeleted | TagDeleted = ManifestDeleted(
            request=call.request, principal=call.principal, repository=call.name, digest=reference
        )
    else:
        try:
            await call.repository.untag(reference)
        except TagUnknown as error:
            raise _unknown(call) from error
        told = TagDeleted(request=call.request, principal=call.principal, repository=call.name, tag=reference)
    call.core.observer(told)
    return Response(202)


async def read_body(call: Call, digest: Digest) -> bytes:
    """The verified bytes of a manifest that who asks may see, by its sha256.

    Raises:
        BlobUnknown: it was collected just now.
        BlobDamaged: its bytes are missing or wrong.
    """
    body = call.core.manifests.get(digest)
    if body is None:
        async with open_blob(call.parts, digest, lambda: call.index.find_blob(digest)) as reader:
            body = await reader.read()
        call.core.manifests.add(digest, body)
    return body


def _reference(text: str) -> TagName | Digest:
    """What is asked for. What can't be a tag names no manifest, which isn't the client's mistake."""
    if ":" in text:
        return Digest.parse(text)
    try:
        return TagName.parse(text)
    except TagInvalid as error:
        raise ManifestUnknown(f"no manifest can be named {text!r:.160}") from error


async def _promise(call: Call, record: ManifestRecord) -> bool:
    """A yes renews the grace of a manifest that nothing holds. One with a tag has none that could run out: to lose the tag would
    begin it anew."""
    return record.tag_count > 0 or await call.index.touch_manifest(record.key, call.now_ms(), call.parts.terms)


def _unknown(call: Call) -> ManifestUnknown:
    return ManifestUnknown(f"this repository has no manifest {call.reference:.160}")


def _tell_pulled(call: Call, record: ManifestRecord, digest: Digest, tag: TagName | None) -> None:
    call.core.observer(
        ManifestPulled(
            request=call.request,
            principal=call.principal,
            repository=call.name,
            digest=digest,
            size_bytes=record.size_bytes,
            media_type=record.media_type,
            tag=tag,
        )
    )


def _tags(call: Call, texts: list[str]) -> list[TagName]:
    if len(texts) > call.settings.tags_per_put_max:
        raise Problem(414, "UNSUPPORTED", f"at most {call.settings.tags_per_put_max} tags at once")
    return list(dict.fromkeys(TagName.parse(text) for text in texts))


async def _read_request(call: Call) -> bytes:
    """The body of a put. What is too long isn't read to its end, nor at all if it says so."""
    limit = call.settings.manifest_max_bytes
    pieces, size = list[bytes](), call.request.size_bytes or 0
    if size > limit:
        raise _too_large(size, limit)
    size = 0
    if call.request.body is None:
        return b""
    with call.core.arriving.taking() as taken:
        async for piece in call.request.body:
            size += len(piece)
            if size > limit:
                raise _too_large(size, limit)
            if not taken.take(size, call.settings.manifests_arriving_bytes):
                raise TooManyRequests(
                    "too many large manifests are arriving at once; come back in a moment", _ARRIVING_RETRY_S
                )
            pieces.append(piece)
        return b"".join(pieces)


def _too_large(size_bytes: int, limit_bytes: int) -> ManifestTooLarge:
    return ManifestTooLarge(f"a manifest of {size_bytes} bytes or more; at most {limit_bytes} are accepted")


async def _parsed(call: Call, body: bytes) -> Manifest:
    content_type = call.request.headers.get("content-type")
    # Parameters (a charset) are ignored; without a type the document itself decides.
    media_type = content_type.partition(";")[0].strip() if content_type is not None else None
    return await call.parts.hash_pool.run(parse_manifest, body, media_type or None)
