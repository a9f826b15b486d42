"""`init`: make a store."""

from __future__ import annotations

from blobstore.cli._common import Common
from blobstore.cli._output import Output
from blobstore.cli._progress import reporting
from blobstore.errors import StoreUnknown

_DEFAULTS = Common()


async def init(*, common: Common = _DEFAULTS) -> None:
    """Make a store. One that is there already is left as it is."""
    output = Output(common)
    with reporting(common) as events:
        try:
            async with common.open_store(events) as store:
                location, store_id, is_new = store.backend.location, store.store_id, False
        except StoreUnknown:
            async with common.open_store(events, create=True) as store:
                location, store_id, is_new = store.backend.location, store.store_id, True
    output.document({"store": location, "store_id": store_id, "created": is_new})
    output.remark(f"made a store in {location}" if is_new else f"there is a store in {location} already")
