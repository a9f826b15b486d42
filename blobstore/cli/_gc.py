"""`gc`: plan, and carry out."""

# ruff: noqa: D417 - docstrings are the help of the command; `common` is told option by option, in _common.py

from __future__ import annotations

from typing import Annotated

import aiofiles
from cyclopts import Parameter

from blobstore.app import make_collector, policy_of
from blobstore.cli._common import Common
from blobstore.cli._errors import FAILED, UsageInvalid
from blobstore.cli._gc_text import find_holds, show_report
from blobstore.cli._output import Output
from blobstore.cli._progress import Reporter, reporting
from blobstore.cli._streams import STANDARD, check_path, open_output
from blobstore.gc import GcPolicy, RunReport
from blobstore.gc.plan import Plan, decode_plan, encode_plan
from blobstore.store import Store

_PLAN_SIZE_MAX_BYTES = 1 << 30

_DEFAULTS = Common()


async def gc(
    *,
    dry_run: bool = False,
    grace: str | None = None,
    quarantine: str | None = None,
    delete_untagged: Annotated[bool | None, Parameter(negative="--no-delete-untagged")] = None,
    incremental: bool = False,
    max_share: float | None = None,
    upload_idle: str | None = None,
    plan: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    common: Common = _DEFAULTS,
) -> int:
    """Find the blobs that no live manifest shares, condemn them, and free those whose quarantine is over.

    Parameters
    ----------
    dry_run
        Change nothing; name exactly what a run at this moment would condemn and free.
    grace
        How long a blob must have been unreferenced: 90s, 24h, 7d. Default 24h. 0s owes pushes under way nothing.
    quarantine
        How long condemned bytes are kept for `gc undo` and for readers under way. Default 1h.
    delete_untagged
        Manifests go too that have no tag, that no live manifest refers to and whose subject is not live.
    incremental
        Look only at what was let go since the last run.
    max_share
        Refuse to let go of more than this share of a large store's blobs. Default 0.5.
    upload_idle
        How long nothing may have arrived for an upload before its bytes go: an import that was killed leaves one. Default 24h.
    plan
        With --dry-run, write the plan to this file; without, carry out the plan in it, re-checking each line.
    """
    output = Output(common)
    given: dict[str, object] = {
        "--grace": grace,
        "--quarantine": quarantine,
        "--delete-untagged": delete_untagged,
        "--incremental": incremental or None,
        "--max-share": max_share,
        "--upload-idle": upload_idle,
    }
    is_old_plan = plan is not None and not dry_run
    _check_combination(plan, given if is_old_plan else {})
    policy = policy_of(
        common.settings().gc,
        grace=grace,
        quarantine=quarantine,
        delete_untagged=delete_untagged,
        max_share=max_share,
        upload_idle=upload_idle,
    )
    old_plan = await _read_plan(plan) if plan is not None and is_old_plan else None
    with reporting(common) as events:
        async with common.open_store(events, writes=not dry_run) as store:
            if old_plan is not None:
                # With the policy it was made with.
                report = await make_collector(store, old_plan.policy, events=events).carry_out(old_plan)
            elif dry_run:
                report = await _plan(store, policy, events, plan, is_full=not incremental)
            else:
                report = await make_collector(store, policy, events=events).run(is_full=not incremental)
            held = await find_holds(store, report) if output.is_talkative else None
    output.document(report.to_json())
    show_report(output, report, held, plan if dry_run else None)
    return FAILED if report.undeleted else 0


def _check_combination(plan: str | None, given: dict[str, object]) -> None:
    wrong = [option for option, value in given.items() if value is not None]
    if wrong:
        raise UsageInvalid(
            f"{wrong[0]} can't be combined with the plan in {plan}, which has a policy of its own; "
            "give it to `gc --dry-run --plan FILE`"
        )
    if plan is not None and check_path(plan) == STANDARD:
        raise UsageInvalid("--plan takes the name of a file")


async def _read_plan(path: str) -> Plan:
    try:
        async with aiofiles.open(path, "rb") as file:
            data = await file.read(_PLAN_SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise UsageInvalid(f"the plan {path} can't be read: {error.strerror}") from error
    if len(data) > _PLAN_SIZE_MAX_BYTES:
        raise UsageInvalid(f"the plan {path} has more than {_PLAN_SIZE_MAX_BYTES} bytes")
    return decode_plan(data)


async def _plan(store: Store, policy: GcPolicy, events: Reporter, path: str | None, *, is_full: bool) -> RunReport:
    report = await make_collector(store, policy, events=events).dry_run(is_full=is_full)
    if path is not None:
        with open_output(path, "a plan") as target:
            await target.write(encode_plan(report.plan))
    return report
