"""The clients of the soak: each is a loop of one kind of operation on a store that others change all the time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable

from blobstore.abc.records import BlobState
from blobstore.app import make_collector
from blobstore.digest import Digest
from blobstore.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestUnknown,
    RepositoryUnknown,
    StillReferenced,
    TagUnknown,
    UploadInterrupted,
)
from blobstore.manifest import Manifest
from blobstore.repository import Repository
from blobstore.store import Store
from blobstore.testing.fakes import image, image_index
from tests.kills.content import Mix, layer_bytes, push_blob, seeded, shared_layer
from tests.soak.mixes import REPOSITORIES, TAGS

PUSH_TRIES_MAX = 20
VERB_MS_MAX = 400
"""How long a verb may take from when it read the clock to its commit, on a machine that has more to do than it can."""
NOTHING_PAUSE_S = 0.02
"""A store that is empty for a moment must not be asked ten thousand times a second."""
EVENTS = ("push", "pull", "mount", "delete", "retag")
"""The operations that count. A push is a manifest with all it needs: its blobs, and for an image index its images, are
part of it. One that was refused and started anew counts once; an operation whose object was gone counts as none."""


class BrokenPromise(AssertionError):
    """A client was told "unknown" of what it was promised."""


class Client:
    """One client: its randomness, the store it works on, and the counters it shares with the others of its process."""

    def __init__(self, store: Store, mix: Mix, seed: str, counts: Counter[str]) -> None:
        self.store, self.mix, self.seed, self.counts = store, mix, seed, counts
        self.rng = seeded(seed)
        self._unique = 0

    def now_ms(self) -> int:
        return self.store.parts.clock.monotonic_ms()

    def any_repository(self) -> Repository:
        return self.store.repository(self.rng.choice(REPOSITORIES))

    def any_tag(self) -> str:
        return f"t{self.rng.randrange(TAGS)}"

    def unique(self, *name: object) -> bytes:
        """Bytes that nobody else ever pushes."""
        self._unique += 1
        return layer_bytes(self.seed, self._unique, *name)

    async def find_nothing(self) -> None:
        """What was asked for is not there, and nobody said it was."""
        self.counts["nothing_there"] += 1
        await asyncio.sleep(NOTHING_PAUSE_S)

    def owe(self, since_ms: int, what: str) -> None:
        """An answer was "unknown": count it, and raise if the yes that was asked for at `since_ms` is still owed."""
        if self.now_ms() - since_ms < self.mix.promise_ms:
            self.counts["unknown_in_promise"] += 1
            raise BrokenPromise(
                f"{what}, {self.now_ms() - since_ms} ms after it was promised for {self.mix.promise_ms}"
            )
        self.counts["unknown_after_promise"] += 1


class Pusher(Client):
    """Pushes images, half of whose layers others push too. `habit` is how it brings a layer: "ask" and skip, "mount" from
    another repository, or always "send"."""

    habit = "ask"
    tries_max = PUSH_TRIES_MAX

    async def step(self) -> None:
        self.counts["push" if await self._push_whole() else "given_up"] += 1

    async def _push_whole(self) -> bool:
        """Whether it succeeded in the end; where nothing is promised, or all tries were slower than a promise, it need not."""
        repository, tag = self.any_repository(), self.any_tag()
        kind, in_time = self.rng.random(), 0
        for _ in range(self.tries_max):
            asked: dict[Digest, int] = {}
            since_ms = self.now_ms()
            try:
                if kind < 0.1:
                    await self._push_image_index(repository, tag, asked)
                else:
                    subject = await self._any_subject(repository) if kind < 0.2 else None
                    manifest = await self._bring_image(repository, asked, subject)
                    await self._put(repository, manifest, tag if subject is None else None, asked)
            except _StartAnew:
                self.counts["started_anew"] += 1
                in_time += self.now_ms() - since_ms < self.mix.promise_ms
            else:
                return True
        assert in_time < PUSH_TRIES_MAX, f"a push was refused {in_time} times, although it was quick"
        return False

    async def _push_image_index(self, repository: Repository, tag: str, asked: dict[Digest, int]) -> None:
        children = []
        for _ in range(2):
            child = await self._bring_image(repository, asked, None)
            await self._put(repository, child, None, asked)
            children.append(child)
        await self._put(repository, image_index(children), tag, asked)

    async def _any_subject(self, repository: Repository) -> Manifest | None:
        try:
            return await repository.get_manifest(self.any_tag())
        except (ManifestUnknown, BlobUnknown):
            return None

    async def _bring_image(
        self, repository: Repository, asked: dict[Digest, int], subject: Manifest | None
    ) -> Manifest:
        config, own = self.unique("config"), self.unique("layer")
        shared = [shared_layer(self.rng), shared_layer(self.rng)]
        for data in (*shared, config, own):
            asked[Digest.of(data)] = await self._bring(repository, data, is_shared=data in shared)
        return image(config, [own, *shared], subject=subject)

    async def _bring(self, repository: Repository, data: bytes, *, is_shared: bool) -> int:
        """Have a blob in the repository; returns when the yes was asked for."""
        digest, find = Digest.of(data), self.store.index.find_blob
        before = await find(digest)
        since_ms = await self._ask(repository, digest) if is_shared and self.habit != "send" else None
        if since_ms is None:
            since_ms = await self._send(repository, data)
        if before is not None and before.state is BlobState.CONDEMNED:
            # The very generation that was going when we looked: asking for it, or sending it again, brought it back.
            after = await find(digest)
            self.counts["revived"] += after is not None and after.generation == before.generation
        return since_ms

    async def _ask(self, repository: Repository, digest: Digest) -> int | None:
        since_ms = self.now_ms()
        try:
            if self.habit == "mount":
                await repository.mount_blob(digest, self.rng.choice(REPOSITORIES))
            else:
                await repository.stat_blob(digest)
        except BlobUnknown:
            self.counts["sent_after_asking"] += 1
            return None
        self.counts["layers_skipped"] += 1
        return since_ms

    async def _send(self, repository: Repository, data: bytes) -> int:
        for _ in range(PUSH_TRIES_MAX):
            since_ms = self.now_ms()
            try:
                await push_blob(repository, data)
            except UploadInterrupted:
                # A process that stood still for longer than `upload_idle_s`.
                self.counts["interrupted"] += 1
            else:
                return since_ms
        raise AssertionError(f"an upload was interrupted {PUSH_TRIES_MAX} times")

    async def _put(self, repository: Repository, manifest: Manifest, tag: str | None, asked: dict[Digest, int]) -> None:
        since_ms = self.now_ms()
        try:
            await repository.put_manifest(manifest.body, manifest.media_type, tag=tag)
        except ManifestBlobUnknown as error:
            for digest in error.missing:
                self.owe(asked[digest], f"the put of {manifest.digest} was refused for {digest}")
            raise _StartAnew from error
        except UploadInterrupted as error:
            self.counts["interrupted"] += 1
            raise _StartAnew from error
        asked[manifest.digest] = since_ms


class _StartAnew(Exception):
    """The push was refused, and not against a promise."""


class Mounting(Pusher):
    """Mounts what others may have."""

    habit = "mount"


class Sending(Pusher):
    """Sends all, whatever is there."""

    habit = "send"


class Late(Pusher):
    """Dawdles over each upload, and puts its manifest when what it was promised may be gone: it is refused, or the image is
    whole."""

    habit = "mount"
    tries_max = 1

    async def _send(self, repository: Repository, data: bytes) -> int:
        since_ms = self.now_ms()
        try:
            async with repository.open_upload(Digest.of(data)) as upload:
                await upload.write(data)
                await asyncio.sleep(self.rng.uniform(0, 0.3))
                since_ms = self.now_ms()
                await upload.commit()
        except UploadInterrupted as error:
            self.counts["interrupted"] += 1
            raise _StartAnew from error
        return since_ms

    async def _put(self, repository: Repository, manifest: Manifest, tag: str | None, asked: dict[Digest, int]) -> None:
        mix = self.mix
        await asyncio.sleep(self.rng.uniform(0.5, 1.5) * (mix.grace_s + mix.renew_s + mix.quarantine_s))
        await super()._put(repository, manifest, tag, asked)


class Puller(Client):
    """Pulls images by tag, every blob of them, verified."""

    async def step(self) -> None:
        repository, since_ms = self.any_repository(), self.now_ms()
        try:
            manifest = await repository.get_manifest(self.any_tag())
        except (ManifestUnknown, BlobUnknown):
            # Deleted, or between its lookup and its bytes: nothing was promised yet.
            await self.find_nothing()
            return
        if manifest.is_image_index:
            await self._pull_one(repository, manifest.manifests[0].digest)
        else:
            await self._pull_blobs(repository, manifest, since_ms)

    async def _pull_one(self, repository: Repository, digest: Digest) -> None:
        asked_ms = self.now_ms()
        try:
            manifest = await repository.get_manifest(digest)
        except (ManifestUnknown, BlobUnknown):
            # Its index promised it no longer than itself: a deleter may have taken both.
            await self.find_nothing()
            return
        await self._pull_blobs(repository, manifest, asked_ms)

    async def _pull_blobs(self, repository: Repository, manifest: Manifest, since_ms: int) -> None:
        for reference in manifest.references:
            try:
                async with repository.open_blob(reference.digest) as blob:
                    await blob.read()
            except BlobUnknown:
                # Even where the manifest was deleted since: then a hold took the place of its edge, counted from when somebody
                # else asked for the deletion, which may be some time before it was committed.
                self.owe(since_ms - VERB_MS_MAX, f"a pull of {manifest.digest} found no {reference.digest}")
                await self._demand_deleted(repository, manifest)
                return
        self.counts["pull"] += 1

    async def _demand_deleted(self, repository: Repository, manifest: Manifest) -> None:
        """An image that isn't whole must have been deleted, or be whole again by a push."""
        found = [await self.store.index.find_blob(reference.digest) for reference in manifest.references]
        with contextlib.suppress(ManifestUnknown):
            if None in found and await repository.find_manifest(manifest.digest):
                raise BrokenPromise(f"{repository.name} has {manifest.digest}, but not all of its blobs: {found}")


