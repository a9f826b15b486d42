"""What must be so after a kill: all that is owed is there through a fresh store, and hashes right."""

from __future__ import annotations

from pathlib import Path

from blobstore.app import make_collector
from blobstore.clock import SystemClock
from blobstore.digest import Digest
from blobstore.errors import BlobstoreError, BlobUnknown, ManifestUnknown
from blobstore.repository import Repository
from blobstore.store import Store
from blobstore.testing.invariants import find_broken, find_garbage
from tests.kills.acks import GONE, Owed
from tests.kills.content import AheadClock, Alarms, Mix, make_store
from tests.kills.processes import Lines
from tests.kills.pushing import PUSHERS, repository_name

DAY_S = 24 * 3600
GRACES = 4
"""What lasts for one grace after the other: an image index, its images, their blobs, the quarantine."""


def read_owed(place: Path, slot: int) -> Owed:
    """What the journal of a slot says, whose process is dead."""
    owed = Owed()
    owed.replay(Lines(place / f"{slot}.acks").new())
    return owed


async def find_lost(place: Path, mix: Mix, slots: list[int], clock: SystemClock | None = None) -> list[str]:
    """What is owed to pushers that are dead, and is not there; others may work meanwhile."""
    alarms = Alarms()
    async with make_store(place, mix, alarms, clock=clock) as store:
        lost = [problem for slot in slots for problem in await _lost_of(store, mix, slot, read_owed(place, slot))]
    return lost + alarms


async def find_wrong_at_rest(place: Path, mix: Mix) -> list[str]:
    """As `find_lost` for all, with every invariant of the store; all are dead."""
    wrong = await find_lost(place, mix, list(range(PUSHERS)))
    async with make_store(place, mix, Alarms()) as store:
        return wrong + await find_broken(store)


async def find_left_over(place: Path, mix: Mix) -> list[str]:
    """What is garbage still when every grace is over and two collections came after each, and what they took that they should
    not; all are dead. What a rebuild put aside waits for a day."""
    alarms, clock = Alarms(), AheadClock()
    async with make_store(place, mix, alarms, clock=clock) as store:
        collector = make_collector(store, mix.policy, events=alarms)
        for _ in range(GRACES):
            clock.advance(2 * DAY_S)
            await collector.run()
            await collector.run()
        left = await find_broken(store) + await find_garbage(store) + alarms
    return left + await find_lost(place, mix, list(range(PUSHERS)), clock)


async def _lost_of(store: Store, mix: Mix, slot: int, owed: Owed) -> list[str]:
    repository = store.repository(repository_name(slot))
    lost = [problem for tag in sorted(owed.tags) for problem in await _check_tag(repository, tag, owed.tags[tag])]
    pinned = {str(digest) for digest in await store.index.list_pins(None, 1_000_000)}
    lost += [f"the pin of {digest} is lost" for digest in sorted(owed.pins - pinned)]
    lost += [f"{digest} was unpinned, and is pinned again" for digest in sorted(owed.unpinned & pinned)]
    for digest in sorted(owed.pins & pinned):
        lost += await _check_blob(store, digest)
    # Newest first, and no further than the promise reaches.
    for digest, at_ms in reversed(owed.promised.items()):
        if not _is_owed(store, mix, at_ms):
            break
        problems = await _check_blob(store, digest)
        lost += problems if _is_owed(store, mix, at_ms) else []
    for digest, at_ms in reversed(owed.manifests.items()):
        if not _is_owed(store, mix, at_ms):
            break
        problems = await _check_manifest(repository, Digest.parse(digest))
        lost += problems if _is_owed(store, mix, at_ms) else []
    return lost


def _is_owed(store: Store, mix: Mix, at_ms: int) -> bool:
    return store.parts.clock.now_ms() - at_ms < mix.promise_ms


async def _check_tag(repository: Repository, tag: str, allowed: set[str]) -> list[str]:
    try:
        digest = (await repository.find_manifest(tag)).key.digest
    except ManifestUnknown:
        return [] if GONE in allowed else [f"tag {repository.name}:{tag} is lost; it named one of {sorted(allowed)}"]
    if str(digest) not in allowed:
        return [f"tag {repository.name}:{tag} names {digest}, not one of {sorted(allowed)}"]
    return await _check_manifest(repository, digest)


async def _check_manifest(repository: Repository, digest: Digest) -> list[str]:
    """A manifest and all below it, read and hashed."""
    try:
        manifest = await repository.get_manifest(digest)
        for reference in manifest.references:
            async with repository.open_blob(reference.digest) as blob:
                await blob.read()
    except BlobstoreError as error:
        return [f"manifest {repository.name}@{digest} is not whole: {type(error).__name__}: {error}"]
    children = [reference.digest for reference in manifest.references if reference.kind == "manifest"]
    return [problem for child in children for problem in await _check_manifest(repository, child)]


async def _check_blob(store: Store, digest: str) -> list[str]:
    """Whichever repository it is in: after a rebuild of the index, blobs that no manifest refers to are nobody's, and kept."""
    try:
        async with store.open_blob(Digest.parse(digest)) as blob:
            await blob.read()
    except BlobUnknown:
        return [f"blob {digest} is lost"]
    except BlobstoreError as error:
        return [f"blob {digest}: {type(error).__name__}: {error}"]
    return []
