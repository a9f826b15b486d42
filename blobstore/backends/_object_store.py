"""A store's bytes in one bucket of an object store, whoever's it is."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from blobstore.abc.backend import Backend, BackendProperties, BackendUpload, ObjectInfo, read_all
from blobstore.backends._keys import checked_key
from blobstore.backends._multipart import PART_BYTES, PartBudget
from blobstore.backends._object_client import Abilities, ObjectClient, OpenMultipart
from blobstore.backends._object_tail import UploadTools
from blobstore.backends._object_upload import ObjectUpload
from blobstore.backends._spool import Spool, UploadSpool
from blobstore.errors import ConfigInvalid, InvalidInput, KeyUnknown, RangeInvalid, StorageFailed
from blobstore.generation import Generation
from blobstore.layout import DATA_PREFIX, UPLOADS_PREFIX, data_key, parse_blob_key, parse_data_key, upload_key
from blobstore.pool import WorkerPool

LATE_REQUESTS_S = 15 * 60
"""How long a signed request may wait somewhere before the server refuses it as too old."""
SPOOL_THREADS = 4
_LOG = logging.getLogger(__name__)


class ObjectStoreBackend(Backend):
    """Objects under a prefix of a bucket; what open uploads need to go on lies in a directory of this host.

    Args:
        client: the bucket, its errors already retried where that helps.
        prefix: what all keys of this store begin with: empty, or ending with a slash.
        spool_directory: on a local disk, this store's alone; None: no uploads yet (see `use_spool`).
        part_bytes: the first parts' size (`_multipart`).
        budget: memory for parts, shared with the other stores of this process.
    """

    def __init__(
        self,
        client: ObjectClient,
        *,
        prefix: str,
        spool_directory: str | None,
        part_bytes: int = PART_BYTES,
        budget: PartBudget | None = None,
    ) -> None:
        if prefix:
            checked_key(prefix.removesuffix("/"))
        self._client = client
        self._prefix = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
        self._pool = WorkerPool("spool", SPOOL_THREADS)
        self._tools = UploadTools(
            client,
            self._pool,
            budget if budget is not None else PartBudget(),
            self._prefix,
            self._prefix + DATA_PREFIX,
            max(part_bytes, client.limits.part_min_bytes),
            self._creates_once,
        )
        self._spool = Spool(spool_directory) if spool_directory is not None else None
        self._abilities: Abilities | None = None
        self._probing = asyncio.Lock()
        self._is_open = False

    def use_spool(self, directory: str) -> None:
        """Take uploads from now on; for who learns where the spool is from what lies on the backend."""
        self._spool = Spool(directory)

    @property
    def properties(self) -> BackendProperties:
        """See `Backend.properties`."""
        return BackendProperties(
            name=self._client.vendor,
            delete_batch_max=self._client.limits.delete_max,
            late_requests_s=LATE_REQUESTS_S,
            lists_faster_than_stats=True,
            renames_uploads=False,
            is_shared=True,
        )

    @property
    def location(self) -> str:
        """See `Backend.location`."""
        return f"{self._client.location}/{self._prefix}".rstrip("/")

    async def open(self) -> None:
        """See `Backend.open`. What the server honours is tried before the first write (`abilities`). Repeatable."""
        if not self._is_open:
            await self._client.open()
            self._is_open = True

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        await self._client.aclose()
        await self._pool.aclose()

    async def prepare(self) -> None:
        """See `Backend.prepare`."""
        await self.abilities()

    async def abilities(self) -> Abilities:
        """What the server honours; tried once, with an object of its own, and told in the log."""
        async with self._probing:
            if self._abilities is None:
                scratch = f"{self._prefix}probe/{secrets.token_hex(16)}"
                self._abilities = await self._client.probe(scratch)
                _tell(self.location, self._abilities)
        return self._abilities

    async def put(self, key: str, data: bytes) -> None:
        """See `Backend.put`."""
        await self._client.put(self._name(key), data, is_new=False)

    async def put_new(self, key: str, data: bytes) -> bool:
        """See `Backend.put_new`. Where the server doesn't create exclusively, it is asked before and read after: two that
        write the same key in the same moment may then both be told True, so such a store must have one writing host."""
        name = self._name(key)
        if await self._creates_once():
            return await self._client.put(name, data, is_new=True)
        try:
            await self._client.head(name)
        except KeyUnknown:
            await self._client.put(name, data, is_new=True)
            try:
                return await read_all(self, key) == data
            except KeyUnknown:
                # Deleted since, by somebody who found it.
                return True
        return False

    async def _creates_once(self) -> bool:
        return (await self.abilities()).creates_once

    async def open_upload(self, upload_id: str, *, key: str | None = None, resume: bool = False) -> BackendUpload:
        """See `Backend.open_upload`."""
        generation = Generation.parse(upload_id)
        if generation is None:
            raise InvalidInput(f"{upload_id!r:.80} is not the id of an upload")
        if self._spool is None:
            raise ConfigInvalid(f"uploads to {self.location} need a spool directory on a local disk, and none is set")
        target = self._prefix + (checked_key(key) if key is not None else data_key(generation))
        spool = await self._pool.obtain(
            functools.partial(self._spool.open_upload, upload_id, is_resumed=resume), UploadSpool.close
        )
        upload = ObjectUpload(self._tools, spool, target)
        try:
            await upload.resume()
        except BaseException:
            upload.let_go()
            raise
        return upload

    @asynccontextmanager
    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Backend.read`."""
        name = self._name(key)
        if start < 0 or (stop is not None and stop < start):
            raise RangeInvalid(f"bytes {start} to {'the end' if stop is None else stop}")
        if stop == start:
            await self._check_start(name, start)
            yield _nothing()
            return
        try:
            context = self._client.get(name, start, stop)
            _, chunks = await context.__aenter__()
        except RangeInvalid:
            await self._check_start(name, start)
            yield _nothing()
            return
        try:
            yield chunks
        except BaseException as error:
            if not await context.__aexit__(type(error), error, error.__traceback__):
                raise
        else:
            await context.__aexit__(None, None, None)

    async def _check_start(self, name: str, start: int) -> None:
        """A range without bytes is one that servers refuse; it is ours if it begins no later than the end."""
        size = (await self._client.head(name)).size_bytes
        if start > size:
            raise RangeInvalid(f"from byte {start} on of {size}")

    async def stat(self, key: str) -> ObjectInfo:
        """See `Backend.stat`."""
        return ObjectInfo(key, (await self._client.head(self._name(key))).size_bytes)

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `Backend.delete`. The key of an open upload drops its parts and its spool."""
        names = {self._name(key): key for key in keys if not key.startswith(UPLOADS_PREFIX)}
        gone = await self._drop_uploads({key for key in map(checked_key, keys) if key.startswith(UPLOADS_PREFIX)})
        batch = self._client.limits.delete_max
        ordered = sorted(names)
        for at in range(0, len(ordered), batch):
            gone |= {names[name] for name in await self._client.delete(ordered[at : at + batch])}
        return frozenset(gone)

    async def _drop_uploads(self, keys: set[str]) -> set[str]:
        unknown: set[str] = set()
        for key in sorted(keys):
            upload_id = key.removeprefix(UPLOADS_PREFIX)
            state = await self._pool.run(self._spool.state_of, upload_id) if self._spool is not None else None
            if state is None:
                unknown.add(key)
            elif state.multipart_id:
                await self._client.abort(state.target, state.multipart_id)
        if unknown:
            async for found in self._multiparts():
                if self._upload_key_of(found) in unknown:
                    await self._client.abort(found.key, found.multipart_id)
        if self._spool is not None:
            for key in keys:
                await self._pool.finish(self._spool.remove, key.removeprefix(UPLOADS_PREFIX))
        return keys

    async def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `Backend.list`. Open uploads are listed as `uploads/…`: those of this host by their spool, others by their
        parts."""
        if "/" in prefix:
            checked_key(prefix.rpartition("/")[0])
        uploads = deque[ObjectInfo]()
        if prefix.startswith(UPLOADS_PREFIX) or UPLOADS_PREFIX.startswith(prefix):
            found_here = await self._open_uploads()
            uploads.extend(info for info in found_here if info.key.startswith(prefix) and info.key > (after or ""))
        behind = None if after is None else self._prefix + after
        last = ""
        async for found in self._client.list(self._prefix + prefix, behind):
            key = found.key.removeprefix(self._prefix)
            if last and key <= last:
                # Some servers sort by directories. That is the same order for all names of ours, and two listings are
                # compared by it: a foreign name among them must not make ours look lost.
                raise StorageFailed(
                    f"{self.location} lists {key} behind {last}, not by their bytes; remove what is not a store's"
                )
            last = key
            if not key or key.endswith("/"):
                # What a web console makes when somebody asks it for a folder.
                continue
            while uploads and uploads[0].key < key:
                yield uploads.popleft()
            yield ObjectInfo(key, found.size_bytes)
        for info in uploads:
            yield info

    async def _open_uploads(self) -> Sequence[ObjectInfo]:
        found: dict[str, int] = {}
        async for multipart in self._multiparts():
            key = self._upload_key_of(multipart)
            if key is not None:
                found[key] = 0
        if self._spool is not None:
            for upload_id, size in await self._pool.run(self._spool.uploads):
                found[UPLOADS_PREFIX + upload_id] = size
        return [ObjectInfo(key, size) for key, size in sorted(found.items())]

    def _multiparts(self) -> AsyncIterator[OpenMultipart]:
        return self._client.list_multiparts(self._prefix)

    def _upload_key_of(self, multipart: OpenMultipart) -> str | None:
        """Under which name of an open upload somebody's parts are listed; None if they are none of ours."""
        if not multipart.key.startswith(self._prefix):
            return None
        key = multipart.key.removeprefix(self._prefix)
        blob = parse_blob_key(key)
        generation = blob.generation if blob is not None else parse_data_key(key)
        return upload_key(generation) if generation is not None else None

    async def presign(self, key: str, valid_s: int) -> str:
        """A URL from which anybody may get the object for that long; sends nothing."""
        return await self._client.presign(self._name(key), valid_s)

    def _name(self, key: str) -> str:
        return self._prefix + checked_key(key)


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in tuple[bytes, ...]():
        yield chunk


def _tell(location: str, abilities: Abilities) -> None:
    _LOG.info(
        "%s: creates exclusively: %s; checks sha256: %s; versioned: %s",
        location,
        abilities.creates_once,
        abilities.checks_sha256,
        abilities.is_versioned,
    )
    if not abilities.creates_once:
        _LOG.warning("%s does not create exclusively: let no two hosts write to this store", location)
    if abilities.is_versioned:
        _LOG.warning("%s keeps old versions: each delete asks for them and deletes them too", location)
