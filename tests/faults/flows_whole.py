"""Flows of whoever runs a store: making and opening one, collections, rebuild, import."""

from __future__ import annotations

import os

from blobstore.abc.records import Blob
from blobstore.app import rebuild_index
from blobstore.digest import Digest
from blobstore.importers import import_image
from blobstore.layout import blob_key
from tests.faults.flows import KEPT, Flow, add
from tests.faults.flows_push import LARGE, SMALL
from tests.faults.stage import BEYOND_EACH_GRACE_MS, UNTAGGED_GO, Stage
from tests.gc.scene import AT_ONCE, HOUR_MS
from tests.importers.making import OCI_LAYER, LayoutMaker


async def _create(stage: Stage) -> None:
    await stage.open(create=True)


async def _open(stage: Stage) -> None:
    await stage.open()
    assert (await stage.store.repository("app").get_manifest("kept")).digest == KEPT.digest


async def _let_go(stage: Stage) -> None:
    """An image without a tag and a blob of no manifest, beyond their grace."""
    await stage.bench.push_image(b'{"doomed":1}', [SMALL])
    await stage.bench.push_blob(LARGE)
    stage.clock.advance(BEYOND_EACH_GRACE_MS)


async def _litter(stage: Stage) -> None:
    """The same, and an upload that was left."""
    await _let_go(stage)
    async with stage.store.repository("app").open_upload() as upload:
        await upload.write(LARGE[:1_200_000])
    stage.clock.advance(BEYOND_EACH_GRACE_MS)


async def _orphan(stage: Stage) -> None:
    """What a process leaves that died with its bytes published and not committed."""
    await _litter(stage)
    generation = (await stage.store.index.list_uploads(1 << 62, 1))[0].generation
    await stage.store.backend.put_new(blob_key(Digest.of(b"lost"), generation), b"lost")
    await stage.store.index.note_orphan_scan(is_due=True)


async def _collect(stage: Stage) -> None:
    await stage.bench.collector(UNTAGGED_GO).run()


async def _collect_at_once(stage: Stage) -> None:
    await stage.bench.collector(AT_ONCE).run()


async def _collect_incrementally(stage: Stage) -> None:
    await stage.bench.collector(AT_ONCE).run(is_full=False)


async def _quarantine(stage: Stage) -> None:
    await _let_go(stage)
    await _collect(stage)
    stage.clock.advance(BEYOND_EACH_GRACE_MS)
    await _collect(stage)


async def _quarantine_until_due(stage: Stage) -> None:
    await _quarantine(stage)
    stage.clock.advance(2 * HOUR_MS)


async def _undo(stage: Stage) -> None:
    for record in await stage.store.index.list_runs(10):
        await stage.bench.collector(UNTAGGED_GO).undo(record.run)


async def _checkpoint(stage: Stage) -> None:
    await stage.store.checkpoint()


async def _rebuild(stage: Stage) -> None:
    report = await rebuild_index(str(stage.place), clock=stage.clock)
    assert report.problems == [], "a rebuild says that something was lost"


async def _copies(stage: Stage) -> None:
    """A checkpoint, changes behind it, an upload under way, and two copies of a blob: a rebuild has to choose."""
    await stage.store.checkpoint()
    await _litter(stage)
    blob: Blob = await stage.store.stat_blob(Digest.of(LARGE))
    generation = (await stage.store.index.list_uploads(1 << 62, 1))[0].generation
    await stage.store.backend.put_new(blob_key(blob.digest, generation), LARGE)
    await stage.bench.push_blob(b"pinned soon")
    await stage.store.repository("app").tag("kept", "pinned")


def _layout() -> LayoutMaker:
    making = LayoutMaker()
    images = [
        making.image(making.blob(SMALL, OCI_LAYER), making.blob(LARGE, OCI_LAYER), config=b'{"each":%d}' % each)
        for each in range(2)
    ]
    making.enter(making.image_index(*images), "imported")
    return making


async def _make_layout(stage: Stage) -> None:
    stage.source.mkdir()
    _layout().write_directory(stage.source / "image")


async def _make_archive(stage: Stage) -> None:
    stage.source.mkdir()
    _layout().write_tar(stage.source / "image")


async def _import(stage: Stage) -> None:
    await import_image(stage.store, os.fspath(stage.source / "image"), "new")


for _flow in (
    Flow("create", _create, creates=True, opens=True),
    Flow("open", _open, opens=True),
    Flow("condemn", _collect, _let_go, is_one_step=False),
    Flow("retire", _collect, _quarantine_until_due, is_one_step=False),
    Flow("undo", _undo, _quarantine, is_one_step=False),
    Flow("collect", _collect_at_once, _orphan, is_one_step=False),
    Flow("collect-incrementally", _collect_incrementally, _litter, is_one_step=False),
    Flow("checkpoint", _checkpoint),
    Flow("rebuild", _rebuild, _copies, opens=True, is_one_step=False),
    Flow("import-layout", _import, _make_layout, is_one_step=False),
    Flow("import-archive", _import, _make_archive, is_one_step=False),
):
    add(_flow)
