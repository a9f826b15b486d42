"""Flows of clients: uploads, manifests, tags, mounts, deletes, reads."""

from __future__ import annotations

from blobstore.digest import Algorithm, Digest
from blobstore.errors import (
    BlobUnknown,
    ManifestUnknown,
    RepositoryUnknown,
    TagUnknown,
    UploadInterrupted,
    UploadUnknown,
)
from blobstore.testing.fakes import image, image_index
from tests.faults.flows import KEPT, KEPT_INDEX, KEPT_LAYER, Flow, add
from tests.faults.stage import BEYOND_EACH_GRACE_MS, UNTAGGED_GO, Stage
from tests.gc.scene import HOUR_MS

SMALL = b"a blob of few bytes"
LARGE = b"".join(b"%07d\n" % each for each in range(170_000))
"""More than is kept in memory before it goes to the backend."""
_PART = 1_200_000
NEW = image(b'{"new":1}', [SMALL])
_EVER_MS = 1 << 62


async def _upload_small(stage: Stage) -> None:
    await stage.bench.push_blob(SMALL)


async def _upload_large(stage: Stage) -> None:
    async with stage.store.repository("app").open_upload(Digest.of(LARGE)) as upload:
        for at in range(0, len(LARGE), 300_000):
            await upload.write(LARGE[at : at + 300_000])
        await upload.commit(Digest.of(LARGE), len(LARGE))


async def _upload_large_as_sha512(stage: Stage) -> None:
    async with stage.store.repository("app").open_upload() as upload:
        await upload.write(LARGE)
        await upload.commit(Digest.of(LARGE, Algorithm.SHA512))


async def _upload_duplicate(stage: Stage) -> None:
    await stage.bench.push_blob(LARGE, "new")


async def _park(stage: Stage) -> None:
    async with stage.store.repository("app").open_upload() as upload:
        await upload.write(LARGE[:_PART])


async def _resume(stage: Stage) -> None:
    """Goes on where the upload stands, or begins anew where it is over."""
    repository, parked = stage.store.repository("app"), await stage.store.index.list_uploads(_EVER_MS, 1)
    if parked:
        try:
            async with repository.resume_upload(str(parked[0].upload)) as upload:
                await upload.write(LARGE[upload.offset :])
                await upload.commit(Digest.of(LARGE))
        except (UploadUnknown, UploadInterrupted):
            # Its bytes were published and not committed, and nobody was told: the client starts anew.
            parked = []
    if not parked:
        await _upload_large(stage)


async def _cancel(stage: Stage) -> None:
    for intent in await stage.store.index.list_uploads(_EVER_MS, 10):
        async with stage.store.repository("app").resume_upload(str(intent.upload)) as upload:
            await upload.cancel()


async def _condemn_in_quarantine(stage: Stage) -> None:
    await _upload_large(stage)
    stage.clock.advance(BEYOND_EACH_GRACE_MS)
    await stage.bench.collector(UNTAGGED_GO).run()


async def _damage(stage: Stage) -> None:
    """The bytes of a blob that a manifest refers to are lost, and that was noticed."""
    blob = await stage.store.stat_blob(Digest.of(KEPT_LAYER))
    await stage.store.backend.delete(blob.names)
    await stage.store.index.suspect_blob(blob.digest, blob.generation)


async def _heal(stage: Stage) -> None:
    await stage.bench.push_blob(KEPT_LAYER)


async def _upload_pinned(stage: Stage) -> None:
    async with await stage.store.open_pinned_upload() as upload:
        await upload.write(SMALL)
        await upload.commit()


async def _unpin(stage: Stage) -> None:
    await stage.store.unpin(Digest.of(SMALL))


async def _upload_parts_of_new(stage: Stage) -> None:
    await stage.bench.push_blob(b'{"new":1}')
    await stage.bench.push_blob(SMALL)


async def _put_new(stage: Stage) -> None:
    await stage.bench.push(NEW, "new")


async def _put_again(stage: Stage) -> None:
    await stage.bench.push(KEPT, "again", "once-more")


async def _put_index(stage: Stage) -> None:
    await stage.bench.push(image_index([KEPT, KEPT_INDEX], subject=KEPT), "all")


async def _tag(stage: Stage) -> None:
    await stage.store.repository("app").tag("kept", "both")


async def _untag(stage: Stage) -> None:
    await stage.store.repository("app").untag("kept")


async def _mount(stage: Stage) -> None:
    await stage.store.repository("new").mount_blob(Digest.of(KEPT_LAYER), "app")


async def _age_small(stage: Stage) -> None:
    await _upload_small(stage)
    stage.clock.advance(HOUR_MS)


async def _head(stage: Stage) -> None:
    await stage.store.repository("app").stat_blob(Digest.of(SMALL))


async def _read(stage: Stage) -> None:
    async with stage.store.repository("app").open_blob(Digest.of(LARGE)) as blob:
        assert await blob.read() == LARGE, "a read returned other bytes"
    assert (await stage.store.repository("app").get_manifest("kept")).digest == KEPT.digest


async def _delete_blob(stage: Stage) -> None:
    await stage.store.repository("app").delete_blob(Digest.of(SMALL))


async def _delete_manifest(stage: Stage) -> None:
    await stage.store.repository("app").delete_manifest(KEPT.digest)


async def _remove_repository(stage: Stage) -> None:
    await stage.store.repository("app").remove()


for _flow in (
    Flow("upload-small", _upload_small),
    Flow("upload-large", _upload_large),
    Flow("upload-sha512", _upload_large_as_sha512),
    Flow("upload-duplicate", _upload_duplicate, _upload_large),
    Flow("upload-revives", _upload_large, _condemn_in_quarantine),
    Flow("upload-heals", _heal, _damage),
    Flow("upload-parked", _park),
    Flow("upload-resumed", _resume, _park),
    Flow("upload-cancelled", _cancel, _park, already=(UploadUnknown,)),
    Flow("pin", _upload_pinned),
    Flow("unpin", _unpin, _upload_pinned, already=(BlobUnknown,)),
    Flow("manifest-put", _put_new, _upload_parts_of_new),
    Flow("manifest-put-again", _put_again),
    Flow("manifest-put-index", _put_index),
    Flow("tag", _tag),
    Flow("mount", _mount),
    Flow("head", _head, _age_small),
    Flow("read", _read, _upload_large),
    Flow("delete-blob", _delete_blob, _upload_small, already=(BlobUnknown,)),
    Flow("delete-manifest", _delete_manifest, already=(ManifestUnknown,)),
    Flow("delete-tag", _untag, already=(TagUnknown,)),
    Flow(
        "remove-repository",
        _remove_repository,
        already=(RepositoryUnknown,),
        is_one_step=False,
        is_finished_by_a_collection=True,
    ),
):
    add(_flow)
