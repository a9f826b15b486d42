"""Operations on a bucket as a whole: listing, deleting many, telling of itself."""

from __future__ import annotations

import base64
from xml.etree import ElementTree as ET

from aiohttp import web

from tests.servers.oss_standin.replies import Refusal, answer, encoded, iso_time, xml
from tests.servers.oss_standin.service import Call, Effect, Service
from tests.servers.oss_standin.storage import Bucket, Version

DELETE_MAX = 1000
LIST_MAX = 1000


async def put_bucket(service: Service, call: Call) -> Effect:
    await call.body()

    def effect() -> web.Response:
        service.buckets.setdefault(call.bucket_name, Bucket(call.bucket_name, service.region))
        return answer()

    return effect


async def info(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    document = {
        "Bucket": {
            "CreationDate": "2026-01-01T00:00:00.000Z",
            "ExtranetEndpoint": f"oss-{bucket.region}.aliyuncs.com",
            "IntranetEndpoint": f"oss-{bucket.region}-internal.aliyuncs.com",
            "Location": f"oss-{bucket.region}",
            "Name": bucket.name,
            "StorageClass": "Standard",
            "Owner": {"DisplayName": "1", "ID": "1"},
            "AccessControlList": {"Grant": "private"},
            **({"Versioning": bucket.versioning} if bucket.versioning else {}),
        }
    }
    return lambda: answer(body=xml("BucketInfo", document))


async def versioning(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    document = {"Status": bucket.versioning} if bucket.versioning else {}
    return lambda: answer(body=xml("VersioningConfiguration", document))


async def list_objects(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    prefix, delimiter = call.query.get("prefix", ""), call.query.get("delimiter", "")
    limit = _limit(call, "max-keys")
    token = call.query.get("continuation-token")
    after = base64.b64decode(token).decode() if token else call.query.get("start-after", "")
    contents: list[tuple[str, Version]] = []
    folders: list[str] = []
    last, is_truncated = after, False
    for key in bucket.keys(prefix, after):
        version = bucket.current(key)
        if version is None:
            continue
        head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
        folder = prefix + head + found
        if found and ((folders and folders[-1] == folder) or after.startswith(folder)):
            last = key
            continue
        if len(contents) + len(folders) == limit:
            is_truncated = True
            break
        if found:
            folders.append(folder)
        else:
            contents.append((key, version))
        last = key
    document = {
        "Name": bucket.name,
        "Prefix": encoded(prefix),
        "MaxKeys": limit,
        "Delimiter": encoded(delimiter),
        "EncodingType": "url",
        "IsTruncated": is_truncated,
        **({"NextContinuationToken": base64.b64encode(last.encode()).decode()} if is_truncated else {}),
        "KeyCount": len(contents) + len(folders),
        "Contents": [
            {
                "Key": encoded(key),
                "LastModified": iso_time(version.modified),
                "ETag": f'"{version.etag}"',
                "Type": version.kind,
                "Size": version.size,
                "StorageClass": version.headers["x-oss-storage-class"],
            }
            for key, version in contents
        ],
        "CommonPrefixes": [{"Prefix": encoded(folder)} for folder in folders],
    }
    return lambda: answer(body=xml("ListBucketResult", document))


async def list_versions(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    prefix, limit = call.query.get("prefix", ""), _limit(call, "max-keys")
    key_marker, id_marker = call.query.get("key-marker", ""), call.query.get("version-id-marker", "")
    rows: list[tuple[str, Version, bool]] = []
    if id_marker and key_marker:
        older = bucket.versions(key_marker)
        at = next((at for at, each in enumerate(older) if each.version_id == id_marker), len(older))
        rows += [(key_marker, each, False) for each in older[at + 1 :]]
    for key in bucket.keys(prefix, key_marker):
        rows += [(key, each, at == 0) for at, each in enumerate(bucket.versions(key))]
        if len(rows) > limit:
            break
    shown = rows[:limit]
    is_truncated = len(rows) > limit
    document = {
        "Name": bucket.name,
        "Prefix": encoded(prefix),
        "KeyMarker": encoded(key_marker),
        "VersionIdMarker": id_marker,
        "MaxKeys": limit,
        "Delimiter": "",
        "EncodingType": "url",
        "IsTruncated": is_truncated,
        **(
            {"NextKeyMarker": encoded(shown[-1][0]), "NextVersionIdMarker": shown[-1][1].version_id}
            if is_truncated
            else {}
        ),
        "Version": [_version_row(*row) for row in shown if row[1].bodies is not None],
        "DeleteMarker": [_version_row(*row) for row in shown if row[1].bodies is None],
    }
    return lambda: answer(body=xml("ListVersionsResult", document))


def _version_row(key: str, version: Version, is_latest: bool) -> dict[str, object]:
    row: dict[str, object] = {
        "Key": encoded(key),
        "VersionId": version.version_id,
        "IsLatest": is_latest,
        "LastModified": iso_time(version.modified),
        "Owner": {"ID": "1", "DisplayName": "1"},
    }
    if version.bodies is not None:
        row |= {"ETag": f'"{version.etag}"', "Type": version.kind, "Size": version.size, "StorageClass": "Standard"}
    return row


async def delete_many(service: Service, call: Call) -> Effect:
    bucket = service.bucket(call.bucket_name)
    if "content-md5" not in call.headers:
        raise Refusal(400, "InvalidRequest", "Missing some required header: Content-MD5.")
    body = await call.body()
    try:
        root = ET.fromstring(body.read(0, body.size))
    except ET.ParseError as error:
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed.") from error
    wanted = [(node.findtext("Key", ""), node.findtext("VersionId")) for node in root.iter("Object")]
    if not 1 <= len(wanted) <= DELETE_MAX:
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed.")
    if any(version_id == "" for _, version_id in wanted):
        raise Refusal(400, "InvalidArgument", "The version id is empty.")
    if any(version_id is not None for _, version_id in wanted):
        call.need("oss:DeleteObjectVersion")
    is_quiet = root.findtext("Quiet") == "true"

    def effect() -> web.Response:
        rows = [_deleted(bucket, key, version_id) for key, version_id in wanted if key not in bucket.undeletable]
        document = {"EncodingType": "url", "Deleted": rows}
        return answer() if is_quiet else answer(body=xml("DeleteResult", document))

    return effect


def _deleted(bucket: Bucket, key: str, version_id: str | None) -> dict[str, object]:
    row: dict[str, object] = {"Key": encoded(key)}
    if version_id is None:
        marker = bucket.delete(key)
        if marker is not None:
            row |= {"DeleteMarker": True, "DeleteMarkerVersionId": marker.version_id}
        return row
    found = bucket.version(key, version_id)
    bucket.delete_version(key, version_id)
    row["VersionId"] = version_id
    if found is not None and found.bodies is None:
        row |= {"DeleteMarker": True, "DeleteMarkerVersionId": version_id}
    return row


def _limit(call: Call, name: str) -> int:
    text = call.query.get(name) or "100"
    if not text.isdigit() or not 1 <= int(text) <= LIST_MAX:
        raise Refusal(400, "InvalidArgument", f"{name} must be 1 to {LIST_MAX}.", ArgumentName=name)
    return int(text)
