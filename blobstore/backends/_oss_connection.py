"""oss2's side of a bucket: what signs and connects, and requests that take more than one of its calls."""

from __future__ import annotations

import logging
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from typing import Any

import oss2
import requests
from oss2.credentials import Credentials, CredentialsProvider
from oss2.models import BatchDeleteObjectVersion, BatchDeleteObjectVersionList, PartInfo

from blobstore.backends._object_client import Part
from blobstore.backends._oss_settings import OssSettings, url_of

PAGE_KEYS = 1000
_CONNECTIONS_KEPT = 256
"""More than there are threads, as downloads hold one between their reads."""


class _Credentials(CredentialsProvider):  # type: ignore[misc]
    """Asked for each request, so that temporary ones can be renewed in the environment."""

    def __init__(self, settings: OssSettings) -> None:
        self._settings = settings

    def get_credentials(self) -> Credentials:
        """Key id, secret, token."""
        return Credentials(*self._settings.credentials())


def connect(settings: OssSettings) -> tuple[Any, Any, Any]:
    """A session, the bucket, and the bucket as URLs for clients name it. Sends nothing."""
    logger = logging.getLogger("oss2")
    if logger.level == logging.NOTSET:
        # Below, it logs each object that isn't there, and further below the headers of each request, tokens among them.
        logger.setLevel(logging.WARNING)
    session = oss2.Session(pool_size=_CONNECTIONS_KEPT)
    _settle(session.session, settings)
    bucket = _bucket(settings, settings.endpoint_url, session)
    if settings.presign_endpoint is None:
        return session, bucket, bucket
    return session, bucket, _bucket(settings, url_of(settings.presign_endpoint), session)


def _settle(session: requests.Session, settings: OssSettings) -> None:
    """Look up once what requests would look up in the environment for each request; and not .netrc, whose passwords would replace
    our signatures."""
    session.trust_env = False
    # A rule of the bucket's website may send a request for what isn't there to another place, whose answer is not the store's.
    session.max_redirects = 0
    session.proxies = requests.utils.get_environ_proxies(settings.endpoint_url)
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


def _bucket(settings: OssSettings, endpoint: str, session: Any) -> Any:
    credentials = _Credentials(settings)
    return oss2.Bucket(
        oss2.ProviderAuthV4(credentials) if settings.signature == "v4" else oss2.ProviderAuth(credentials),
        endpoint,
        settings.bucket,
        is_cname=settings.addressing == "custom_domain",
        session=session,
        # requests takes a pair as well.
        connect_timeout=(settings.connect_timeout_s, settings.read_timeout_s),
        app_name="blobstore",
        enable_crc=False,
        region=settings.region_id,
        is_path_style=settings.addressing == "path",
    )


def put_once(bucket: Any, key: str, body: Any, headers: dict[str, str]) -> Any:
    """The result; None if there is an object already, and the headers forbid to replace it."""
    return _unless_taken(lambda: bucket.put_object(key, body, headers=headers))


def put_part(bucket: Any, key: str, multipart_id: str, number: int, body: Any) -> Any:
    """Send one part."""
    return _read_to_its_end(bucket.upload_part(key, multipart_id, number, body))


def complete(bucket: Any, key: str, multipart_id: str, parts: Sequence[Part], headers: dict[str, str]) -> Any:
    """Join the parts; None as of `put_once`."""
    infos = [PartInfo(part.number, part.etag) for part in parts]
    return _unless_taken(lambda: bucket.complete_multipart_upload(key, multipart_id, infos, headers=headers))


def _unless_taken(ask: Callable[[], Any]) -> Any:
    try:
        return _read_to_its_end(ask())
    except oss2.exceptions.ServerError as error:
        if error.code == "FileAlreadyExists":
            return None
        raise


def _read_to_its_end(result: Any) -> Any:
    """oss2 leaves the bodies of these answers unread, and with them their connections unused."""
    result.resp.read()
    return result


def versions_of(bucket: Any, key: str) -> list[str]:
    """The versions and delete markers of one key."""
    found: list[str] = []
    key_marker = version_marker = ""
    while True:
        page = bucket.list_object_versions(
            prefix=key, key_marker=key_marker, versionid_marker=version_marker, max_keys=PAGE_KEYS
        )
        found += [each.versionid for each in (*page.versions, *page.delete_marker) if each.key == key]
        # Keys come in order, so behind this one stand only those that are longer.
        if not page.is_truncated or page.next_key_marker != key:
            return found
        key_marker, version_marker = page.next_key_marker, page.next_versionid_marker


def delete_versions(bucket: Any, rows: Sequence[tuple[str, str]]) -> Any:
    """Delete versions, given as key and version."""
    versions = BatchDeleteObjectVersionList([BatchDeleteObjectVersion(key, version) for key, version in rows])
    return bucket.delete_object_versions(versions)


def parts_of(bucket: Any, key: str, multipart_id: str) -> list[Part]:
    """The parts that the server has, by number."""
    found: list[Part] = []
    marker = ""
    while True:
        params = {"uploadId": multipart_id, "part-number-marker": marker, "max-parts": str(PAGE_KEYS)}
        # Not list_parts, which leaves the checksums out.
        answer = bucket._do("GET", bucket.bucket_name, key, params=params)  # noqa: SLF001
        page = ET.fromstring(answer.read())  # noqa: S314 - as oss2 itself reads what this server answers
        found += [_part(node) for node in page.findall("Part")]
        if page.findtext("IsTruncated") != "true":
            return found
        marker = page.findtext("NextPartNumberMarker") or ""


def _part(node: ET.Element) -> Part:
    checksum = node.findtext("HashCrc64ecma")
    return Part(
        int(node.findtext("PartNumber") or 0),
        int(node.findtext("Size") or 0),
        (node.findtext("ETag") or "").strip('"'),
        int(checksum) if checksum else None,
    )
