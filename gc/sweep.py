"""Sweep: which blobs nothing keeps, given the records that go. Reads the index in slices; what it finds are hints."""

from __future__ import annotations

import msgspec

from blobstore.abc.index import Index
from blobstore.abc.paging import pages
from blobstore.abc.records import BlobState, ManifestKey, Standing
from blobstore.digest import Digest
from blobstore.gc.mark import Marked
from blobstore.gc.plan import Candidate, Later
from blobstore.gc.policy import GcPolicy


class Swept(msgspec.Struct):
    """What a sweep found."""

    candidates: list[Candidate]
    later_blobs: int = 0
    later_bytes: int = 0
    spared_bytes: int = 0

    @property
    def later(self) -> Later:
        """What the drops let go once its grace is over."""
        return Later(self.later_blobs, self.later_bytes)


async def sweep_all(index: Index, marked: Marked, policy: GcPolicy, now_ms: int) -> Swept:
    """Every blob of the store against every edge: an anti-join of two sorted cursors, in constant memory beside its result.

    With a grace, what the drops let go waits for it (`later`); without, it is among the candidates.
    """
    swept = Swept([])
    is_at_once = policy.terms.term_ms == 0
    async for items in pages(
        lambda after: index.scan_unreferenced(after, policy.slice_max, marked.dead, marked.spared)
    ):
        asked: dict[Digest, ManifestKey | None] = {}
        for item in items:
            if item.state is BlobState.CONDEMNED:
                continue
            if item.is_spared:
                swept.spared_bytes += item.size_bytes
            elif item.is_dropped and not is_at_once:
                swept.later_blobs += 1
                swept.later_bytes += item.size_bytes
            else:
                asked[item.digest] = item.last_referrer
        for standing in await index.standings(list(asked), now_ms, policy.terms) if asked else ():
            _add_candidate(swept, standing, asked[standing.digest])
    return swept


async def sweep_lapsed(index: Index, marked: Marked, policy: GcPolicy, now_ms: int) -> Swept:
    """Only blobs with a lapsed hold, and those of the records that go: costs what was pushed and deleted since the last run,
    not what is stored."""
    swept = Swept([])
    seen: set[Digest] = set()
    async for digests in pages(lambda after: index.list_lapsed_holds(policy.terms, now_ms, after, policy.batch_max)):
        fresh = [digest for digest in dict.fromkeys(digests) if digest not in seen]
        seen.update(fresh)
        for standing in await index.standings(fresh, now_ms, policy.terms):
            if not standing.has_edge and standing.state is not BlobState.CONDEMNED:
                _add_candidate(swept, standing, None)
    await _sweep_let_go(index, marked, policy, now_ms, swept)
    return swept


async def _sweep_let_go(index: Index, marked: Marked, policy: GcPolicy, now_ms: int, swept: Swept) -> None:
    """The blobs that only records of this plan's drops keep."""
    is_at_once = policy.terms.term_ms == 0
    # In the order of the plan, not of a set: so that the same run does the same things in the same order.
    dying = list(dict.fromkeys(drop.key for group in marked.groups for drop in group))
    going = frozenset(dying)
    keepers: dict[Digest, ManifestKey] = {}
    for at in range(0, len(dying), policy.batch_max):
        for each in await index.list_let_go(dying[at : at + policy.batch_max], going):
            keepers.setdefault(each.digest, each.keeper)
    digests = list(keepers)
    for at in range(0, len(digests), policy.batch_max):
        for standing in await index.standings(digests[at : at + policy.batch_max], now_ms, policy.terms):
            if is_at_once:
                _add_candidate(swept, standing, keepers[standing.digest])
            else:
                swept.later_blobs += 1
                swept.later_bytes += standing.size_bytes


def _add_candidate(swept: Swept, standing: Standing, keeper: ManifestKey | None) -> None:
    """`keeper` is the dropped manifest that keeps the blob until then."""
    if standing.is_held:
        return
    swept.candidates.append(
        Candidate(
            standing.digest,
            standing.size_bytes,
            "damaged" if standing.state is BlobState.SUSPECT else "unreferenced",
            standing.held_until_ms,
            keeper or standing.last_referrer,
            keeper is not None,
        )
    )
