"""Explain: what keeps a blob alive, or why it may go and when."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from blobstore.abc.index import Index
from blobstore.abc.records import Blob, BlobState, Hold, ManifestKey, Trash
from blobstore.clock import iso_utc
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown
from blobstore.gc.policy import GcPolicy
from blobstore.promises import PINNED_MS

PARENTS_SHOWN_MAX = 20
_KEEPERS_LOOKED_AT_MAX = 1000


class Keeper(msgspec.Struct, frozen=True):
    """One manifest that refers to the blob, and the way from a root to it: `path` begins with the tagged (or loose) record
    that life comes from and ends with `manifest`."""

    manifest: ManifestKey
    path: tuple[ManifestKey, ...]
    tags: tuple[str, ...]
    root: str
    """"tagged", "untagged" (goes with --delete-untagged) or "subject-gone"."""


class ShownHold(msgspec.Struct, frozen=True):
    """A promise, and when it ends as things stand."""

    hold: Hold
    is_pin: bool
    lapses_at_ms: int
    is_lapsed: bool

    @property
    def is_timeless(self) -> bool:
        """A pin, or a hold that was let go: neither ends at a time."""
        return self.is_pin or self.hold.renewed_at_ms == 0


class Explanation(msgspec.Struct, frozen=True):
    """All that the index knows of one blob's life."""

    blob: Blob
    aliases: tuple[Digest, ...]
    keepers: tuple[Keeper, ...]
    has_more_keepers: bool
    holds: tuple[ShownHold, ...]
    trash: Trash | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """As one JSON document."""
        return {
            "digest": str(self.blob.digest),
            "state": self.blob.state.value,
            "size": self.blob.size_bytes,
            "aliases": [str(alias) for alias in self.aliases],
            "verdict": self.verdict,
            "manifests": [
                {
                    "manifest": str(keeper.manifest),
                    "path": [str(key) for key in keeper.path],
                    "tags": list(keeper.tags),
                    "root": keeper.root,
                }
                for keeper in self.keepers
            ],
            "more_manifests": self.has_more_keepers,
            "holds": [
                {
                    "repository": shown.hold.repository,
                    "pin": shown.is_pin,
                    "renewed_at": None if shown.is_timeless else iso_utc(shown.hold.renewed_at_ms),
                    "lapses_at": None if shown.is_timeless else iso_utc(shown.lapses_at_ms),
                    "lapsed": shown.is_lapsed,
                    "last_referrer": str(shown.hold.last_referrer) if shown.hold.last_referrer else None,
                }
                for shown in self.holds
            ],
            "condemned_by": self.trash.run if self.trash else None,
            "freed_after": iso_utc(self.trash.not_before_ms) if self.trash else None,
        }


async def explain(index: Index, digest: Digest, policy: GcPolicy, now_ms: int) -> Explanation:
    """Why a blob is there, and how long it will be.

    Raises:
        BlobUnknown: there is no such blob (any more).
    """
    blob = await index.find_blob(digest)
    if blob is None:
        raise BlobUnknown(f"no blob {digest}; it never was here, or was collected")
    parents = await index.list_parents(blob.digest, PARENTS_SHOWN_MAX + 1)
    keepers = [await _keeper(index, parent) for parent in parents[:PARENTS_SHOWN_MAX]]
    holds = [_show(hold, policy, now_ms) for hold in await index.list_holds(blob.digest)]
    trash = await index.find_trash(blob.generation)
    return Explanation(
        blob,
        tuple(await index.list_aliases(blob.digest)),
        tuple(keepers),
        len(parents) > PARENTS_SHOWN_MAX,
        tuple(holds),
        trash,
        _verdict(blob, keepers, holds, trash),
    )


async def _keeper(index: Index, manifest: ManifestKey) -> Keeper:
    """Walk from a manifest towards the roots, breadth first, to the nearest tag; else to the farthest record reached."""
    came_from: dict[ManifestKey, ManifestKey | None] = {manifest: None}
    waiting = deque([manifest])
    last = manifest
    while waiting and len(came_from) < _KEEPERS_LOOKED_AT_MAX:
        last = waiting.popleft()
        tags = await index.list_tags_of(last)
        if tags:
            return Keeper(manifest, _path(came_from, last), tuple(tags), "tagged")
        for above in await _above(index, last):
            if above not in came_from:
                came_from[above] = last
                waiting.append(above)
    node = await index.find_node(last)
    is_gone = node is not None and node.record.is_subject_gone
    return Keeper(manifest, _path(came_from, last), (), "subject-gone" if is_gone else "untagged")


async def _above(index: Index, key: ManifestKey) -> list[ManifestKey]:
    """The records that a manifest's life comes from: image indexes that list it, and its subject."""
    found = [
        parent
        for parent in await index.list_parents(key.digest, PARENTS_SHOWN_MAX)
        if parent.repository == key.repository and parent != key
    ]
    node = await index.find_node(key)
    if node is not None and node.record.subject is not None:
        subject = await index.resolve(key.repository, node.record.subject)
        if subject is not None:
            found.append(subject.key)
    return found


def _path(came_from: dict[ManifestKey, ManifestKey | None], root: ManifestKey) -> tuple[ManifestKey, ...]:
    path: list[ManifestKey] = []
    at: ManifestKey | None = root
    while at is not None:
        path.append(at)
        at = came_from[at]
    return tuple(path)


def _show(hold: Hold, policy: GcPolicy, now_ms: int) -> ShownHold:
    lapses_at_ms = policy.terms.lapses_at_ms(hold.renewed_at_ms, hold.activity)
    is_pin = hold.renewed_at_ms >= PINNED_MS
    return ShownHold(hold, is_pin, lapses_at_ms, not is_pin and now_ms >= lapses_at_ms)


def _verdict(blob: Blob, keepers: list[Keeper], holds: list[ShownHold], trash: Trash | None) -> str:
    if blob.state is BlobState.CONDEMNED and trash is not None:
        return (
            f"condemned by run {trash.run}; freed by the first collection after {iso_utc(trash.not_before_ms)}, "
            f"unless it is pushed or asked for again, or `blobstore gc undo {trash.run}` brings it back"
        )
    if blob.state is BlobState.SUSPECT:
        return "its bytes are missing or damaged; push it again to heal it"
    return _verdict_of_keepers(keepers) if keepers else _verdict_of_holds(blob, holds)


def _verdict_of_keepers(keepers: list[Keeper]) -> str:
    tagged = [keeper for keeper in keepers if keeper.tags]
    if tagged:
        return f"lives: {tagged[0].path[0].repository}:{tagged[0].tags[0]} needs it"
    if all(keeper.root == "subject-gone" for keeper in keepers):
        return "lives until the grace of its manifests is over: their subject was deleted"
    return "lives: untagged manifests refer to it; they go with --delete-untagged"


def _verdict_of_holds(blob: Blob, holds: list[ShownHold]) -> str:
    if any(hold.is_pin for hold in holds):
        return f"lives: it is pinned; `blobstore unpin {blob.digest}` ends that"
    held = [hold for hold in holds if not hold.is_lapsed]
    if held:
        last = max(hold.lapses_at_ms for hold in held)
        return f"no manifest refers to it; it is promised until {iso_utc(last)}, as it was pushed, asked for or let go lately"
    return "garbage: no manifest refers to it and nothing is promised; the next collection condemns it"
