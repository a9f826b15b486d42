"""A random workload over a store and its collector, from a seed: every verb of the protocol comes up."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random  # noqa: TID251 - from a printed seed

from blobstore.app import make_collector
from blobstore.digest import Algorithm, Digest
from blobstore.errors import BlobstoreError
from blobstore.gc import GcPolicy
from blobstore.gc.plan import Plan
from blobstore.manifest import Manifest
from blobstore.reconcile import find_orphans
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image, image_index
from blobstore.uploads import Upload, start_upload

REPOSITORIES = ("app", "base", "cache")
TAGS = ("1", "2", "latest")
_CONTENTS = 8


class Workload:
    """Actions on one store; those that the store refuses are part of it."""

    def __init__(self, store: Store, clock: FakeClock, seed: int) -> None:
        self._store, self._clock, self._random = store, clock, Random(seed)
        self._images = [image(b"config %d" % n, [_content(n), _content((n * 3 + 1) % _CONTENTS)]) for n in range(5)]
        self._indexes = [image_index(self._images[:2]), image_index(self._images[2:4])]
        self._indexes.append(image_index([self._indexes[0], self._images[4]]))
        self._referrers = [image(b"signature", [_content(0)], subject=self._images[n]) for n in range(2)]
        self._manifests = [*self._images, *self._indexes, *self._referrers]
        self._runs: list[str] = []
        self._slow: list[Upload] = []
        self._plans: list[Plan] = []

    async def run(self, steps: int, *, at_once: int = 4) -> None:
        """Some actions side by side, again and again."""
        for _ in range(steps // at_once):
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(self._act())
            await self._store.parts.cleaner.aclose()
            # Short pauses between long ones: what is planned and begun before one is old after it.
            self._clock.advance(self._random.choice([0, 1000, 61_000, 3_600_000, 13 * 3_600_000]))

    async def _act(self) -> None:
        actions = {
            self._push_image: 30, self._push_blob: 10, self._put_manifest: 20, self._mount: 5, self._head: 10, self._tag: 5,
            self._untag: 6, self._delete_manifest: 8, self._delete_blob: 5, self._pin: 2, self._abandon: 4, self._cancel: 2,
            self._remove: 2, self._collect: 12, self._undo: 3, self._suspect: 2, self._orphans: 3, self._cancelled: 2,
            self._begin_slowly: 3, self._go_on_slowly: 5, self._plan: 3, self._carry_out_old_plan: 3,
        }  # fmt: skip
        (action,) = self._random.choices(list(actions), weights=list(actions.values()))
        with contextlib.suppress(BlobstoreError):
            # Refused: the guards want to see that too.
            await action()

    def _repository(self):
        return self._store.repository(self._random.choice(REPOSITORIES))

    def _some(self) -> bytes:
        return self._random.choice([_content(n) for n in range(_CONTENTS)])

    def _manifest(self) -> Manifest:
        return self._random.choice(self._manifests)

    async def _push(self, repository, data: bytes) -> None:
        algorithm = self._random.choice([Algorithm.SHA256, Algorithm.SHA512])
        async with repository.open_upload() as upload:
            await upload.write(data)
            await upload.commit(Digest.of(data, algorithm))

    async def _push_blob(self) -> None:
        await self._push(self._repository(), self._some())

    async def _push_image(self) -> None:
        repository, number = self._repository(), self._random.randrange(5)
        wanted = self._images[number]
        for data in (b"config %d" % number, _content(number), _content((number * 3 + 1) % _CONTENTS)):
            with contextlib.suppress(BlobstoreError):
                await repository.stat_blob(Digest.of(data))
                continue
            await self._push(repository, data)
        await repository.put_manifest(wanted.body, wanted.media_type, tag=self._random.choice([*TAGS, None]))

    async def _put_manifest(self) -> None:
        manifest = self._manifest()
        tag = self._random.choice([*TAGS, None, None])
        await self._repository().put_manifest(manifest.body, manifest.media_type, tag=tag)

    async def _mount(self) -> None:
        await self._repository().mount_blob(Digest.of(self._some()), self._random.choice(REPOSITORIES))

    async def _head(self) -> None:
        if self._random.random() < 0.5:
            await self._repository().stat_blob(Digest.of(self._some()))
        else:
            await self._repository().find_manifest(self._manifest().digest)

    async def _tag(self) -> None:
        await self._repository().tag(self._manifest().digest, self._random.choice(TAGS))

    async def _untag(self) -> None:
        await self._repository().untag(self._random.choice(TAGS))

    async def _delete_manifest(self) -> None:
        await self._repository().delete_manifest(self._manifest().digest)

    async def _delete_blob(self) -> None:
        await self._repository().delete_blob(Digest.of(self._some()))

    async def _pin(self) -> None:
        data = self._some()
        if self._random.random() < 0.4:
            await self._store.index.pin_blob(Digest.of(data), self._clock.now_ms())
        elif self._random.random() < 0.5:
            async with await self._store.open_pinned_upload() as upload:
                await upload.write(data)
                await upload.commit()
        else:
            await self._store.unpin(Digest.of(data))

    async def _abandon(self) -> None:
        async with self._repository().open_upload() as upload:
            await upload.write(b"half")

    async def _cancel(self) -> None:
        async with self._repository().open_upload(Digest.of(b"whole")) as upload:
            await upload.write(b"half")
            await upload.cancel()

    async def _cancelled(self) -> None:
        """A caller that goes away: what it asked for may be committed all the same."""
        task = asyncio.create_task(self._push(self._repository(), self._some()))
        for _ in range(self._random.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _begin_slowly(self) -> None:
        upload = await start_upload(self._store.parts, self._repository().name, None)
        await upload.write(self._some())
        self._slow.append(upload)

    async def _go_on_slowly(self) -> None:
        """Long after it began, an upload goes on or ends; it may have been given up meanwhile."""
        if self._slow:
            upload = self._slow.pop(self._random.randrange(len(self._slow)))
            if self._random.random() < 0.5:
                await upload.commit()
            else:
                await upload.write(b"")
                self._slow.append(upload)

    async def _remove(self) -> None:
        await self._repository().remove()

    def _policy(self) -> GcPolicy:
        return GcPolicy(
            grace_s=self._random.choice([0, 3600, 24 * 3600]),
            quarantine_s=self._random.choice([0, 3600]),
            delete_untagged=self._random.random() < 0.6,
            batch_max=self._random.choice([2, 500]),
        )

    async def _collect(self) -> None:
        collector = make_collector(self._store, self._policy())
        report = await collector.run(is_full=self._random.random() < 0.5)
        self._runs.append(report.plan.run)

    async def _plan(self) -> None:
        self._plans.append(await make_collector(self._store, self._policy()).plan())

    async def _carry_out_old_plan(self) -> None:
        """Much has changed since; every line of it is re-checked."""
        if self._plans:
            await make_collector(self._store).carry_out(self._plans.pop(0))

    async def _undo(self) -> None:
        if self._runs:
            await make_collector(self._store).undo(self._random.choice(self._runs[-3:]))

    async def _suspect(self) -> None:
        blob = await self._store.index.find_blob(Digest.of(self._some()))
        if blob is not None:
            await self._store.index.suspect_blob(blob.digest, blob.generation)

    async def _orphans(self) -> None:
        await find_orphans(self._store.index, self._store.backend, self._clock)


def _content(number: int) -> bytes:
    return b"content %d" % number