class Mounter(Client):
    """Mounts blobs of tagged images into other repositories, and leaves them there."""

    async def step(self) -> None:
        source, target = self.any_repository(), self.any_repository()
        try:
            record = await source.find_manifest(self.any_tag())
            children = await self.store.index.list_children(record.key)
            await target.mount_blob(self.rng.choice(children), source.name)
        except (ManifestUnknown, BlobUnknown, IndexError):
            await self.find_nothing()
        else:
            self.counts["mount"] += 1


class Deleter(Client):
    """Deletes tags, manifests, and blobs that only it has."""

    async def step(self) -> None:
        repository, choice = self.any_repository(), self.rng.random()
        try:
            if choice < 0.4:
                await repository.untag(self.any_tag())
            elif choice < 0.8:
                await repository.delete_manifest((await repository.find_manifest(self.any_tag())).key.digest)
            else:
                await repository.delete_blob(await push_blob(repository, self.unique("deleted")))
        except (ManifestUnknown, TagUnknown, StillReferenced):
            await self.find_nothing()
        except (BlobUnknown, UploadInterrupted):
            # Its own blob: lapsed, where nothing is owed.
            await self.find_nothing()
        else:
            self.counts["delete"] += 1


class Retagger(Client):
    """Moves tags about."""

    async def step(self) -> None:
        try:
            await self.any_repository().tag(self.any_tag(), self.any_tag())
        except (ManifestUnknown, RepositoryUnknown):
            await self.find_nothing()
        else:
            self.counts["retag"] += 1


