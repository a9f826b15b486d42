"""What a run, or a dry run, says it does: the shape that `--json` prints (docs/cli.md, gc)."""

from __future__ import annotations

from typing import Any

import msgspec

from blobstore.abc.records import ManifestKey, RunRecord
from blobstore.clock import iso_utc
from blobstore.digest import Digest
from blobstore.gc.plan import Plan


class RunReport(msgspec.Struct):
    """A plan and what became of it."""

    plan: Plan
    dry_run: bool
    condemned_blobs: int = 0
    condemned_bytes: int = 0
    freed_blobs: int = 0
    freed_bytes: int = 0
    dropped_manifests: int = 0
    expired_uploads: int = 0
    orphans: int = 0
    undeleted: int = 0
    """Trash whose bytes the backend would not delete."""
    finished_at_ms: int = 0
    refusal: str | None = None
    """Of a dry run: why the run would be refused as things stand."""

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON document."""
        plan = self.plan
        return {
            "run": plan.run,
            "dry_run": self.dry_run,
            "full": plan.is_full,
            "started_at": iso_utc(plan.now_ms),
            "refusal": self.refusal,
            "policy": {
                "grace_s": float(plan.policy.grace_s),
                "quarantine_s": float(plan.policy.quarantine_s),
                "delete_untagged": plan.policy.delete_untagged,
            },
            "blobs": self._counts(is_bytes=False),
            "bytes": self._counts(is_bytes=True),
            "manifests": {
                "total": plan.totals.manifests,
                "live": plan.totals.manifests - len(plan.drops),
                "drops": len(plan.drops),
                "untagged_kept": plan.untagged_kept,
                "untagged_kept_bytes": plan.untagged_kept_bytes,
            },
            "drops": [
                {"repository": drop.key.repository, "digest": str(drop.key.digest), "reason": drop.reason}
                for drop in plan.drops
            ],
            "candidates": [
                {
                    "digest": str(candidate.digest),
                    "size": candidate.size_bytes,
                    "reason": candidate.reason,
                    "held_until": iso_utc(candidate.held_until_ms) if candidate.held_until_ms else None,
                    "last_referrer": str(candidate.last_referrer) if candidate.last_referrer else None,
                }
                for candidate in plan.candidates
            ],
            "due": [{"digest": str(due.digest), "size": due.size_bytes} for due in plan.due if due.digest is not None],
            "later": {"blobs": plan.later.blobs, "bytes": plan.later.size_bytes},
            "abandoned_uploads": [{"upload": upload.upload, "size": upload.size_bytes} for upload in plan.abandoned],
            "orphans": self.orphans,
            "expired_uploads": self.expired_uploads,
            "undeleted": self.undeleted,
            "seconds": {name: round(seconds, 4) for name, seconds in msgspec.structs.asdict(plan.seconds).items()},
        }

    def _counts(self, *, is_bytes: bool) -> dict[str, int]:
        totals, plan = self.plan.totals, self.plan

        def of(kind: str) -> int:
            return int(getattr(totals, f"{kind}_{'bytes' if is_bytes else 'blobs'}"))

        total = of("present") + of("condemned") + of("suspect")
        candidates = sum(candidate.size_bytes if is_bytes else 1 for candidate in plan.candidates)
        unreferenced = sum(
            candidate.size_bytes if is_bytes else 1
            for candidate in plan.candidates
            if candidate.reason == "unreferenced" and not candidate.is_let_go
        )
        held = max(0, of("unreferenced") - unreferenced)
        waiting = of("condemned")
        return {
            "total": total,
            "live": total - held - candidates - waiting,
            "held": held,
            "candidates": candidates,
            "waiting": waiting,
            "condemned": self.condemned_bytes if is_bytes else self.condemned_blobs,
            "freed": self.freed_bytes if is_bytes else self.freed_blobs,
        }


def run_document(record: RunRecord) -> dict[str, Any]:
    """What is remembered of a past run, as `gc runs --json` lists it: the report, with counts in place of its lists."""
    summary: dict[str, Any] = msgspec.json.decode(record.report)
    return {**summary, "finished_at": iso_utc(record.finished_at_ms)}


class UndoReport(msgspec.Struct, frozen=True):
    """What an undo brought back, and what it came too late for."""

    blobs: tuple[Digest, ...]
    too_late: tuple[Digest, ...]
    manifests: tuple[ManifestKey, ...]
    manifests_lost: tuple[ManifestKey, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON document."""
        return {
            "blobs": [str(digest) for digest in self.blobs],
            "too_late": [str(digest) for digest in self.too_late],
            "manifests": [str(key) for key in self.manifests],
            "manifests_lost": [str(key) for key in self.manifests_lost],
        }
