"""Operations on one object."""

from __future__ import annotations

import base64
import re
from email.utils import format_datetime

from aiohttp import web

from tests.servers.oss_standin.replies import Refusal, answer, request_id
from tests.servers.oss_standin.sending import Stream
from tests.servers.oss_standin.service import Call, Effect, Service
from tests.servers.oss_standin.storage import Body, Bucket, Version

_CLASSES = ("Standard", "IA", "Archive", "ColdArchive", "DeepColdArchive")
_FROZEN = ("Archive", "ColdArchive", "DeepColdArchive")
_ENCRYPTIONS = ("AES256", "KMS", "SM4")
_KEY_MAX_BYTES = 1023
_PUT_MAX_BYTES = 5 * 1024**3
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def put(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    headers = kept_headers(call)
    body = await call.body()
    if body.size > _PUT_MAX_BYTES:
        raise Refusal(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size.")

    def effect() -> web.Response:
        refuse_overwrite(bucket, call)
        version = make_version([body], body.etag, body.crc, headers, "Normal")
        bucket.add(call.key, version)
        md5 = {"Content_MD5": base64.b64encode(body.md5).decode()} if body.md5 is not None else {}
        return answer(
            ETag=f'"{body.etag}"', x_oss_hash_crc64ecma=str(body.crc), **version_header(bucket, version), **md5
        )

    return effect


async def get(service: Service, call: Call) -> Effect:
    version = _found(service.bucket(call.bucket_name), call)
    if version.headers["x-oss-storage-class"] in _FROZEN:
        raise Refusal(403, "InvalidObjectState", "The operation is not valid for the object's state.")
    size = version.size
    start, stop, status = 0, size, 200
    headers = _object_headers(service.bucket(call.bucket_name), version)
    match = _RANGE.fullmatch(call.headers.get("range", ""))
    if match and (match[1] or match[2]) and not (call.fault and call.fault.kind == "whole"):
        first = int(match[1]) if match[1] else max(0, size - int(match[2]))
        last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
        if first <= last < size:
            start, stop, status = first, last + 1, 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        elif call.headers.get("x-oss-range-behavior") == "standard":
            raise Refusal(416, "InvalidRange", "The requested range cannot be satisfied.")
    return lambda: Stream(version, start, stop, status, headers)


async def head(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    version = _found(bucket, call)
    headers = {**_object_headers(bucket, version), "Content-Length": str(version.size)}
    return lambda: web.Response(headers=headers)


async def delete(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)

    def effect() -> web.Response:
        if call.key in bucket.undeletable:
            raise Refusal(409, "FileImmutable", "The object you specified is immutable.")
        if "versionId" in call.query:
            bucket.delete_version(call.key, call.query["versionId"])
            return answer(204, x_oss_version_id=call.query["versionId"])
        marker = bucket.delete(call.key)
        if marker is None:
            return answer(204)
        return answer(204, x_oss_delete_marker="true", x_oss_version_id=marker.version_id)

    return effect


def kept_headers(call: Call) -> dict[str, str]:
    """The headers that stay with an object, checked."""
    if call.key.startswith(("/", "\\")) or len(call.key.encode()) > _KEY_MAX_BYTES:
        raise Refusal(400, "InvalidObjectName", "The specified object is not valid.")
    storage_class = call.headers.get("x-oss-storage-class", "Standard")
    if storage_class not in _CLASSES:
        raise Refusal(
            400, "InvalidArgument", f"no such storage class {storage_class}", ArgumentName="x-oss-storage-class"
        )
    kept = {"x-oss-storage-class": storage_class}
    encryption = call.headers.get("x-oss-server-side-encryption")
    if encryption is not None:
        if encryption not in _ENCRYPTIONS:
            raise Refusal(400, "InvalidEncryptionAlgorithmError", "The Encryption Algorithm is not supported.")
        kept["x-oss-server-side-encryption"] = encryption
    if "x-oss-server-side-encryption-key-id" in call.headers:
        kept["x-oss-server-side-encryption-key-id"] = call.headers["x-oss-server-side-encryption-key-id"]
    kept["Content-Type"] = call.headers.get("content-type", "application/octet-stream")
    return kept | {name: value for name, value in call.headers.items() if name.startswith("x-oss-meta-")}


def refuse_overwrite(bucket: Bucket, call: Call) -> None:
    """Where versions are kept nothing is overwritten, and the header does nothing."""
    wants_new = call.headers.get("x-oss-forbid-overwrite", "").lower() == "true"
    if wants_new and not bucket.versioning and bucket.current(call.key) is not None:
        raise Refusal(409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten.")


def make_version(bodies: list[Body], etag: str, crc: int, headers: dict[str, str], kind: str) -> Version:
    return Version("", bodies, etag, crc, headers, kind)


def version_header(bucket: Bucket, version: Version) -> dict[str, str]:
    """The header that tells a version, where they are kept."""
    return {"x_oss_version_id": version.version_id} if bucket.versioning else {}


def _found(bucket: Bucket, call: Call) -> Version:
    wanted = call.query.get("versionId")
    version = bucket.version(call.key, wanted) if wanted else bucket.current(call.key)
    if version is None:
        latest = bucket.latest(call.key)
        headers = {}
        if latest is not None and latest.bodies is None:
            headers = {"x-oss-delete-marker": "true", "x-oss-version-id": latest.version_id}
        code = "NoSuchVersion" if wanted else "NoSuchKey"
        raise Refusal(404, code, "The specified key does not exist.", headers, Key=call.key)
    return version


def _object_headers(bucket: Bucket, version: Version) -> dict[str, str]:
    headers = {
        "x-oss-request-id": request_id(),
        "ETag": f'"{version.etag}"',
        "Last-Modified": format_datetime(version.modified, usegmt=True),
        "x-oss-hash-crc64ecma": str(version.crc),
        "x-oss-object-type": version.kind,
        "Accept-Ranges": "bytes",
        **version.headers,
    }
    if bucket.versioning:
        headers["x-oss-version-id"] = version.version_id
    return headers