class Collecting(Client):
    """Collects all the time: mostly what was pushed and deleted lately, now and then everything."""

    FULL_EVERY = 10
    WITHOUT_PROMISE_PAUSE_S = 0.1
    """With a grace of 0 each run takes what a push has brought and not yet referred to: leave time for one."""

    def __init__(self, store: Store, mix: Mix, seed: str, counts: Counter[str]) -> None:
        super().__init__(store, mix, seed, counts)
        self._collector = make_collector(store, mix.policy, events=store.parts.events)
        self._runs = 0

    async def step(self) -> None:
        self._runs += 1
        report = await self._collector.run(is_full=self._runs % self.FULL_EVERY == 0)
        self.counts["collections"] += 1
        self.counts["dropped"] += report.dropped_manifests
        self.counts["condemned"] += report.condemned_blobs
        self.counts["freed"] += report.freed_blobs
        if not self.mix.promise_ms:
            await asyncio.sleep(self.WITHOUT_PROMISE_PAUSE_S)


ROLES: dict[str, tuple[type[Client], float]] = {
    # The pause after each operation, seconds.
    "ask": (Pusher, 0),
    "mount": (Mounting, 0),
    "send": (Sending, 0),
    "late": (Late, 0),
    "pull": (Puller, 0.002),
    "mounter": (Mounter, 0.01),
    "delete": (Deleter, 0.01),
    "retag": (Retagger, 0.003),
    "collect": (Collecting, 0.02),
}


async def repeat(step: Callable[[], Awaitable[None]], pause_s: float, stopping: asyncio.Event) -> None:
    """One client, until it is told to stop; it finishes what it began."""
    while not stopping.is_set():
        await step()
        await asyncio.sleep(pause_s)
