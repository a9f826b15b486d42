"""What the models found in the engine, each as a test of the engine itself."""

from __future__ import annotations

from blobstore.abc.records import CommitOutcome, Content
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.gc import GcPolicy
from blobstore.index.memory import MemoryIndex
from blobstore.layout import blob_key
from blobstore.names import RepositoryName, UploadId
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from blobstore.testing.invariants import find_garbage
from tests.gc.scene import HOUR_MS, Bench


async def test_bytes_published_while_their_upload_is_cleaned_away_are_found() -> None:
    """collector.pml, NO_RECONCILE without any crash: an upload expires; between the delete of its names and the end of its trash
    row its process, alive after all, publishes, and its commit is fenced. The row goes, and knows of nothing new."""
    clock, index, backend = FakeClock(), MemoryIndex(), MemoryBackend()
    store = Store(backend, index, clock=clock)
    await store.open(create=True)
    content = Content(Digest.of(b"data"), 4)
    upload = UploadId.random()
    # Its digest is announced, so that the trash row has the name of the blob from the start.
    intent = await index.start_upload(upload, RepositoryName("app"), content.digest, clock.now_ms(), "")
    clock.advance(25 * HOUR_MS)
    trash = await index.expire_upload(upload, clock.now_ms(), clock.now_ms())
    assert trash is not None
    # The listing of that run sees nothing yet.
    await index.note_orphan_scan(is_due=False, token=(await index.guards()).orphan_scan_token)
    await backend.delete(list(trash.names))
    key = blob_key(content.digest, intent.generation)
    assert await backend.put_new(key, b"data")
    committed = await index.commit_blob(intent, content, [key], clock.now_ms())
    assert committed.outcome is CommitOutcome.INTERRUPTED
    assert [each.generation for each in await index.forget_trash([trash])] == [intent.generation]
    bench = Bench(store, clock)
    for _ in range(2):
        clock.advance(25 * HOUR_MS)
        await bench.collector(GcPolicy()).run()
    assert await find_garbage(store) == []
    await store.aclose()
