"""Short words for what the store's tests push."""

from __future__ import annotations

import blobstore
from blobstore.store import Store


async def push_blob(store: Store, data: bytes, repository: str = "app") -> blobstore.Descriptor:
    async with store.repository(repository).open_upload() as upload:
        await upload.write(data)
        return await upload.commit()
