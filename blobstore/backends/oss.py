"""Buckets of Aliyun OSS through its own API.

oss2 blocks, so each request is one call in a bounded pool of threads. Its checksums hold the interpreter's lock at 270 MiB/s:
they are off, and CRC64 is computed by fastcrc, which doesn't.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from blobstore.abc.backend import ObjectInfo
from blobstore.backends._crc64 import joined_crc64
from blobstore.backends._object_client import Abilities, Limits, ObjectClient, OpenMultipart, Part
from blobstore.backends._oss_answers import crc_told, size_told, sizes_told
from blobstore.backends._oss_settings import OssSettings
from blobstore.backends._part_pieces import Pieces
from blobstore.errors import BlobstoreError, ConfigInvalid, KeyUnknown, StorageFailed, TransientError
from blobstore.pool import WorkerPool, unstoppable

if TYPE_CHECKING:
    from blobstore.backends._oss_bodies import Outgoing

__all__ = ["OssClient", "OssSettings"]

Result = TypeVar("Result")

PART_MIN_BYTES = 100 * 1024
PART_MAX_BYTES = 5 * 1024**3
PRESIGNED_MAX_S = 7 * 24 * 3600
PAGE_KEYS = 1000
_VERSION_HEADER = "x-oss-version-id"
_CREATE_ONLY = {"x-oss-forbid-overwrite": "true"}


class OssClient(ObjectClient):
    """One bucket of OSS."""

    def __init__(self, settings: OssSettings) -> None:
        self._settings = settings
        self._pool = WorkerPool("oss", settings.threads)
        # Of their own, so that pulls don't wait behind pushes.
        self._readers = WorkerPool("oss-get", settings.threads)
        self._session: Any = None
        self._bucket: Any = None
        self._presigning: Any = None
        self._is_versioned = False

    @property
    def vendor(self) -> str:
        """See `ObjectClient.vendor`."""
        return "oss"

    @property
    def location(self) -> str:
        """See `ObjectClient.location`."""
        return f"oss://{self._settings.bucket}"

    @property
    def limits(self) -> Limits:
        """See `ObjectClient.limits`."""
        return Limits(part_min_bytes=PART_MIN_BYTES, part_max_bytes=PART_MAX_BYTES)

    async def open(self) -> None:
        """See `ObjectClient.open`.

        Raises:
            ConfigInvalid: oss2 is not installed, or there are no credentials.
        """
        self._settings.credentials()
        # Imports take longer than a turn of the loop may.
        await self._pool.finish(self._connect)

    def _connect(self) -> None:
        try:
            from blobstore.backends._oss_connection import connect
        except ImportError as error:
            raise ConfigInvalid(f"OSS needs {error.name}; pip install 'blobstore[oss]'") from error
        self._session, self._bucket, self._presigning = connect(self._settings)

    async def aclose(self) -> None:
        """See `ObjectClient.aclose`."""
        await self._pool.aclose()
        await self._readers.aclose()
        session, self._session, self._bucket = self._session, None, None
        if session is not None:
            session.session.close()

    async def probe(self, scratch_key: str) -> Abilities:
        """See `ObjectClient.probe`. The server never checks sha256."""
        # Who has no right to delete is told before there is something to delete.
        await self.delete([scratch_key])
        try:
            await self.put(scratch_key, b"1", is_new=False)
            creates_once = not await self.put(scratch_key, b"2", is_new=True)
        finally:
            await self.delete([scratch_key])
        return Abilities(creates_once=creates_once, checks_sha256=False, is_versioned=self._is_versioned)

    # Whole objects

    async def put(self, key: str, data: bytes | bytearray, *, is_new: bool, sha256: bytes | None = None) -> bool:
        """See `ObjectClient.put`. The server checks an MD5 before it lets the object be seen; it knows no sha256."""
        del sha256
        headers = {"Content-Type": "application/octet-stream", **self._kept_headers()}
        if is_new:
            headers |= _CREATE_ONLY
        doing = f"write {self._url(key)}"
        return await self._send(doing, [memoryview(data)], lambda body: self._put(doing, key, data, body, headers))

    def _put(self, doing: str, key: str, data: bytes | bytearray, body: Outgoing, headers: dict[str, str]) -> bool:
        from blobstore.backends._oss_connection import put_once

        headers["Content-MD5"] = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        found = put_once(self._bucket, key, body.content, headers)
        if found is None:
            return False
        self._note_version(found.headers)
        if crc_told(doing, found) != body.crc:
            raise StorageFailed(f"{doing}: the server stored other bytes than it was sent")
        return True

    @asynccontextmanager
    async def get(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """See `ObjectClient.get`. The checksum of a whole object is compared with the server's."""
        from blobstore.backends._oss_bodies import Incoming, close_result

        doing = f"read {self._url(key)}"
        is_range = start > 0 or stop is not None
        headers = {}
        if is_range:
            last = "" if stop is None else stop - 1
            headers = {"Range": f"bytes={start}-{last}", "x-oss-range-behavior": "standard"}
        result = await self._readers.obtain(
            lambda: self._translated(doing, self._bucket.get_object, key, headers=headers), close_result
        )
        try:
            size, length = sizes_told(doing, result, start, is_range=is_range)
        except BaseException:
            close_result(result)
            raise
        expected_crc = None if is_range else result.server_crc
        body = Incoming(self._readers, result, doing, length, expected_crc)
        try:
            yield size, body.chunks()
        finally:
            await body.aclose()

    async def head(self, key: str) -> ObjectInfo:
        """See `ObjectClient.head`."""
        doing = f"stat {self._url(key)}"
        found = await self._ask(doing, lambda: self._bucket.head_object(key))
        return ObjectInfo(key, size_told(doing, found))

    # Many objects

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `ObjectClient.delete`. On a versioned bucket each key costs a listing of its versions beside the one delete."""
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return frozenset()
        what = self._url(wanted[0]) if len(wanted) == 1 else f"{len(wanted)} objects of {self.location}"
        doing = f"delete {what}"
        gone = frozenset[str]()
        if not self._is_versioned:
            found = await self._change(doing, lambda: self._bucket.batch_delete_objects(wanted))
            gone = frozenset(found.deleted_keys)
            # A marker tells that the bucket keeps versions: those under it are still there, and paid for.
            wanted = [each.key for each in found.delete_versions if each.delete_marker]
            self._is_versioned = bool(wanted)
        if wanted:
            gone -= frozenset(wanted)
            gone |= await self._delete_versions(doing, wanted)
        return gone.intersection(keys)

    async def _delete_versions(self, doing: str, keys: Sequence[str]) -> frozenset[str]:
        """Delete all versions and markers of keys; those that had none are gone, too."""
        from blobstore.backends._oss_connection import delete_versions, versions_of

        left: dict[str, set[str]] = defaultdict(set)
        for key in keys:
            for version_id in await self._ask(doing, lambda key=key: versions_of(self._bucket, key)):  # type: ignore[misc]
                left[key].add(version_id)
        rows = [(key, version_id) for key, version_ids in left.items() for version_id in version_ids]
        for at in range(0, len(rows), PAGE_KEYS):
            found = await self._change(
                doing, functools.partial(delete_versions, self._bucket, rows[at : at + PAGE_KEYS])
            )
            for each in found.delete_versions:
                left[each.key].discard(each.versionid)
        return frozenset(key for key in keys if not left[key])

    async def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `ObjectClient.list`."""
        doing = f"list {self._url(prefix)}"
        token = ""
        while True:
            ask = functools.partial(
                self._bucket.list_objects_v2,
                prefix=prefix,
                start_after=after or "",
                continuation_token=token,
                max_keys=PAGE_KEYS,
            )
            page = await self._ask(doing, ask)
            for found in page.object_list:
                yield ObjectInfo(found.key, found.size)
            if not page.is_truncated:
                return
            token = page.next_continuation_token

    # Multipart uploads

    async def start_multipart(self, key: str) -> str:
        """See `ObjectClient.start_multipart`."""
        headers = {"Content-Type": "application/octet-stream", **self._kept_headers()}
        found = await self._change(
            f"begin an upload to {self._url(key)}", lambda: self._bucket.init_multipart_upload(key, headers=headers)
        )
        return str(found.upload_id)

    async def put_part(self, key: str, multipart_id: str, number: int, data: bytes | bytearray) -> Part:
        """See `ObjectClient.put_part`."""
        return await self._put_part(key, multipart_id, number, [memoryview(data)])

    @property
    def takes_pieces(self) -> bool:
        """See `ObjectClient.takes_pieces`."""
        return True

    async def put_part_in_pieces(self, key: str, multipart_id: str, number: int, pieces: Pieces) -> Part:
        """See `ObjectClient.put_part_in_pieces`."""
        return await self._put_part(key, multipart_id, number, pieces)

    async def _put_part(self, key: str, multipart_id: str, number: int, data: Iterable[memoryview]) -> Part:
        from blobstore.backends._oss_connection import put_part

        doing = f"send part {number} of {self._url(key)}"

        def send(body: Outgoing) -> Part:
            found = put_part(self._bucket, key, multipart_id, number, body.content)
            if crc_told(doing, found) != body.crc:
                raise TransientError(f"{doing}: what came there has another CRC64 than what was sent")
            return Part(number, len(body), found.etag, body.crc)

        return await self._send(doing, data, send)

    async def list_parts(self, key: str, multipart_id: str) -> Sequence[Part]:
        """See `ObjectClient.list_parts`."""
        from blobstore.backends._oss_connection import parts_of

        doing = f"list the parts of {self._url(key)}"
        return await self._ask(doing, lambda: parts_of(self._bucket, key, multipart_id))

    async def complete(self, key: str, multipart_id: str, parts: Sequence[Part], *, is_new: bool = False) -> bool:
        """See `ObjectClient.complete`. The checksum of the whole is compared with that of its parts, if all have one."""
        from blobstore.backends._oss_connection import complete

        doing = f"complete {self._url(key)}"
        headers = dict(_CREATE_ONLY) if is_new else {}
        found = await self._change(doing, lambda: complete(self._bucket, key, multipart_id, parts, headers))
        if found is None:
            return False
        self._note_version(found.headers)
        expected = await self._joined_crc64(parts)
        if expected is None or expected == found.crc:
            return True
        # Whoever asked deletes it, too. That this fails must not be told: repeated for it, the completion would seem done.
        with contextlib.suppress(BlobstoreError):
            await self.delete([key])
        what = (
            "joined the parts to other bytes than were sent" if found.crc is not None else "tells no CRC64 of the whole"
        )
        raise StorageFailed(f"{doing}: the server {what}; push it again")

    async def is_made_of(self, key: str, parts: Sequence[Part]) -> bool:
        """See `ObjectClient.is_made_of`."""
        try:
            found = await self._ask(f"stat {self._url(key)}", lambda: self._bucket.head_object(key))
        except KeyUnknown:
            return False
        if found.content_length != sum(part.size_bytes for part in parts):
            return False
        expected = await self._joined_crc64(parts)
        return expected is None or expected == found.server_crc

    async def _joined_crc64(self, parts: Sequence[Part]) -> int | None:
        """The checksum of all parts behind each other; None if that of one is not known."""
        known = [(part.checksum, part.size_bytes) for part in parts if part.checksum is not None]
        return await self._pool.run(joined_crc64, known) if len(known) == len(parts) else None

    async def abort(self, key: str, multipart_id: str) -> None:
        """See `ObjectClient.abort`."""
        with contextlib.suppress(KeyUnknown):
            # Completed, or aborted before.
            await self._change(
                f"drop an upload to {self._url(key)}", lambda: self._bucket.abort_multipart_upload(key, multipart_id)
            )

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """See `ObjectClient.list_multiparts`."""
        key_marker = id_marker = ""
        while True:
            ask = functools.partial(
                self._bucket.list_multipart_uploads,
                prefix=prefix,
                key_marker=key_marker,
                upload_id_marker=id_marker,
                max_uploads=PAGE_KEYS,
            )
            page = await self._ask(f"list the open uploads of {self._url(prefix)}", ask)
            for found in page.upload_list:
                yield OpenMultipart(found.key, found.upload_id)
            if not page.is_truncated:
                return
            key_marker, id_marker = page.next_key_marker, page.next_upload_id_marker

    async def presign(self, key: str, valid_s: int) -> str:
        """See `ObjectClient.presign`. Seven days at most."""
        valid_s = min(valid_s, PRESIGNED_MAX_S)
        doing = f"sign a URL of {self._url(key)}"
        sign = functools.partial(self._presigning.sign_url, "GET", key, valid_s, slash_safe=True)
        # With the downloads, whose place it takes.
        return str(await self._readers.run(self._translated, doing, sign))

    # Threads

    async def _ask(self, doing: str, work: Callable[[], Result]) -> Result:
        """A request that changes nothing, in a thread. A cancelled wait does not wait for it: it holds nothing of ours."""
        return await self._pool.run(self._translated, doing, work)

    async def _change(self, doing: str, work: Callable[[], Result]) -> Result:
        """A request that changes something. A cancelled wait waits for its end, so that it can't take effect behind what is asked
        next."""
        return await unstoppable(self._pool.run(self._translated, doing, work))

    async def _send(self, doing: str, data: Iterable[memoryview], work: Callable[[Outgoing], Result]) -> Result:
        """One request with a body. A cancelled wait stops it, and waits until its thread lets go of the buffer."""
        from blobstore.backends._oss_bodies import Outgoing

        body = Outgoing(data)
        running = asyncio.ensure_future(self._pool.run(self._translated, doing, functools.partial(work, body)))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            body.stop()
            await unstoppable(_ended(running))
            raise

    def _translated(self, doing: str, work: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        from blobstore.backends._oss_errors import oss_errors

        with oss_errors(doing):
            return work(*args, **kwargs)

    # What is said and kept

    def _url(self, key: str) -> str:
        return f"{self.location}/{key}"

    def _kept_headers(self) -> dict[str, str]:
        settings = self._settings
        headers = {
            "x-oss-storage-class": settings.storage_class,
            "x-oss-server-side-encryption": settings.server_side_encryption,
            "x-oss-server-side-encryption-key-id": settings.kms_key_id,
        }
        return {name: value for name, value in headers.items() if value is not None}

    def _note_version(self, headers: Any) -> None:
        self._is_versioned = self._is_versioned or _VERSION_HEADER in headers


async def _ended(running: asyncio.Future[Any]) -> None:
    """Wait for the end of something whose outcome nobody wants."""
    await asyncio.wait([running])
    if not running.cancelled():
        # Retrieved, so that it is not reported as lost.
        running.exception()
