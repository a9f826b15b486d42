"""The marker: the one object that says whose store lies on a backend, and which index speaks for it."""

from __future__ import annotations

from typing import Literal

import msgspec

from blobstore.abc.backend import Backend, read_all
from blobstore.abc.records import IndexIdentity
from blobstore.errors import ForeignStore, FormatUnsupported, KeyUnknown, StoreFrozen
from blobstore.layout import FORMAT_VERSION, MARKER_KEY


class Marker(msgspec.Struct, frozen=True):
    """What `blobstore.json` holds."""

    format: int
    store_id: str
    index_id: str
    state: Literal["ready", "rebuilding"] = "ready"

    @property
    def identity(self) -> IndexIdentity:
        """The index that speaks for this store."""
        return IndexIdentity(self.store_id, self.index_id)


def new_marker(identity: IndexIdentity, state: Literal["ready", "rebuilding"] = "ready") -> Marker:
    """A marker of this format version."""
    return Marker(FORMAT_VERSION, identity.store_id, identity.index_id, state)


async def read_marker(backend: Backend) -> Marker | None:
    """The marker of the store that lies here, None where there is none.

    Raises:
        FormatUnsupported: it is of another version, or can't be read at all.
    """
    try:
        data = await read_all(backend, MARKER_KEY)
    except KeyUnknown:
        return None
    try:
        marker = msgspec.json.decode(data, type=Marker)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatUnsupported(f"{MARKER_KEY} in {backend.location} is not a marker of a store: {error}") from error
    if marker.format != FORMAT_VERSION:
        raise FormatUnsupported(
            f"the store in {backend.location} has format version {marker.format}; "
            f"this version of blobstore knows {FORMAT_VERSION}"
        )
    return marker


async def create_marker(backend: Backend, marker: Marker) -> bool:
    """Claim an empty place; False if somebody else did."""
    return await backend.put_new(MARKER_KEY, _encode(marker))


async def replace_marker(backend: Backend, marker: Marker) -> None:
    """Say that another index speaks for the store from now on; only a rebuild does."""
    await backend.put(MARKER_KEY, _encode(marker))


async def check_marker(backend: Backend, identity: IndexIdentity) -> None:
    """Make sure that the store still is this index's: before anything is condemned, and before anything is deleted.

    Raises:
        ForeignStore: it is another's, or the marker is gone.
        StoreFrozen: a rebuild was begun and not finished.
    """
    marker = await read_marker(backend)
    if marker is None:
        raise ForeignStore(
            f"the marker {MARKER_KEY} in {backend.location} is gone: is this the right place, and is it mounted?"
        )
    if marker.identity != identity:
        raise ForeignStore(
            f"{backend.location} belongs to index {marker.index_id} of store {marker.store_id}, "
            f"not to index {identity.index_id} of store {identity.store_id}; "
            "if that index is lost, `blobstore index rebuild` makes a new one"
        )
    if marker.state != "ready":
        raise StoreFrozen(half_rebuilt(backend))


def half_rebuilt(backend: Backend) -> str:
    """What to tell of a marker that says "rebuilding"."""
    return f"an index rebuild of {backend.location} was begun and not finished; run `blobstore index rebuild` again"


def _encode(marker: Marker) -> bytes:
    return msgspec.json.format(msgspec.json.encode(marker), indent=2) + b"\n"
