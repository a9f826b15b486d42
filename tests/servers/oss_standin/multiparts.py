"""Operations on uploads in parts."""

from __future__ import annotations

import hashlib
import uuid
from xml.etree import ElementTree as ET

from aiohttp import web

from tests.servers.oss_standin.joining import joined
from tests.servers.oss_standin.objects import kept_headers, make_version, refuse_overwrite, version_header
from tests.servers.oss_standin.replies import Refusal, answer, encoded, iso_time, xml
from tests.servers.oss_standin.service import Call, Effect, Service
from tests.servers.oss_standin.storage import Body, Bucket, Multipart

PART_MIN_BYTES = 100 * 1024
PARTS_MAX = 10_000


async def initiate(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    headers = kept_headers(call)

    def effect() -> web.Response:
        refuse_overwrite(bucket, call)
        upload_id = uuid.uuid4().hex.upper()
        bucket.multiparts[upload_id] = Multipart(upload_id, call.key, headers)
        document = {"EncodingType": "url", "Bucket": bucket.name, "Key": encoded(call.key), "UploadId": upload_id}
        return answer(body=xml("InitiateMultipartUploadResult", document))

    return effect


async def put_part(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    number = int(call.query["partNumber"])
    if not 1 <= number <= PARTS_MAX:
        raise Refusal(400, "InvalidArgument", "Part number must be an integer between 1 and 10000.")
    _multipart(bucket, call)
    body = await call.body()

    def effect() -> web.Response:
        # Looked up anew: it may have been aborted while the body came in.
        _multipart(bucket, call).parts[number] = body
        return answer(ETag=f'"{body.etag}"', x_oss_hash_crc64ecma=str(body.crc))

    return effect


async def list_parts(service: Service, call: Call) -> Effect:
    multipart = _multipart(service.bucket(call.bucket_name), call)
    limit = int(call.query.get("max-parts") or 1000)
    if not 1 <= limit <= 1000:
        raise Refusal(400, "InvalidArgument", "max-parts must be 1 to 1000.")
    after = int(call.query.get("part-number-marker") or 0)
    behind = sorted(number for number in multipart.parts if number > after)
    shown = behind[:limit]
    document = {
        "Bucket": call.bucket_name,
        "Key": call.key,
        "UploadId": multipart.upload_id,
        "PartNumberMarker": after,
        "NextPartNumberMarker": shown[-1] if shown else 0,
        "MaxParts": limit,
        "IsTruncated": len(behind) > limit,
        "Part": [
            {
                "PartNumber": number,
                "LastModified": iso_time(multipart.started),
                "ETag": f'"{multipart.parts[number].etag}"',
                "HashCrc64ecma": multipart.parts[number].crc,
                "Size": multipart.parts[number].size,
            }
            for number in shown
        ],
    }
    return lambda: answer(body=xml("ListPartsResult", document))


async def complete(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    text = b"".join([data async for data in call.request.content.iter_any()])

    def effect() -> web.Response:
        multipart = _multipart(bucket, call)
        refuse_overwrite(bucket, call)
        bodies = _chosen(multipart, text)
        crc = bodies[0].crc
        for body in bodies[1:]:
            crc = joined(crc, body.crc, body.size)
        digest = hashlib.md5("".join(body.etag for body in bodies).encode(), usedforsecurity=False)
        etag = f"{digest.hexdigest().upper()}-{len(bodies)}"
        version = make_version(bodies, etag, crc, multipart.headers, "Multipart")
        bucket.add(call.key, version)
        del bucket.multiparts[multipart.upload_id]
        document = {
            "EncodingType": "url",
            "Location": f"http://{call.headers['host']}/{encoded(call.key)}",
            "Bucket": bucket.name,
            "Key": encoded(call.key),
            "ETag": f'"{etag}"',
        }
        return answer(
            body=xml("CompleteMultipartUploadResult", document),
            x_oss_hash_crc64ecma=str(crc),
            **version_header(bucket, version),
        )

    return effect


async def abort(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)

    def effect() -> web.Response:
        del bucket.multiparts[_multipart(bucket, call).upload_id]
        return answer(204)

    return effect


async def list_uploads(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    limit = int(call.query.get("max-uploads") or 1000)
    prefix = call.query.get("prefix", "")
    # Without an upload's id the marker stands behind all uploads of its key.
    key_marker = call.query.get("key-marker", "")
    marker = (key_marker, call.query.get("upload-id-marker") or "\U0010ffff") if key_marker else ("", "")
    found = sorted(
        (each.key, each.upload_id)
        for each in bucket.multiparts.values()
        if each.key.startswith(prefix) and (each.key, each.upload_id) > marker
    )
    shown = found[:limit]
    document = {
        "EncodingType": "url",
        "Bucket": bucket.name,
        "KeyMarker": encoded(call.query.get("key-marker", "")),
        "UploadIdMarker": call.query.get("upload-id-marker", ""),
        "NextKeyMarker": encoded(shown[-1][0]) if shown else "",
        "NextUploadIdMarker": shown[-1][1] if shown else "",
        "Delimiter": "",
        "Prefix": encoded(prefix),
        "MaxUploads": limit,
        "IsTruncated": len(found) > limit,
        "Upload": [
            {"Key": encoded(key), "UploadId": upload_id, "Initiated": iso_time(bucket.multiparts[upload_id].started)}
            for key, upload_id in shown
        ],
    }
    return lambda: answer(body=xml("ListMultipartUploadsResult", document))


def _multipart(bucket: Bucket, call: Call) -> Multipart:
    found = bucket.multiparts.get(call.query["uploadId"])
    if found is None or found.key != call.key:
        raise Refusal(
            404, "NoSuchUpload", "The specified upload does not exist. It may have been aborted or completed."
        )
    return found


def _chosen(multipart: Multipart, text: bytes) -> list[Body]:
    """The parts that a complete names, in their order; sizes are looked at only now, as OSS does."""
    try:
        nodes = [(int(node.findtext("PartNumber", "")), node.findtext("ETag", "")) for node in ET.fromstring(text)]
    except (ET.ParseError, ValueError) as error:
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed.") from error
    numbers = [number for number, _ in nodes]
    if not numbers:
        raise Refusal(400, "MalformedXML", "No part is named.")
    if numbers != sorted(set(numbers)):
        raise Refusal(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    for number, etag in nodes:
        if number not in multipart.parts or multipart.parts[number].etag != etag.strip('"'):
            raise Refusal(
                400, "InvalidPart", "One or more of the specified parts could not be found.", PartNumber=str(number)
            )
    bodies = [multipart.parts[number] for number in numbers]
    if any(body.size < PART_MIN_BYTES for body in bodies[:-1]):
        raise Refusal(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size.")
    return bodies
