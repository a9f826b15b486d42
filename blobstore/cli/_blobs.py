"""`put`, `get`, `stat`, `unpin`: single blobs."""

# ruff: noqa: D417 - docstrings are the help of the command; `common` is told option by option, in _common.py

from __future__ import annotations

import os
from typing import Annotated, Any

from cyclopts import Parameter

from blobstore.abc.records import Hold
from blobstore.app import policy_of
from blobstore.cli._common import Common
from blobstore.cli._output import Output
from blobstore.cli._progress import Reporter, reporting
from blobstore.cli._streams import check_path, open_input, open_output, read_chunks
from blobstore.clock import iso_utc
from blobstore.digest import Digest
from blobstore.events import BlobPushed, Event, Progress
from blobstore.names import RepositoryName
from blobstore.promises import PINNED_MS, HoldTerms
from blobstore.store import Store
from blobstore.units import format_size
from blobstore.uploads import Upload

_DEFAULTS = Common()
_PARENTS_COUNTED_MAX = 10_000
_Path = Annotated[str, Parameter(name="FILE", allow_leading_hyphen=True)]
_OutputPath = Annotated[str | None, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)]


async def put(file: _Path, /, *, repository: str | None = None, common: Common = _DEFAULTS) -> None:
    """Store a blob and print its digest. Without a repository it is pinned until `unpin`.

    Parameters
    ----------
    file
        The file, or - for standard input.
    repository
        The repository that is promised the blob.
    """
    output = Output(common)
    name = RepositoryName.parse(repository) if repository is not None else None
    # The file first: without it no store is to be made.
    with open_input(check_path(file)) as descriptor, reporting(common) as events:
        pushed = _Pushed(events)
        async with common.open_store(pushed, create=True) as store:
            if name is None:
                async with await store.open_pinned_upload() as upload:
                    await _copy(upload, descriptor, events)
            else:
                async with store.repository(name).open_upload() as upload:
                    await _copy(upload, descriptor, events)
    event = pushed.event
    assert event is not None, "a commit tells its event"
    output.document(
        {
            "digest": str(event.digest),
            "size": event.size_bytes,
            "repository": name,
            "pinned": name is None,
            "was_present": event.was_present,
        }
    )
    output.answer(str(event.digest))


class _Pushed:
    """Passes events on, and remembers the commit."""

    def __init__(self, events: Reporter) -> None:
        self._events = events
        self.event: BlobPushed | None = None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, BlobPushed):
            self.event = event
        self._events(event)


async def _copy(upload: Upload, descriptor: int, events: Reporter) -> None:
    total = os.fstat(descriptor).st_size
    try:
        async for chunk in read_chunks(descriptor):
            await upload.write(chunk)
            events(Progress("put", upload.offset, total if total >= upload.offset else 0))
        await upload.commit()
    except BaseException:
        # Nobody has the upload's id, so nobody could go on with it.
        await upload.cancel()
        raise


async def get(digest: str, /, *, output: _OutputPath = None, common: Common = _DEFAULTS) -> None:
    """Read a blob, verified, to standard output or a file.

    Parameters
    ----------
    digest
        The blob.
    output
        The file; it gets its name only when all of the blob is there and right.
    """
    wanted = Digest.parse(digest)
    path = check_path(output) if output is not None else None
    with reporting(common) as events:
        async with common.open_store(events) as store, store.open_blob(wanted) as blob:
            with open_output(path, "a blob") as target:
                done = 0
                async for chunk in blob:
                    await target.write(chunk)
                    done += len(chunk)
                    events(Progress("get", done, blob.size_bytes))


async def stat(digest: str, /, *, common: Common = _DEFAULTS) -> None:
    """Show what is known of a blob; promises nothing.

    Parameters
    ----------
    digest
        The blob, by a digest of any algorithm it is known under.
    """
    output = Output(common)
    wanted = Digest.parse(digest)
    terms = policy_of(common.settings().gc).terms
    with reporting(common) as events:
        async with common.open_store(events) as store:
            document = await _describe(store, wanted, terms)
    output.document(document)
    for key in ("digest", "state", "blake3"):
        output.answer(f"{key + ':':14}{document[key] or '-'}")
    output.answer(f"{'size:':14}{format_size(document['size'])} ({document['size']} bytes)")
    output.answer(f"{'repositories:':14}{', '.join(document['repositories']) or '-'}")
    output.answer(f"{'manifests:':14}{document['manifests']}")
    for hold in document["holds"]:
        output.answer(f"{'held for:':14}{_sentence(hold)}")


async def _describe(store: Store, digest: Digest, terms: HoldTerms) -> dict[str, Any]:
    blob = await store.stat_blob(digest)
    parents = await store.index.list_parents(blob.digest, _PARENTS_COUNTED_MAX)
    holds = await store.index.list_holds(blob.digest)
    repositories = {parent.repository for parent in parents}
    repositories |= {hold.repository for hold in holds if hold.repository is not None}
    return {
        "digest": str(blob.digest),
        "size": blob.size_bytes,
        "state": blob.state.value,
        "blake3": blob.blake3.hex() if blob.blake3 is not None else None,
        "aliases": [str(alias) for alias in await store.index.list_aliases(blob.digest)],
        "repositories": sorted(repositories),
        "manifests": len(parents),
        "holds": [_hold(hold, terms, store.parts.clock.now_ms()) for hold in holds],
    }


def _hold(hold: Hold, terms: HoldTerms, now_ms: int) -> dict[str, Any]:
    is_pin = hold.renewed_at_ms >= PINNED_MS
    lapses_at_ms = terms.lapses_at_ms(hold.renewed_at_ms, hold.activity)
    return {
        "repository": hold.repository,
        "pin": is_pin,
        "lapses_at": None if is_pin else iso_utc(lapses_at_ms),
        "lapsed": not is_pin and now_ms >= lapses_at_ms,
    }


def _sentence(hold: dict[str, Any]) -> str:
    if hold["pin"]:
        return "a pin, until `unpin`"
    end = f"{'lapsed' if hold['lapsed'] else 'until'} {hold['lapses_at']}" if hold["lapses_at"] else "let go"
    return f"{hold['repository'] or 'no repository in particular'}, {end}"


async def unpin(digest: str, /, *, common: Common = _DEFAULTS) -> None:
    """Let go of a blob that was put without a repository; gc frees it if nothing else keeps it.

    Parameters
    ----------
    digest
        The blob.
    """
    output = Output(common)
    wanted = Digest.parse(digest)
    with reporting(common) as events:
        async with common.open_store(events, writes=True) as store:
            await store.unpin(wanted)
    output.document({"digest": str(wanted), "pinned": False})
    output.remark(f"unpinned {wanted}")
