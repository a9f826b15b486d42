"""What is done to a store while the disk is recorded."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from random import Random  # noqa: TID251 - from a printed seed

from blobstore.app import rebuild_index
from blobstore.gc import GcPolicy
from blobstore.testing.fakes import image, image_index
from tests.powercut.crashes import END, START
from tests.powercut.expected import GONE, REBUILD_KEY, THERE
from tests.powercut.scene import AT_ONCE, DAY_MS, Scene, content

Workload = Callable[[Scene, int], Awaitable[None]]

SHORT_RECORDINGS = 61
"""How many recordings of `short`, with seeds one after the other, hold every sequence."""


def _start(scene: Scene) -> None:
    """From here on the power may go."""
    os.sync()
    scene.recording.mark(START)


async def _make_busy_store(scene: Scene) -> None:
    """A store with a few images, and an index file with free pages: one that has to grow would have the file system commit
    its journal, and with it what nobody synced."""
    await scene.open()
    for at in range(4):
        await scene.push_image(f"old {at}", f"old-{at}", repository="old")
    spare = [await scene.push_image(f"spare {at}", repository="old") for at in range(4)]
    for manifest in spare:
        await scene.delete(manifest.digest, repository="old")
    await scene.collect()


async def create(scene: Scene, _seed: int) -> None:
    """A store is made on an empty disk, and the first image pushed."""
    _start(scene)
    await scene.open()
    await scene.push_image("first", "latest")


async def push(scene: Scene, seed: int) -> None:
    """Blobs small and staged, images, an image index, tags: one after the other, then at once."""
    random = Random(seed)
    await _make_busy_store(scene)
    _start(scene)
    for at in range(4):
        await scene.push_blob(content(f"alone {at}", random.randrange(1, 30_000)))
    one = await scene.push_image("one", "latest", "1")
    shared = content("layer one", 6000)
    two = await scene.push_image("two", "latest", layers=[shared, content("big", 40_000)])
    await scene.put(image_index([one, two]), "all")
    await scene.mount(shared, "app", "fork")
    await scene.put(image(content("config one", 100), [shared], subject=one))
    await asyncio.gather(*(scene.push_image(f"at once {at}", "t", repository=f"app-{at}") for at in range(4)))
    await scene.push_image("one", "again", repository="fork")


async def collect(scene: Scene, _seed: int) -> None:
    """Images are deleted, collected, pushed again while condemned and after; others stay all the time."""
    await _make_busy_store(scene)
    shared = content("shared", 5000)
    images = [
        await scene.push_image(f"image {at}", f"t{at}", layers=[shared, content(f"own {at}", 4000)]) for at in range(5)
    ]
    _start(scene)
    await scene.delete(images[0].digest)
    await scene.untag("t1")
    scene.clock.advance(2 * DAY_MS)
    quarantining = GcPolicy(delete_untagged=True)
    await scene.collect(quarantining)
    await scene.push_image("image 0", "t0", layers=[shared, content("own 0", 4000)])
    scene.clock.advance(2 * DAY_MS)
    await scene.collect(quarantining)
    await scene.delete(images[2].digest)
    await scene.collect()
    await scene.push_image("image 2", "back", layers=[shared, content("own 2", 4000)])
    await scene.untag("t3")
    await scene.collect()
    scene.clock.advance(2 * DAY_MS)
    await scene.delete(images[4].digest)
    await asyncio.gather(
        scene.collect(quarantining), scene.push_image("meanwhile", "m", layers=[content("meanwhile", 9000)])
    )
    await scene.remove("old")
    await scene.collect()


async def free(scene: Scene, _seed: int) -> None:
    """What was deleted is freed, and nothing else."""
    await _make_busy_store(scene)
    shared = content("shared", 5000)
    images = [await scene.push_image(f"image {at}", f"t{at}", layers=[shared]) for at in range(3)]
    await scene.delete(images[0].digest)
    await scene.untag("t1")
    _start(scene)
    await scene.collect()
    await scene.push_image("image 0", "t0", layers=[shared])


async def index(scene: Scene, seed: int) -> None:
    """Many small verbs, which share commits: tags made, moved and removed, blobs mounted, pinned and let go."""
    random = Random(seed)
    await _make_busy_store(scene)
    images = [await scene.push_image(f"image {at}", f"t{at}") for at in range(4)]
    _start(scene)
    for turn in range(6):
        targets = [random.choice(images).digest for _ in range(6)]
        await asyncio.gather(*(scene.tag(digest, f"move-{at}") for at, digest in enumerate(targets)))
        await scene.untag(f"move-{turn}")
        await scene.mount(content(f"layer image {turn % 4}", 6000), "app", f"fork-{turn}")
    for manifest in images[:2]:
        await scene.delete(manifest.digest)
    await scene.store.checkpoint()
    await scene.tag(images[3].digest, "after")
    await scene.store.checkpoint()


async def upload(scene: Scene, _seed: int) -> None:
    """Uploads that are left and taken up again, cancelled, expired."""
    await _make_busy_store(scene)
    _start(scene)
    size = 60_000
    first = await scene.begin_upload("first", size)
    second = await scene.begin_upload("second", size, repository="fork")
    await scene.go_on(first, "first", size, 45_000)
    await scene.go_on(first, "first", size)
    await scene.go_on(second, "second", size, repository="fork")
    third = await scene.begin_upload("third", size)
    await scene.cancel(third, "third", size)
    # The same bytes again: published by nobody.
    fourth = await scene.begin_upload("first", size)
    await scene.go_on(fourth, "first", size)
    await asyncio.gather(*(_in_two_steps(scene, f"at once {at}", size) for at in range(3)))


async def _in_two_steps(scene: Scene, name: str, size: int) -> None:
    await scene.go_on(await scene.begin_upload(name, size), name, size)


async def rebuild(scene: Scene, _seed: int) -> None:
    """The index is made anew from what lies on the backend, twice, with pushes before and after."""
    await _make_busy_store(scene)
    kept = await scene.push_image("kept", "kept")
    gone = await scene.push_image("gone", "gone")
    await scene.delete(gone.digest)
    await scene.store.aclose()
    _start(scene)
    for turn in range(2):
        with scene.step({REBUILD_KEY: THERE}):
            pass
        with scene.step({REBUILD_KEY: GONE}):
            await rebuild_index(scene.place, clock=scene.clock)
        await scene.open()
        await scene.push_image(f"later {turn}", f"later-{turn}")
        await scene.tag(kept.digest, f"kept-{turn}")
        await scene.store.aclose()
    await scene.open()


# Short ones, exhaustively: every sequence of three of these; a crash after each flush makes it every one of up to three.

_Step = Callable[[Scene, str], Awaitable[None]]


async def _push_first(scene: Scene, repository: str) -> None:
    await scene.push_image(f"{repository} first", "a", repository=repository)


async def _push_second(scene: Scene, repository: str) -> None:
    await scene.push_image(f"{repository} second", "a", "b", repository=repository)


async def _delete(scene: Scene, repository: str) -> None:
    tags = {tag: digest for (name, tag), digest in scene.tags.items() if name == repository}
    if tags:
        await scene.delete(tags[min(tags)], repository)


async def _untag(scene: Scene, repository: str) -> None:
    tags = sorted(tag for name, tag in scene.tags if name == repository)
    if tags:
        await scene.untag(tags[0], repository)


async def _push_blob(scene: Scene, repository: str) -> None:
    await scene.push_blob(content(f"layer {repository} first", 6000), repository)


async def _upload_half(scene: Scene, repository: str) -> None:
    await scene.begin_upload(f"{repository} half", 30_000, repository)


async def _collect(scene: Scene, _repository: str) -> None:
    await scene.collect(AT_ONCE)


async def _condemn(scene: Scene, _repository: str) -> None:
    await scene.collect(GcPolicy(grace_s=0, delete_untagged=True))


async def _checkpoint(scene: Scene, _repository: str) -> None:
    await scene.store.checkpoint()


STEPS: tuple[_Step, ...] = (
    _push_first, _push_second, _push_blob, _upload_half, _delete, _untag, _collect, _condemn, _checkpoint,
)  # fmt: skip
SEQUENCES = tuple(itertools.product(STEPS, repeat=3))


async def short(scene: Scene, seed: int) -> None:
    """Some of all sequences of up to three steps, each in a repository of its own that holds an image."""
    await _make_busy_store(scene)
    chosen = range(seed % SHORT_RECORDINGS, len(SEQUENCES), SHORT_RECORDINGS)
    for number in chosen:
        await scene.push_image(f"s{number} zeroth", "z", repository=f"s{number}")
    _start(scene)
    for number in chosen:
        for step in SEQUENCES[number]:
            await step(scene, f"s{number}")


WORKLOADS: dict[str, Workload] = {
    each.__name__: each for each in (push, collect, free, index, upload, rebuild, create, short)
}


async def run(name: str, place: str, recording: str, seed: int) -> None:
    """Do a workload to the store at `place`."""
    scene = Scene(place, recording)
    await WORKLOADS[name](scene, seed)
    scene.recording.mark(END)
    await scene.store.aclose()
