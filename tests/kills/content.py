"""What the workers push: bytes that follow from a name, and the store they push to."""

from __future__ import annotations

import random  # noqa: TID251 - from a printed seed
from pathlib import Path

import msgspec

from blobstore.abc.index import Index
from blobstore.backends.filesystem import FilesystemBackend
from blobstore.clock import SystemClock
from blobstore.digest import Digest
from blobstore.events import Alarm, Event
from blobstore.gc import GcPolicy
from blobstore.index.lmdb import LmdbIndex
from blobstore.promises import HoldTerms
from blobstore.repository import Repository
from blobstore.store import Store

SHARED_LAYERS = 2000


class Mix(msgspec.Struct, frozen=True):
    """For how long promises and quarantines last, seconds. A promise: a yes that is younger than `grace_s` is owed."""

    name: str
    grace_s: float
    renew_s: float
    quarantine_s: float
    upload_idle_s: float = 10

    @property
    def terms(self) -> HoldTerms:
        """What a pushing process promises. It knows nothing of an administrator who collects with a grace of 0."""
        return HoldTerms(grace_s=self.grace_s, renew_s=self.renew_s) if self.grace_s else HoldTerms()

    @property
    def policy(self) -> GcPolicy:
        """What a collecting process goes by."""
        return GcPolicy(
            grace_s=self.grace_s,
            renew_s=self.renew_s,
            quarantine_s=self.quarantine_s,
            upload_idle_s=self.upload_idle_s,
            delete_untagged=True,
            max_share=1,
        )

    @property
    def promise_ms(self) -> int:
        """How long after a yes its blob is owed for certain: a hold that is no older than `renew_s` is not renewed by it."""
        return int(self.grace_s * 1000)


class AheadClock(SystemClock):
    """The machine's clock, ahead of it by as much as it was advanced."""

    def __init__(self) -> None:
        self._ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self._ahead_ms

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self._ahead_ms

    def advance(self, seconds: float) -> None:
        """Let all graces of that length end."""
        self._ahead_ms += int(seconds * 1000)


class Alarms(list[str]):
    """An event sink that remembers what an operator would have been told."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Alarm):
            self.append(event.text)


def seeded(*parts: object) -> random.Random:
    """Randomness that follows from its name."""
    return random.Random(" ".join(map(str, parts)))


def layer_bytes(*name: object) -> bytes:
    """A layer that follows from its name: mostly hundreds of bytes, some up to 64 KiB."""
    rng = seeded(*name)
    largest = rng.choices((1000, 8 * 1024, 64 * 1024), (80, 16, 4))[0]
    return rng.randbytes(rng.randint(100, largest))


def shared_layer(rng: random.Random) -> bytes:
    """One of the layers that all share: a few are in every other image, most so seldom that they are collected between."""
    return layer_bytes("shared", int(SHARED_LAYERS ** rng.random()))


def make_index(place: Path) -> LmdbIndex:
    """The index of the store in a directory, not yet open; its ballast is small, as there is no full disk here."""
    return LmdbIndex(str(place / "index"), ballast_bytes=4096)


def make_store(
    place: Path, mix: Mix, alarms: Alarms, *, index: Index | None = None, clock: SystemClock | None = None
) -> Store:
    """The store in a directory, not yet open."""
    backend = FilesystemBackend(str(place / "store"))
    return Store(backend, index or make_index(place), clock=clock, terms=mix.terms, events=alarms)


async def push_blob(repository: Repository, data: bytes) -> Digest:
    """Upload a blob in one session; every other one says beforehand what it will be."""
    digest = Digest.of(data) if len(data) % 2 else None
    async with repository.open_upload(digest) as upload:
        await upload.write(data)
        return (await upload.commit()).digest


MIXES = {
    mix.name: mix
    for mix in (
        # By name: kills the moment things go; both graces small; and none owed at all.
        Mix("small-grace", grace_s=2, renew_s=0.2, quarantine_s=0),
        Mix("quarantine", grace_s=2, renew_s=0.2, quarantine_s=0.5),
        Mix("no-promise", grace_s=0, renew_s=0.2, quarantine_s=0),
    )
}
"""The mixes of the kill tests."""
