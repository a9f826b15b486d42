"""`check` and `index rebuild`: what lies on the disk against what the index says."""

# ruff: noqa: D417 - docstrings are the help of the command; `common` is told option by option, in _common.py

from __future__ import annotations

from typing import Any

from blobstore.app import rebuild_index
from blobstore.cli._common import Common
from blobstore.cli._errors import FAILED
from blobstore.cli._output import Output, counted
from blobstore.cli._owner import check_owner
from blobstore.cli._progress import reporting
from blobstore.missing import MissingReport
from blobstore.reconcile import OrphanReport, reconcile
from blobstore.scrub import ScrubReport, scrub
from blobstore.units import format_size, parse_duration_s

_DEFAULTS = Common()
_HEAL = "push it again to heal it"


async def check(*, read_data: bool = False, common: Common = _DEFAULTS) -> int:
    """Compare index and backend, both ways. What is damaged is marked, so that a push heals it; nothing is deleted.

    Parameters
    ----------
    read_data
        Read every blob and compare it with its hash.
    """
    output = Output(common)
    # The report says all that an alarm says.
    with reporting(common, shows_alarms=False) as events:
        async with common.open_store(events, writes=True) as store:
            recheck_s = store.backend.properties.recheck_s
            orphans, missing = await reconcile(
                store.index, store.backend, store.parts.clock, recheck_s=recheck_s, events=events
            )
            read = await scrub(store.parts, recheck_s=recheck_s) if read_data else None
            frozen = (await store.index.guards()).frozen
    problems = _problems(orphans, missing, read, frozen)
    output.document(_document(orphans, missing, read, frozen, is_ok=not problems))
    _show(output, orphans, missing, read, problems)
    return FAILED if problems else 0


def _problems(orphans: OrphanReport, missing: MissingReport, read: ScrubReport | None, frozen: str | None) -> list[str]:
    found = [f"the bytes of {digest} are missing; {_HEAL}" for digest in missing.missing]
    found += [f"{digest} has a wrong size; {_HEAL}" for digest in missing.wrong_size]
    found += [f"the commit record of {digest} was gone; it was put again" for digest in missing.unrecorded]
    found += [f"{digest} was found damaged by an earlier check; {_HEAL}" for digest in missing.suspect]
    found += [f"{digest} is damaged; {_HEAL}" for digest in (read.damaged if read is not None else [])]
    found += [f"{text}; `blobstore index rebuild` makes a new index" for text in missing.index_problems]
    if orphans.aliens:
        found.append(f"{counted(orphans.aliens, 'file')} written by processes this index knows nothing of")
    if frozen is not None:
        found.append(f"{frozen}; nothing is collected until `blobstore index rebuild`")
    return found


def _document(
    orphans: OrphanReport, missing: MissingReport, read: ScrubReport | None, frozen: str | None, *, is_ok: bool
) -> dict[str, Any]:
    return {
        "ok": is_ok,
        "files": {
            "listed": orphans.listed,
            "orphans": orphans.orphans,
            "orphan_bytes": orphans.orphan_bytes,
            "aliens": orphans.aliens,
            "unknown_names": orphans.unknown_names,
            "unknown_shown": orphans.unknown_shown,
        },
        "blobs": {
            "checked": missing.blobs,
            "bytes": missing.size_bytes,
            "missing": [str(digest) for digest in missing.missing],
            "wrong_size": [str(digest) for digest in missing.wrong_size],
            "suspect": [str(digest) for digest in missing.suspect],
            "unrecorded": [str(digest) for digest in missing.unrecorded],
        },
        "read": None
        if read is None
        else {"blobs": read.blobs, "bytes": read.size_bytes, "damaged": [str(digest) for digest in read.damaged]},
        "index_problems": missing.index_problems,
        "frozen": frozen,
    }


def _show(
    output: Output, orphans: OrphanReport, missing: MissingReport, read: ScrubReport | None, problems: list[str]
) -> None:
    compared = f"{counted(missing.blobs, 'blob')} ({format_size(missing.size_bytes)})"
    output.remark(f"{compared} and {counted(orphans.listed, 'file')} compared")
    if read is not None:
        output.remark(f"{counted(read.blobs, 'blob')} ({format_size(read.size_bytes)}) read")
    if orphans.orphans:
        output.remark(
            f"{counted(orphans.orphans, 'file')} ({format_size(orphans.orphan_bytes)}) that a crash left "
            "went to the trash; gc frees them"
        )
    if orphans.unknown_names:
        output.remark(f"left alone, as not of this store: {counted(orphans.unknown_names, 'file')}")
        for name in orphans.unknown_shown:
            output.remark(f"  {name!r}")
    for problem in problems:
        output.remark(f"problem: {problem}")
    output.remark("no damage found" if not problems else counted(len(problems), "problem"))


async def rebuild(*, wait: str | None = None, common: Common = _DEFAULTS) -> int:
    """Make a new index from what lies on the backend. The old one is moved aside; no other process may have the store open, on
    any host.

    Parameters
    ----------
    wait
        How long requests of a process that died may still take effect: 15m on an object store, unless you say otherwise. 0s if
        nothing was written for that long.
    """
    output = Output(common)
    settings = common.settings()
    check_owner(settings.store)
    wait_s = parse_duration_s(wait) if wait is not None else None
    with reporting(common) as events:
        report = await rebuild_index(
            settings.store, index=settings.index, config=settings.config, wait_s=wait_s, events=events
        )
    output.document(
        {
            "blobs": report.blobs,
            "bytes": report.size_bytes,
            "manifests": report.manifests,
            "tags": report.tags,
            "pins": report.pins,
            "superfluous": report.superfluous,
            "problems": report.problems,
        }
    )
    output.remark(
        f"a new index of {counted(report.blobs, 'blob')} ({format_size(report.size_bytes)}), "
        f"{counted(report.manifests, 'manifest')}, "
        f"{counted(report.tags, 'tag')}, {counted(report.pins, 'pin')}; nothing is condemned for one grace"
    )
    for problem in report.problems:
        output.remark(f"problem: {problem}")
    return FAILED if report.problems else 0
