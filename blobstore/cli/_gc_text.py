"""What a collection reports to a person."""

from __future__ import annotations

from typing import Any

import msgspec

from blobstore.abc.records import BlobState
from blobstore.cli._output import Output, counted
from blobstore.clock import iso_utc
from blobstore.gc import RunReport
from blobstore.promises import PINNED_MS
from blobstore.store import Store
from blobstore.units import format_duration, format_size

LINES_SHOWN_MAX = 20
_HELD_LOOKED_AT_MAX = 100_000
_SLICE = 10_000
_KINDS = ("total", "live", "held", "candidates", "waiting", "condemned", "freed")


class Held(msgspec.Struct):
    """What promises keep, of the blobs without a reference."""

    blobs: int = 0
    size_bytes: int = 0
    pins: int = 0
    first_ms: int = 0
    last_ms: int = 0


async def find_holds(store: Store, report: RunReport) -> Held | None:
    """Until when unreferenced blobs are held, if that is why a collection frees nothing; None if it isn't."""
    document = report.to_json()
    if report.freed_blobs or report.condemned_blobs or not document["blobs"]["held"]:
        return None
    held, terms, after, looked_at = Held(), report.plan.policy.terms, None, 0
    while looked_at < _HELD_LOOKED_AT_MAX:
        page = await store.index.scan_unreferenced(after, _SLICE, frozenset(), frozenset())
        digests = [each.digest for each in page.items if each.state is BlobState.PRESENT]
        for standing in await store.index.standings(digests, report.plan.now_ms, terms) if digests else ():
            _add(held, standing.size_bytes, standing.held_until_ms)
        looked_at += len(digests)
        after = page.next
        if after is None:
            break
    return held


def _add(held: Held, size_bytes: int, until_ms: int) -> None:
    if until_ms >= PINNED_MS:
        held.pins += 1
        return
    held.blobs += 1
    held.size_bytes += size_bytes
    held.first_ms = min(held.first_ms or until_ms, until_ms)
    held.last_ms = max(held.last_ms, until_ms)


def show_report(output: Output, report: RunReport, held: Held | None, plan_file: str | None) -> None:
    """The report of a run or a dry run, in lines."""
    if not output.is_talkative:
        return
    document = report.to_json()
    output.table(
        ("", ">BLOBS", ">BYTES"),
        [(_label(kind, report), str(document["blobs"][kind]), format_size(document["bytes"][kind])) for kind in _KINDS],
    )
    _show_list(output, "manifests to drop" if report.dry_run else "manifests dropped", _drops(document))
    _show_list(output, "candidates", _candidates(document))
    _show_list(
        output, "quarantine over", [f"{each['digest']}  {format_size(each['size'])}" for each in document["due"]]
    )
    _show_list(
        output,
        "abandoned uploads",
        [f"{each['upload']}  {format_size(each['size'])}" for each in document["abandoned_uploads"]],
    )
    for line in _remarks(report, document, held, plan_file):
        output.remark(line)


def _label(kind: str, report: RunReport) -> str:
    if report.dry_run and kind in ("condemned", "freed"):
        return f"would be {kind}"
    return "in quarantine before" if kind == "waiting" else kind


def _drops(document: dict[str, Any]) -> list[str]:
    return [f"{each['repository']}@{each['digest']}  {each['reason']}" for each in document["drops"]]


def _candidates(document: dict[str, Any]) -> list[str]:
    found = []
    for each in document["candidates"]:
        last = f"  last of {each['last_referrer']}" if each["last_referrer"] else ""
        found.append(f"{each['digest']}  {format_size(each['size'])}  {each['reason']}{last}")
    return found


def _show_list(output: Output, title: str, lines: list[str]) -> None:
    if not lines:
        return
    output.remark(f"\n{title}:")
    for line in lines[:LINES_SHOWN_MAX]:
        output.remark(f"  {line}")
    if len(lines) > LINES_SHOWN_MAX:
        output.remark(f"  … and {len(lines) - LINES_SHOWN_MAX} more; --json lists all")


def _remarks(report: RunReport, document: dict[str, Any], held: Held | None, plan_file: str | None) -> list[str]:
    lines = [""]
    plan, policy = report.plan, report.plan.policy
    if plan.later.blobs:
        lines.append(
            f"{counted(plan.later.blobs, 'blob')} ({format_size(plan.later.size_bytes)}) more go "
            f"{format_duration(policy.grace_s)} after the drops"
        )
    lines += _untagged(report, document["manifests"])
    if held is not None:
        lines += _held(held)
    if report.undeleted:
        lines.append(
            f"{counted(report.undeleted, 'entry')} of the trash could not be deleted; the next run tries again"
        )
    if report.orphans:
        lines.append(f"{counted(report.orphans, 'file')} that a crash left went to the trash")
    if report.dry_run:
        if report.refusal is not None:
            lines.append(f"a run would be refused: {report.refusal}")
        lines.append("dry run: nothing was changed")
        if plan_file is not None:
            lines.append(f"the plan is in {plan_file}; `blobstore gc --plan {plan_file}` carries it out")
    else:
        lines.append(f"run {plan.run}: {_done(report)}")
        is_kept = policy.quarantine_ms > 0
        if (report.condemned_blobs and is_kept) or (report.dropped_manifests and (is_kept or policy.grace_s > 0)):
            lines.append(f"`blobstore gc undo {plan.run}` brings back what is in quarantine and what was dropped")
    return lines if len(lines) > 1 else []


def _done(report: RunReport) -> str:
    done = f"freed {counted(report.freed_blobs, 'blob')} ({format_size(report.freed_bytes)})"
    waiting = report.condemned_blobs
    if waiting and report.plan.policy.quarantine_ms:
        wait = format_duration(report.plan.policy.quarantine_s)
        return f"{done}; {counted(waiting, 'blob')} condemned, freed by a run after a quarantine of {wait}"
    return done


def _untagged(report: RunReport, manifests: dict[str, Any]) -> list[str]:
    lines = []
    count, size = manifests["untagged_kept"], manifests["untagged_kept_bytes"]
    if count:
        what = f"{counted(count, 'untagged manifest')} {'keeps' if count == 1 else 'keep'}"
        kept = "bytes" if size is None else format_size(size)
        lines.append(f"{what} {kept}; --delete-untagged lets go of that")
    young = report.plan.totals.loose_manifests - count - manifests["drops"]
    if young > 0 and report.plan.is_full:
        what = f"{counted(young, 'untagged manifest')} {'is' if young == 1 else 'are'}"
        lines.append(f"{what} younger than the grace of {format_duration(report.plan.policy.grace_s)}")
    return lines


def _held(held: Held) -> list[str]:
    lines = []
    if held.blobs:
        until = f"until {iso_utc(held.last_ms)}"
        if held.first_ms // 1000 != held.last_ms // 1000:
            until += f", the first until {iso_utc(held.first_ms)}"
        is_are = "is" if held.blobs == 1 else "are"
        lines.append(f"{counted(held.blobs, 'blob')} ({format_size(held.size_bytes)}) {is_are} held {until}")
    if held.pins:
        lines.append(f"{counted(held.pins, 'blob')} {'is' if held.pins == 1 else 'are'} pinned; `unpin` lets go")
    return lines
