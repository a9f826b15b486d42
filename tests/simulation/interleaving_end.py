"""The end of a scene: what must be true of a store once everything is quiet, and of what a lost index leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from blobstore.abc.index import Index
from blobstore.abc.paging import every
from blobstore.app import make_collector
from blobstore.backends.memory import MemoryBackend
from blobstore.clock import Clock
from blobstore.digest import Digest
from blobstore.errors import BlobstoreError
from blobstore.gc import GcPolicy
from blobstore.index.memory import MemoryIndex
from blobstore.names import RepositoryName, TagName
from blobstore.rebuild import finish, rebuild
from blobstore.store import Store
from blobstore.testing.invariants import find_broken, find_garbage
from tests.simulation.schedule import InlineExecutor, Life, Schedule

if TYPE_CHECKING:
    from tests.simulation.interleaving import Scene

LAST = GcPolicy(grace_s=3600, quarantine_s=0, delete_untagged=True, upload_idle_s=7200)
LEVELS_MAX = 12
LONG_S = 30 * 24 * 3600

Kept = Mapping[tuple[str, str], Digest]


async def check_end(scene: Scene) -> None:
    """A new process opens the store, as after any crash. Nothing is broken; what was answered is there; a rebuilt index says
    the same; two collections leave no garbage."""
    process = scene.new_process()
    scene.processes.append(process)
    store = await process.ready()
    _must_be_empty("broken", await find_broken(store))
    await _check_kept(store.index, store, scene.oracle.kept)
    while await store.index.continue_removals(100, scene.clock.now_ms()):
        pass
    await store.parts.journal.flush()
    said = await references(store.index)
    rebuilt, problems = await _rebuilt(scene.sky.objects._objects, scene.clock, scene.schedule)
    _must_be_empty("lost by the rebuild", problems)
    found = await references(rebuilt.index)
    _must_be_empty("only in the index", sorted(said - found))
    _must_be_empty("only in the rebuilt index", sorted(found - said))
    _must_be_empty("broken after the rebuild", await find_broken(rebuilt))
    await _check_no_garbage(scene, store)
    await _check_kept(store.index, store, scene.oracle.kept)
    _must_be_empty("broken at last", await find_broken(store))
    await process.close()


async def _check_no_garbage(scene: Scene, store: Store) -> None:
    """Two collections; and one more for each level of records that only other garbage kept: those get a grace of their own."""
    levels = 0
    while True:
        scene.advance(LONG_S)
        report = await make_collector(store, LAST).run()
        if levels and not report.dropped_manifests:
            break
        levels += 1
        assert levels < LEVELS_MAX, "collections go on and on"
    _must_be_empty("garbage", await find_garbage(store))


async def check_lost_index(scene: Scene, objects: dict[str, bytes], kept: Kept) -> None:
    """All processes died at once and the index is gone: the rebuilt one has all that was answered by then."""
    rebuilt, problems = await _rebuilt(objects, scene.clock, scene.schedule)
    _must_be_empty("lost with the index", problems)
    await _check_kept(rebuilt.index, rebuilt, kept)


async def _check_kept(index: Index, store: Store, kept: Kept) -> None:
    """Each image whose push was answered, and that nobody took back, is there whole."""
    for (repository, tag), digest in kept.items():
        record = await index.resolve(RepositoryName(repository), TagName(tag))
        assert record is not None, f"{repository}:{tag} was pushed and is gone"
        assert record.key.digest == digest, f"{repository}:{tag} names {record.key.digest}, not {digest}"
        await _read_whole(store, repository, digest)


async def _read_whole(store: Store, repository: str, digest: Digest) -> None:
    try:
        manifest = await store.repository(repository).get_manifest(digest)
        for reference in manifest.references:
            if reference.kind == "manifest":
                await _read_whole(store, repository, reference.digest)
                continue
            async with store.repository(repository).open_blob(reference.digest) as blob:
                await blob.read()
    except BlobstoreError as error:
        raise AssertionError(f"{repository}@{digest} was pushed and can't be pulled: {error}") from error


async def _rebuilt(objects: dict[str, bytes], clock: Clock, schedule: Schedule) -> tuple[Store, list[str]]:
    backend, index = MemoryBackend(), MemoryIndex()
    backend._objects.update(objects)
    report, identity = await rebuild(backend, index, clock)
    await finish(backend, identity)
    store = Store(backend, index, clock=clock)
    store.parts.hash_pool._executor = InlineExecutor(schedule, Life("rebuilt"))  # type: ignore[assignment]
    await store.open()
    return store, [problem for problem in report.problems if "neither journal nor checkpoint" not in problem]


async def references(index: Index) -> set[str]:
    """What refers to what, as text."""
    found = {f"pin {digest}" for digest in await index.list_pins(None, 1000)}
    repositories: set[RepositoryName] = set()
    async for node in every(lambda after: index.scan_manifests(after, 1000)):
        repositories.add(node.record.key.repository)
        found.add(f"manifest {node.record.key} children {sorted(map(str, node.children))}")
        for child in await index.list_children(node.record.key):
            found.add(f"edge {node.record.key} {child}")
    for name in sorted(repositories):
        for entry in await index.list_tags(name, None, 1000):
            found.add(f"tag {name}:{entry.tag} {entry.digest}")
    return found


def _must_be_empty(what: str, found: list[str]) -> None:
    assert not found, f"{what}: " + "; ".join(found[:10])
