"""`gc explain`, `gc undo`, `gc runs`."""

# ruff: noqa: D417 - docstrings are the help of the command; `common` is told option by option, in _common.py

from __future__ import annotations

from typing import Any

from blobstore.app import make_collector, policy_of
from blobstore.cli._common import Common
from blobstore.cli._errors import FAILED, UsageInvalid
from blobstore.cli._output import Output, counted
from blobstore.cli._progress import reporting
from blobstore.clock import iso_utc
from blobstore.digest import Digest
from blobstore.gc.explain import Explanation
from blobstore.gc.explain import explain as explain_blob
from blobstore.gc.report import run_document
from blobstore.units import format_size

_DEFAULTS = Common()
_RUNS_MAX = 1000


async def explain(digest: str, /, *, grace: str | None = None, common: Common = _DEFAULTS) -> None:
    """Say what keeps a blob alive, or why it may go and when.

    Parameters
    ----------
    digest
        The blob; a manifest is one too.
    grace
        The grace that promises are counted with, as `gc` takes it.
    """
    output = Output(common)
    wanted = Digest.parse(digest)
    policy = policy_of(common.settings().gc, grace=grace)
    with reporting(common) as events:
        async with common.open_store(events) as store:
            found = await explain_blob(store.index, wanted, policy, store.parts.clock.now_ms())
    output.document(found.to_json())
    output.answer(f"{found.blob.digest}  {format_size(found.blob.size_bytes)}  {found.blob.state.value}")
    output.answer(found.verdict)
    for line in _details(found):
        output.answer(f"  {line}")


def _details(found: Explanation) -> list[str]:
    lines = []
    for keeper in found.keepers:
        tags = ", ".join(f"{keeper.path[0].repository}:{tag}" for tag in keeper.tags) or keeper.root
        lines.append(f"manifest {' -> '.join(str(key) for key in keeper.path)}  ({tags})")
    if found.has_more_keepers:
        lines.append("… and more manifests")
    for shown in found.holds if found.trash is None else ():
        if shown.is_pin:
            lines.append("pinned")
            continue
        end = (
            "let go"
            if shown.is_timeless
            else f"{'lapsed' if shown.is_lapsed else 'until'} {iso_utc(shown.lapses_at_ms)}"
        )
        last = f", last of {shown.hold.last_referrer}" if shown.hold.last_referrer else ""
        lines.append(f"held for {shown.hold.repository or 'no repository in particular'}: {end}{last}")
    return lines


async def undo(run: str, /, *, common: Common = _DEFAULTS) -> int:
    """Bring back what a run condemned and is still in quarantine, and the manifests it dropped. Tags are not lost by a run.

    Parameters
    ----------
    run
        The run, as `gc` printed it and `gc runs` lists it.
    """
    output = Output(common)
    policy = policy_of(common.settings().gc)
    with reporting(common) as events:
        async with common.open_store(events, writes=True) as store:
            report = await make_collector(store, policy, events=events).undo(run)
    output.document(report.to_json())
    output.remark(f"brought back: {counted(len(report.blobs), 'blob')}, {counted(len(report.manifests), 'manifest')}")
    for digest in report.too_late:
        output.remark(f"too late for {digest}: it was freed")
    for key in report.manifests_lost:
        output.remark(f"too late for the manifest {key}: something it needs was freed")
    if not (report.blobs or report.manifests or report.too_late or report.manifests_lost):
        output.remark(f"of what run {run} let go nothing is in quarantine: it is back already, or was freed")
        return FAILED
    return FAILED if report.too_late or report.manifests_lost else 0


async def runs(*, limit: int = 20, common: Common = _DEFAULTS) -> None:
    """List past runs, newest first.

    Parameters
    ----------
    limit
        How many at most.
    """
    output = Output(common)
    if not 1 <= limit <= _RUNS_MAX:
        raise UsageInvalid(f"--limit must be between 1 and {_RUNS_MAX}, not {limit}")
    with reporting(common) as events:
        async with common.open_store(events) as store:
            records = await store.index.list_runs(limit)
    documents: list[dict[str, Any]] = [run_document(record) for record in records]
    output.document({"runs": documents})
    if documents:
        output.table(
            ("RUN", "STARTED", "KIND", ">DROPPED", ">CONDEMNED", ">FREED", ">FREED BYTES", ">SECONDS"),
            map(_row, documents),
        )
    else:
        output.remark("no runs yet")


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    return (
        run["run"],
        run["started_at"],
        "full" if run["full"] else "incremental",
        str(run["drops"]),
        str(run["blobs"]["condemned"]),
        str(run["blobs"]["freed"]),
        format_size(run["bytes"]["freed"]),
        f"{sum(run['seconds'].values()):.1f}",
    )
