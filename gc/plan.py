"""The plan: what a run at this moment would drop, condemn and free, as a value that can be written down and carried out."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from blobstore.abc.records import Drop, ManifestKey, Totals
from blobstore.digest import Digest
from blobstore.errors import FormatUnsupported, InvalidInput, UploadUnknown
from blobstore.gc.policy import GcPolicy
from blobstore.generation import Generation
from blobstore.names import RepositoryName, UploadId

PLAN_VERSION = 1
_RUN = re.compile(r"[0-9a-f]{16}", re.ASCII)
_YEAR_9999_MS = 253_370_764_800_000


class Candidate(msgspec.Struct, frozen=True):
    """A blob to condemn. `held_until_ms` is when its last hold lapsed, 0 if it had none that is remembered."""

    digest: Digest
    size_bytes: int
    reason: Literal["unreferenced", "damaged"]
    held_until_ms: int
    last_referrer: ManifestKey | None
    is_let_go: bool
    """Whether manifests keep it until this plan's drops are done."""


class Due(msgspec.Struct, frozen=True):
    """Bytes condemned before, whose quarantine is over. `digest` is None for what never became a blob."""

    digest: Digest | None
    generation: Generation
    size_bytes: int


class Later(msgspec.Struct, frozen=True):
    """What the drops let go, once the grace of those blobs is over."""

    blobs: int = 0
    size_bytes: int = 0


class Abandoned(msgspec.Struct, frozen=True):
    """An upload that nobody has written to for too long."""

    upload: UploadId
    size_bytes: int


class Seconds(msgspec.Struct):
    """How long each part took."""

    mark: float = 0.0
    plan: float = 0.0
    condemn: float = 0.0
    retire: float = 0.0


class Plan(msgspec.Struct, frozen=True):
    """What a run at `now_ms` would do. Each line is a hint: the run re-checks it in the transaction that acts."""

    run: str
    store_id: str
    now_ms: int
    is_full: bool
    policy: GcPolicy
    totals: Totals
    groups: tuple[tuple[Drop, ...], ...]
    candidates: tuple[Candidate, ...]
    due: tuple[Due, ...]
    later: Later
    abandoned: tuple[Abandoned, ...]
    untagged_kept: int
    untagged_kept_bytes: int | None
    """None from an incremental plan, which does not look at what is kept."""
    seconds: Seconds

    @property
    def drops(self) -> tuple[Drop, ...]:
        """All drops, in order."""
        return tuple(drop for group in self.groups for drop in group)


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _WireDrop(msgspec.Struct):
    group: _Count
    repository: str
    digest: str
    reason: str


class _WireCandidate(msgspec.Struct):
    digest: str
    size: _Count
    reason: Literal["unreferenced", "damaged"]
    held_until_ms: Annotated[int, msgspec.Meta(ge=0, lt=_YEAR_9999_MS)] = 0
    last_referrer: str | None = None
    is_let_go: bool = False


class _WireDue(msgspec.Struct):
    digest: str | None
    generation: str
    size: _Count


class _WireAbandoned(msgspec.Struct):
    upload: str
    size: _Count


class _WirePlan(msgspec.Struct):
    """What lies in a plan file: digests as text, for people."""

    version: int
    run: str
    store_id: str
    now_ms: Annotated[int, msgspec.Meta(ge=0, lt=_YEAR_9999_MS)]
    is_full: bool
    policy: GcPolicy
    totals: Totals
    drops: list[_WireDrop]
    candidates: list[_WireCandidate]
    due: list[_WireDue]
    later: Later
    abandoned: list[_WireAbandoned]
    untagged_kept: _Count
    untagged_kept_bytes: _Count | None


def encode_plan(plan: Plan) -> bytes:
    """The plan as JSON, for a person to read and `gc --plan` to carry out."""
    wire = _WirePlan(
        version=PLAN_VERSION,
        run=plan.run,
        store_id=plan.store_id,
        now_ms=plan.now_ms,
        is_full=plan.is_full,
        policy=plan.policy,
        totals=plan.totals,
        drops=[
            _WireDrop(at, str(drop.key.repository), str(drop.key.digest), drop.reason)
            for at, group in enumerate(plan.groups)
            for drop in group
        ],
        candidates=[
            _WireCandidate(
                str(each.digest),
                each.size_bytes,
                each.reason,
                each.held_until_ms,
                str(each.last_referrer) if each.last_referrer else None,
                each.is_let_go,
            )
            for each in plan.candidates
        ],
        due=[
            _WireDue(str(each.digest) if each.digest else None, str(each.generation), each.size_bytes)
            for each in plan.due
        ],
        later=plan.later,
        abandoned=[_WireAbandoned(str(each.upload), each.size_bytes) for each in plan.abandoned],
        untagged_kept=plan.untagged_kept,
        untagged_kept_bytes=plan.untagged_kept_bytes,
    )
    return msgspec.json.format(msgspec.json.encode(wire), indent=1) + b"\n"


def decode_plan(data: bytes) -> Plan:
    """The plan that `encode_plan` wrote.

    Raises:
        FormatUnsupported: not a plan, or one of another version.
    """
    try:
        wire = msgspec.json.decode(data, type=_WirePlan)
        if wire.version != PLAN_VERSION:
            raise FormatUnsupported(f"a plan of version {wire.version}; this version of blobstore reads {PLAN_VERSION}")
        return _from_wire(wire)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidInput, UploadUnknown) as error:
        raise FormatUnsupported(f"this is not a collection plan: {error}") from error


def _from_wire(wire: _WirePlan) -> Plan:
    if not _RUN.fullmatch(wire.run):
        raise InvalidInput(f"run {wire.run!r:.40} at {wire.now_ms} is none that was planned")
    counted = (*msgspec.structs.astuple(wire.totals), *msgspec.structs.astuple(wire.later))
    if not all(0 <= number < 2**63 for number in counted):
        raise InvalidInput("a plan counts nothing below 0 or beyond 2^63")
    groups: dict[int, list[Drop]] = {}
    for drop in wire.drops:
        key = ManifestKey(RepositoryName.parse(drop.repository), Digest.parse(drop.digest))
        groups.setdefault(drop.group, []).append(Drop(key, drop.reason))
    return Plan(
        run=wire.run,
        store_id=wire.store_id,
        now_ms=wire.now_ms,
        is_full=wire.is_full,
        policy=wire.policy,
        totals=wire.totals,
        groups=tuple(tuple(groups[at]) for at in sorted(groups)),
        candidates=tuple(
            Candidate(
                Digest.parse(each.digest),
                each.size,
                each.reason,
                each.held_until_ms,
                _parse_key(each.last_referrer) if each.last_referrer else None,
                each.is_let_go,
            )
            for each in wire.candidates
        ),
        due=tuple(
            Due(Digest.parse(each.digest) if each.digest else None, _parse_generation(each.generation), each.size)
            for each in wire.due
        ),
        later=wire.later,
        abandoned=tuple(Abandoned(UploadId.parse(each.upload), each.size) for each in wire.abandoned),
        untagged_kept=wire.untagged_kept,
        untagged_kept_bytes=wire.untagged_kept_bytes,
        seconds=Seconds(),
    )


def _parse_key(text: str) -> ManifestKey:
    repository, _, digest = text.partition("@")
    return ManifestKey(RepositoryName.parse(repository), Digest.parse(digest))


def _parse_generation(text: str) -> Generation:
    found = Generation.parse(text)
    if found is None:
        raise InvalidInput(f"{text!r:.80} is not a generation")
    return found
