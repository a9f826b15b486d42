"""A bucket of AWS S3, or of a server that speaks its protocol."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from blobstore.abc.backend import ObjectInfo
from blobstore.backends._object_client import Abilities, Limits, ObjectClient, OpenMultipart, Part
from blobstore.errors import ConfigInvalid, KeyUnknown, StorageFailed, TransientError

try:
    from blobstore.backends._http import HttpAnswer, HttpEndpoint
    from blobstore.backends._s3_bodies import S3Bodies
    from blobstore.backends._s3_errors import delete_error, refused, translated
    from blobstore.backends._s3_session import AwsSession, S3Session, S3Settings
except ModuleNotFoundError as error:
    raise ConfigInvalid("S3 stores need one package more: pip install 'blobstore[s3]'") from error

__all__ = ["S3Client", "S3Session", "S3Settings"]

MIB = 1024 * 1024
PART_MIN_BYTES = 5 * MIB
PART_MAX_BYTES = 5 * 1024 * MIB
VERSION_LISTINGS_AT_ONCE = 8
_LOG = logging.getLogger(__name__)


class S3Client(ObjectClient):
    """Bare requests to one bucket: lists, deletes and the like by the SDK, bodies by us (`_s3_bodies` says why)."""

    def __init__(self, settings: S3Settings, make_session: Callable[[S3Settings], S3Session] = AwsSession) -> None:
        self._settings = settings
        self._session = make_session(settings)
        self._open = AsyncExitStack()
        self._client: Any = None
        self._presigning: Any = None
        self._bodies: S3Bodies | None = None
        self._is_versioned: bool | None = None
        self._knows_conditions = True

    @property
    def vendor(self) -> str:
        """See `ObjectClient.vendor`."""
        return "s3"

    @property
    def location(self) -> str:
        """See `ObjectClient.location`."""
        return f"s3://{self._settings.bucket}"

    @property
    def limits(self) -> Limits:
        """See `ObjectClient.limits`."""
        return Limits(PART_MIN_BYTES, PART_MAX_BYTES)

    async def open(self) -> None:
        """See `ObjectClient.open`."""
        settings = self._settings
        with translated(f"open {self.location}"):
            try:
                self._client = self._presigning = await self._open.enter_async_context(self._session.client())
                if settings.presign_endpoint is not None:
                    elsewhere = self._session.client(settings.presign_endpoint)
                    self._presigning = await self._open.enter_async_context(elsewhere)
            except ValueError as error:
                raise ConfigInvalid(f"{self.location}: {error}") from error
            await self._session.credentials()
            # Only the SDK knows how the URL of a bucket is made up.
            url = await self._client.generate_presigned_url("get_object", Params=self._at("x"), ExpiresIn=60)
        base = url.partition("?")[0].removesuffix("x")
        endpoint = HttpEndpoint(base, settings.connect_timeout_s, settings.read_timeout_s, settings.ca_bundle)
        self._bodies = S3Bodies(base, self._client.meta.region_name, endpoint)

    async def aclose(self) -> None:
        """See `ObjectClient.aclose`."""
        bodies, self._bodies = self._bodies, None
        if bodies is not None:
            await bodies.aclose()
        await self._open.aclose()

    async def probe(self, scratch_key: str) -> Abilities:
        """See `ObjectClient.probe`."""
        # Who has no right to delete is told before there is something to delete.
        await self.delete([scratch_key])
        await self.put(scratch_key, b"first", is_new=False)
        try:
            creates_once = await self._creates_once(scratch_key)
            answer = await self._put(scratch_key, b"second", sha256=bytes(32), sends_checksum=True)
        finally:
            await self.delete([scratch_key])
        return Abilities(creates_once, answer.status >= 400, await self.is_versioned())

    async def _creates_once(self, key: str) -> bool:
        """Whether a second conditional put is refused. Some servers answer "not implemented" and do nothing."""
        answer = await self._put(key, b"second", headers={"if-none-match": "*"})
        self._knows_conditions = answer.status != 501
        doing = f"put {self._named(key)}"
        if answer.status >= 300 and answer.status not in (412, 501):
            raise refused(doing, answer)
        if answer.status < 300:
            _told(doing, answer.headers, "etag")
        return answer.status == 412

    async def is_versioned(self) -> bool:
        """Whether deletes leave old versions behind; asked once."""
        if self._is_versioned is None:
            try:
                answer = await self._ask("get_bucket_versioning", f"ask how {self.location} keeps versions")
            except TransientError:
                raise
            except (StorageFailed, KeyUnknown) as error:
                _LOG.warning("%s: taken for a bucket without versions, as it does not tell: %s", self.location, error)
                answer = {}
            self._is_versioned = answer.get("Status") in ("Enabled", "Suspended")
        return self._is_versioned

    async def put(self, key: str, data: bytes | bytearray, *, is_new: bool, sha256: bytes | None = None) -> bool:
        """See `ObjectClient.put`."""
        headers = self._kept_as()
        if is_new and self._knows_conditions:
            headers["if-none-match"] = "*"
        answer = await self._put(key, data, headers=headers, sha256=sha256, sends_checksum=True)
        if answer.status == 412 and is_new:
            return False
        doing = f"put {self._named(key)}"
        if answer.status >= 300:
            raise refused(doing, answer)
        _told(doing, answer.headers, "etag")
        return True

    @asynccontextmanager
    async def get(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """See `ObjectClient.get`."""
        is_ranged = start > 0 or stop is not None
        byte_range = f"bytes={start}-{stop - 1 if stop is not None else ''}" if is_ranged else None
        doing = f"get {self._named(key)}"
        async with AsyncExitStack() as connection:
            with translated(doing):
                credentials = await self._session.credentials()
                answer, chunks = await connection.enter_async_context(self._opened().get(key, credentials, byte_range))
            if answer.status not in (200, 206):
                raise refused(doing, answer)
            if answer.status == 200 and is_ranged:
                raise StorageFailed(f"{doing}: the server does not answer ranges")
            size = answer.headers.get("content-range", "").rpartition("/")[2] or answer.headers.get(
                "content-length", ""
            )
            if not size.isdigit():
                raise StorageFailed(f"{doing}: the server does not tell the size")
            yield int(size), _translating(doing, chunks)

    async def head(self, key: str) -> ObjectInfo:
        """See `ObjectClient.head`."""
        doing = f"head {self._named(key)}"
        answer = await self._ask("head_object", doing, Key=key)
        return ObjectInfo(key, int(_told(doing, answer, "ContentLength")))

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `ObjectClient.delete`. On a versioned bucket the versions are asked for first, a request for each key."""
        doing = f"delete {len(keys)} keys of {self.location}"
        objects = [{"Key": key} for key in dict.fromkeys(keys)]
        if await self.is_versioned():
            objects = await self._versions(keys)
        errors: dict[str, str] = {}
        for at in range(0, len(objects), self.limits.delete_max):
            batch = objects[at : at + self.limits.delete_max]
            answer = await self._ask("delete_objects", doing, Delete={"Objects": batch, "Quiet": True})
            for each in answer.get("Errors", ()):
                if each.get("Code") not in ("NoSuchKey", "NoSuchVersion"):
                    errors[each["Key"]] = str(each.get("Code", ""))
        if errors and set(errors) >= set(keys):
            error = delete_error(errors, doing)
            if error is not None:
                raise error
        for key, code in list(errors.items())[:3]:
            _LOG.warning("%s: %s was not deleted: %s", self.location, key, code)
        return frozenset(key for key in keys if key not in errors)

    async def _versions(self, keys: Sequence[str]) -> list[dict[str, str]]:
        """Every version of the keys, delete markers too."""
        free = asyncio.Semaphore(VERSION_LISTINGS_AT_ONCE)

        async def of_key(key: str) -> list[dict[str, str]]:
            async with free:
                answer = await self._ask("list_object_versions", f"list versions of {self._named(key)}", Prefix=key)
            found = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]
            return [{"Key": key, "VersionId": each["VersionId"]} for each in found if each["Key"] == key]

        listed = await asyncio.gather(*[of_key(key) for key in dict.fromkeys(keys)])
        return [version for versions in listed for version in versions]

    async def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `ObjectClient.list`."""
        more = {"StartAfter": after} if after is not None else {}
        doing = f"list {self._named(prefix)}"
        while True:
            answer = await self._ask("list_objects_v2", doing, Prefix=prefix, **more)
            is_last = not _told(doing, answer, "IsTruncated")
            for each in answer.get("Contents", ()):
                yield ObjectInfo(each["Key"], int(each["Size"]))
            if is_last:
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    async def start_multipart(self, key: str) -> str:
        """See `ObjectClient.start_multipart`."""
        settings = {
            "StorageClass": self._settings.storage_class,
            "ServerSideEncryption": self._settings.encryption,
            "SSEKMSKeyId": self._settings.kms_key_id,
            "ContentType": "application/octet-stream",
        }
        given = {name: value for name, value in settings.items() if value}
        doing = f"start {self._named(key)}"
        answer = await self._ask("create_multipart_upload", doing, Key=key, **given)
        return str(_told(doing, answer, "UploadId"))

    async def put_part(self, key: str, multipart_id: str, number: int, data: bytes | bytearray) -> Part:
        """See `ObjectClient.put_part`."""
        answer = await self._put(key, data, query={"partNumber": str(number), "uploadId": multipart_id})
        doing = f"put part {number} of {self._named(key)}"
        if answer.status >= 300:
            raise refused(doing, answer)
        return Part(number, len(data), str(_told(doing, answer.headers, "etag")))

    async def list_parts(self, key: str, multipart_id: str) -> Sequence[Part]:
        """See `ObjectClient.list_parts`."""
        parts: list[Part] = []
        marker = 0
        doing = f"list parts of {self._named(key)}"
        while True:
            answer = await self._ask("list_parts", doing, Key=key, UploadId=multipart_id, PartNumberMarker=marker)
            told = answer.get("Parts", ())
            parts.extend(Part(each["PartNumber"], int(each["Size"]), each["ETag"]) for each in told)
            if not _told(doing, answer, "IsTruncated"):
                return sorted(parts, key=lambda part: part.number)
            marker = int(answer["NextPartNumberMarker"])

    async def complete(self, key: str, multipart_id: str, parts: Sequence[Part], *, is_new: bool = False) -> bool:
        """See `ObjectClient.complete`. It replaces what is there: where a condition conflicts with another write, S3 wants all
        parts sent again, and not every server knows conditions here."""
        del is_new
        told = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        doing = f"complete {self._named(key)}"
        answer = await self._ask(
            "complete_multipart_upload", doing, Key=key, UploadId=multipart_id, MultipartUpload={"Parts": told}
        )
        _told(doing, answer, "ETag")
        return True

    async def abort(self, key: str, multipart_id: str) -> None:
        """See `ObjectClient.abort`."""
        try:
            await self._ask("abort_multipart_upload", f"abort {self._named(key)}", Key=key, UploadId=multipart_id)
        except KeyUnknown:
            # Completed, or aborted before.
            return

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """See `ObjectClient.list_multiparts`."""
        more: dict[str, str] = {}
        doing = f"list open uploads of {self._named(prefix)}"
        while True:
            answer = await self._ask("list_multipart_uploads", doing, Prefix=prefix, **more)
            is_last = not _told(doing, answer, "IsTruncated")
            for each in answer.get("Uploads", ()):
                if each["Key"].startswith(prefix):
                    yield OpenMultipart(each["Key"], each["UploadId"])
            if is_last:
                return
            more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    async def presign(self, key: str, valid_s: int) -> str:
        """See `ObjectClient.presign`."""
        with translated(f"presign {self._named(key)}"):
            made = self._presigning.generate_presigned_url("get_object", Params=self._at(key), ExpiresIn=valid_s)
            return str(await made)

    async def _put(self, key: str, data: bytes | bytearray, **options: Any) -> HttpAnswer:
        with translated(f"put {self._named(key)}"):
            return await self._opened().put(key, data, await self._session.credentials(), **options)

    async def _ask(self, verb: str, doing: str, **arguments: Any) -> dict[str, Any]:
        assert self._client is not None, "open it first"
        with translated(doing):
            answer: dict[str, Any] = await getattr(self._client, verb)(Bucket=self._settings.bucket, **arguments)
            return answer

    def _kept_as(self) -> dict[str, str]:
        settings = {
            "content-type": "application/octet-stream",
            "x-amz-storage-class": self._settings.storage_class,
            "x-amz-server-side-encryption": self._settings.encryption,
            "x-amz-server-side-encryption-aws-kms-key-id": self._settings.kms_key_id,
        }
        return {name: value for name, value in settings.items() if value}

    def _opened(self) -> S3Bodies:
        assert self._bodies is not None, "open it first"
        return self._bodies

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._settings.bucket, "Key": key}

    def _named(self, key: str) -> str:
        return f"{self.location}/{key}"


def _told(doing: str, answer: Mapping[str, Any], what: str) -> Any:
    """What every server tells with this success. An answer without it is somebody else's, of a proxy or a page that asks to wait:
    whether anything was done, or is there, is not known."""
    if what not in answer:
        raise TransientError(
            f"{doing}: the answer tells no {what}, so it is none of S3; is something between that answers?"
        )
    return answer[what]


async def _translating(doing: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    with translated(doing):
        async for chunk in chunks:
            yield chunk
