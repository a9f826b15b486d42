"""What refers to a manifest: signatures, SBOMs and other artifacts with it as their subject (end-12)."""

from __future__ import annotations

from typing import Any

import msgspec

from blobstore.abc.records import ManifestRecord
from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.errors import BlobDamaged, BlobUnknown
from blobstore.hashing import INLINE_HASH_MAX_BYTES
from blobstore.manifest import OCI_INDEX, parse_manifest
from blobstore.server.protocol._base import document
from blobstore.server.protocol._call import Call
from blobstore.server.protocol._locations import next_link
from blobstore.server.protocol._manifests import read_body
from blobstore.server.protocol._tags import page_size
from blobstore.server.protocol.messages import Response

_TYPE = ("Content-Type", OCI_INDEX)
_FILTERED = ("OCI-Filters-Applied", "artifactType")
_SCAN = 1000
_SCANS_MAX = 10
_PAGE_MAX_BYTES = 4 * 1024 * 1024
"""How many bytes of manifests are read for a page, which is shorter than they are: one that clients still take."""


async def list_referrers(call: Call) -> Response:
    """`GET /v2/<name>/referrers/<digest>`: an image index of them, an empty one also for what was never here."""
    subject = Digest.parse(call.reference)
    wanted = call.parameter("artifactType")
    if wanted is not None:
        # In a query a plus is a blank, and media types have pluses and no blanks: some clients don't encode it.
        wanted = wanted.replace(" ", "+")
    count = max(1, page_size(call, call.settings.referrers_page_max, call.settings.referrers_page_max))
    found, last = await _find(call, subject, wanted, _after(call), count)
    entries, size = list[dict[str, Any]](), 0
    for at, record in enumerate(found):
        size += record.size_bytes
        if at == count or (at and size > _PAGE_MAX_BYTES):
            last = found[at - 1].key.digest
            break
        entry = await _entry(call, record)
        if entry is not None:
            entries.append(entry)
    body = msgspec.json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    answer = document(call, body, _TYPE)
    fields = [_FILTERED] if wanted is not None else []
    if last is not None:
        parameters = [("last", str(last)), ("n", str(count))]
        if wanted is not None:
            parameters.insert(0, ("artifactType", wanted))
        fields.append(next_link(call, f"/v2/{call.name}/referrers/{subject}", parameters))
    return Response(answer.status, [*answer.headers, *fields], answer.payload)


def _after(call: Call) -> Digest | None:
    last = call.parameter("last")
    return Digest.parse(last) if last else None


async def _find(
    call: Call, subject: Digest, wanted: str | None, after: Digest | None, count: int
) -> tuple[list[ManifestRecord], Digest | None]:
    """More than `count` records of the wanted type in order of digest, if there are more; and behind which digest to look on,
    where this looked long enough."""
    found: list[ManifestRecord] = []
    limit = count + 1 if wanted is None else _SCAN
    for _ in range(_SCANS_MAX):
        page = await call.index.list_referrers(call.name, subject, after, limit)
        found += [record for record in page if wanted is None or record.artifact_type == wanted]
        if len(page) < limit:
            return found, None
        after = page[-1].key.digest
        if len(found) > count:
            break
    return found, after


async def _entry(call: Call, record: ManifestRecord) -> dict[str, Any] | None:
    """Its descriptor, with its annotations; None if it was deleted since it was found."""
    digest = record.key.digest
    try:
        body = await read_body(call, digest)
    except BlobUnknown:
        return None
    except BlobDamaged:
        # One that is lost must not hide the others.
        return Descriptor(record.media_type, digest, record.size_bytes, artifact_type=record.artifact_type).to_json()
    if len(body) <= INLINE_HASH_MAX_BYTES:
        return parse_manifest(body, record.media_type).descriptor.to_json()
    parsed = await call.parts.hash_pool.run(parse_manifest, body, record.media_type)
    return parsed.descriptor.to_json()
