"""The journal: on the backend before anyone is told, and enough to rebuild from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import blobstore
from blobstore import journal as journal_module
from blobstore.abc.backend import put_once
from blobstore.abc.records import ManifestKey
from blobstore.app import make_collector
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.errors import FormatUnsupported, StorageFailed
from blobstore.gc import GcPolicy
from blobstore.index.memory import MemoryIndex
from blobstore.journal import Journal, list_journal, recover
from blobstore.names import RepositoryName, TagName
from blobstore.references import RowEncoder
from blobstore.store import Store
from blobstore.testing.fakes import image
from blobstore.testing.object_client import FakeObjectClient
from tests.store.pushing import push_blob


async def tag_often(store: Store, times: int) -> None:
    await push_blob(store, b"config")
    await store.repository("app").put_manifest(image(b"config", []).body, tag="t")
    for number in range(times):
        await store.repository("app").tag("t", f"t{number}")


async def test_an_answer_waits_for_the_journal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the journal can't be written the push is not answered; the next one carries its rows too."""
    await push_blob(store, b"config")

    async def fail(key: str, data: bytes) -> bool:
        raise StorageFailed("no journal today")

    body = image(b"config", []).body
    with monkeypatch.context() as patched:
        put_new = store.backend.put_new
        patched.setattr(store.backend, "put_new", lambda key, data: (fail if "journal" in key else put_new)(key, data))
        with pytest.raises(StorageFailed):
            await store.repository("app").put_manifest(body, tag="one")
    await store.repository("app").put_manifest(body, tag="two")
    references = (await recover(store.backend)).references
    assert set(references.repositories["app"].tags) == {"one", "two"}


async def test_what_came_twice_is_there(tmp_path: Path) -> None:
    """A proxy in front of the storage sends again what was not answered in time, and passes on that it is there already. Names of
    journal, manifests and checkpoints are drawn by one process alone: so it is its own."""

    class SentTwice(FakeObjectClient):
        is_sent_twice = False

        async def put(self, key: str, data: bytes | bytearray, *, is_new: bool, sha256: bytes | None = None) -> bool:
            done = await super().put(key, data, is_new=is_new, sha256=sha256)
            return done if not self.is_sent_twice else await super().put(key, data, is_new=is_new, sha256=sha256)

    client = SentTwice()
    backend = ObjectStoreBackend(client, prefix="s/", spool_directory=str(tmp_path / "spool"))
    store = Store(backend, MemoryIndex())
    await store.open(create=True)
    async with store:
        await push_blob(store, b"config")
        client.is_sent_twice = True
        digest = (await store.repository("app").put_manifest(image(b"config", []).body, tag="t")).digest
        await store.checkpoint()
        await store.repository("app").tag("t", "after")
        recovered = await recover(backend)
        assert {tag: each.digest for tag, each in recovered.references.repositories["app"].tags.items()} == {
            "t": digest,
            "after": digest,
        }
        assert (await store.repository("app").get_manifest("t")).digest == digest
    for key in [key for key in client.objects if "journal" in key]:
        client.objects[key] = b"another's"
    with pytest.raises(StorageFailed, match="other bytes"):
        await put_once(backend, key.removeprefix("s/"), b"ours")


async def test_many_changes_at_once_share_their_objects(store: Store) -> None:
    """Group commit reaches the backend."""
    await tag_often(store, 1)
    before = len([name async for name in list_journal(store.backend)])
    await asyncio.gather(*(store.repository("app").tag("t", f"x{number}") for number in range(100)))
    assert len([name async for name in list_journal(store.backend)]) - before < 30
    assert len((await recover(store.backend)).references.repositories["app"].tags) == 102


async def test_checkpoints_let_the_journal_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are kept, and what lies behind the older one; replaying gives the same either way."""
    monkeypatch.setattr(journal_module, "CHECKPOINT_EVERY_OBJECTS", 5)
    await tag_often(store, 30)
    await store.parts.journal.aclose()
    checkpoints = [info.key async for info in store.backend.list("checkpoint/")]
    assert len(checkpoints) == 2
    assert len([name async for name in list_journal(store.backend)]) < 15
    recovered = await recover(store.backend)
    assert len(recovered.references.repositories["app"].tags) == 31
    newest = Path(store.backend.location, max(checkpoints))
    newest.write_bytes(newest.read_bytes()[:-1])
    again = await recover(store.backend)
    assert len(again.references.repositories["app"].tags) == 31
    assert len(again.problems) == 1


async def test_a_checkpoint_comes_after_the_journal_of_all_that_it_saw(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push moves a tag while its checkpoint is scanned, and its process dies before it journals that. Should the index be lost
    now, the tag that was answered before must lead somewhere."""
    await tag_often(store, 0)
    later, list_repositories = image(b"config", [b"config"]), store.index.list_repositories

    async def die(_sequence: int) -> None:
        raise KeyboardInterrupt

    async def list_behind_a_push(*given: Any) -> Sequence[RepositoryName]:
        monkeypatch.undo()
        with monkeypatch.context() as patched:
            patched.setattr(store.parts.journal, "settle", die)
            with pytest.raises(KeyboardInterrupt):
                await store.repository("app").put_manifest(later.body, tag="t")
        return await list_repositories(*given)

    monkeypatch.setattr(store.index, "list_repositories", list_behind_a_push)
    await Journal(store.index, store.backend, store.parts.clock).checkpoint()
    found = (await recover(store.backend)).references.repositories["app"]
    assert found.tags["t"].digest == later.digest
    assert later.digest in found.manifests


async def test_a_collection_writes_the_checkpoint_that_short_processes_never_reach(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process alone writes too few objects to care."""
    monkeypatch.setattr(journal_module, "CHECKPOINT_EVERY_OBJECTS", 3)
    for number in range(4):
        async with blobstore.open(place, create=True) as store:
            await tag_often(store, 2 + number)
    async with blobstore.open(place) as store:
        await make_collector(store, GcPolicy()).run()
        assert [info async for info in store.backend.list("checkpoint/")] != []


async def test_rows_of_a_dead_process_are_carried_by_the_next(place: str) -> None:
    """Committed, never answered, not lost."""
    async with blobstore.open(place, create=True) as store:
        await tag_often(store, 1)
        digest = (await store.repository("app").find_manifest("t")).key.digest
        await store.index.put_tag(ManifestKey(RepositoryName("app"), digest), TagName("orphaned"), 1)
    async with blobstore.open(place) as store:
        await store.repository("app").untag("t0")
        assert "orphaned" in (await recover(store.backend)).references.repositories["app"].tags


async def test_a_gap_ends_the_replay_and_is_told(store: Store) -> None:
    """What follows a missing object can't be trusted."""
    await tag_often(store, 10)
    names = [name async for name in list_journal(store.backend)]
    await store.backend.delete([names[5].key])
    recovered = await recover(store.backend)
    assert recovered.sequence == names[5].first - 1
    assert "gap" in recovered.problems[0]


async def test_a_change_of_a_later_version_is_refused(store: Store) -> None:
    """Better no rebuild than one that leaves out what it doesn't understand."""
    await tag_often(store, 1)
    name = [name async for name in list_journal(store.backend)][-1]
    encoder = RowEncoder()
    pieces = [
        encoder.header("journal", name.last + 1, name.last + 1),
        encoder.row([name.last + 1, [["teleport", "app"]]]),
        encoder.end(),
    ]
    await store.backend.put_new(f"journal/{name.last + 1:020d}-{name.last + 1:020d}.{'0' * 32}", b"".join(pieces))
    with pytest.raises(FormatUnsupported, match="teleport"):
        await recover(store.backend)
