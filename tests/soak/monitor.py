"""The monitor of the soak: looks at manifests all the time, through the read path, and raises at the first that is broken."""

from __future__ import annotations

from collections import Counter

from blobstore.abc.paging import every
from blobstore.abc.records import ManifestRecord
from blobstore.errors import BlobstoreError, ManifestUnknown
from blobstore.store import Store

LOOKS_MAX = 5


class BrokenImage(AssertionError):
    """A manifest that stands refers to what is not there."""


class Monitor:
    """Checks every manifest of the store, tagged or not, one after the other, for ever."""

    def __init__(self, store: Store, counts: Counter[str]) -> None:
        self._store, self._counts = store, counts

    async def step(self) -> None:
        """All manifests once, as far as they still stand when it is their turn."""
        async for node in every(lambda after: self._store.index.scan_manifests(after, 100)):
            await self.check(node.record)

    async def check(self, record: ManifestRecord) -> None:
        """Read and hash all that a manifest refers to.

        It may be deleted meanwhile, and put anew, and its blobs collected in between. But if the very same record stands
        before and after something was found missing, it was broken.

        Raises:
            BrokenImage: it was.
        """
        for _ in range(LOOKS_MAX):
            missing = await self._missing(record)
            if missing is None:
                self._counts["manifests_checked"] += 1
                return
            after = await self._store.index.find_node(record.key)
            if after is None:
                return
            if after.record.pushed_at_ms == record.pushed_at_ms:
                raise BrokenImage(f"{record.key} stands, but: {missing}")
            record = after.record
        raise BrokenImage(f"{record.key} was broken {LOOKS_MAX} times, and put anew as often")

    async def _missing(self, record: ManifestRecord) -> str | None:
        repository = self._store.repository(record.key.repository)
        try:
            manifest = await repository.get_manifest(record.key.digest)
            for reference in manifest.references:
                if reference.kind == "manifest":
                    await repository.find_manifest(reference.digest)
                async with repository.open_blob(reference.digest) as blob:
                    await blob.read()
        except ManifestUnknown as error:
            return f"{error}"
        except BlobstoreError as error:
            return f"{type(error).__name__}: {error}"
        return None
