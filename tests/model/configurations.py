"""What is searched: the protocol as it is, in several sizes, and each way in which it is broken on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

I1, I2, I3, I4, I5, I7, DAMAGE, REACHED = 1, 2, 3, 4, 5, 7, 8, 9
"""The properties, by the numbers that the models print."""
CHILD_RECORD, KEPT = 3, 4
"""Those of family.pml."""


class Configuration(msgspec.Struct, frozen=True):
    """One search: a model, its switches, and which property it must find broken; None: no error, and nothing left to search."""

    model: str
    switches: tuple[str, ...] = ()
    breaks: int | None = None

    @property
    def name(self) -> str:
        """Short, and unique among all."""
        return " ".join((self.model, *self.switches))


def _all(model: str, breaks: int | None, *variants: str) -> list[Configuration]:
    return [Configuration(model, tuple(variant.split()), breaks) for variant in variants]


REFUTED: Sequence[Configuration] = (
    # A manifest's put trusts what HEAD said.
    *_all("collector", I2, "BREAK_TRUST_HEAD"),
    # A commit that its intent doesn't fence; no intent at all; a reconcile that reads the index and then lists.
    *_all(
        "collector", I1, "BREAK_NO_FENCE ONLY_LOSSES", "BREAK_NO_INTENT ONLY_LOSSES", "BREAK_READ_THEN_LIST ONLY_LOSSES"
    ),
    # The same three, caught before anything is lost: what was retired comes back.
    *_all("collector", I7, "BREAK_NO_FENCE", "BREAK_NO_INTENT", "BREAK_READ_THEN_LIST"),
    # The trash row goes before the bytes: a leak, where nobody lists the backend.
    *_all("collector", I5, "BREAK_FORGET_FIRST NO_RECONCILE NO_EXPIRE NO_PUSHER_DIES"),
    # Without a listing of the backend, a process that dies between publishing and committing leaks.
    *_all("collector", I5, "NO_RECONCILE"),
    # A revival that leaves the trash row, and a retirement that doesn't look again.
    *_all("collector", I2, "BREAK_REVIVE_LEAVES_TRASH BREAK_RETIRE_WITHOUT_CHECK"),
    # Check and act in two transactions.
    *_all("collector", I2, "BREAK_CHECK_THEN_ACT"),
    # A suspect is condemned, and revived.
    *_all("collector", DAMAGE, "BREAK_SUSPECT_CONDEMNED DAMAGES=1"),
    # A name on the backend is used again.
    *_all("collector", I1, "BREAK_SAME_NAME"),
    # An edge goes without a hold in its place; a HEAD that writes nothing down.
    *_all("collector", I3, "BREAK_EDGE_WITHOUT_HOLD PROMISE", "BREAK_HEAD_WITHOUT_HOLD PROMISE"),
    # A child without its record; one that a put brings back without its layers; one deleted or dropped under its parent.
    *_all("family", CHILD_RECORD, "BREAK_CHILD_WITHOUT_RECORD", "BREAK_DELETE_CHILD_OF_LIVING"),
    *_all("family", I2, "BREAK_REPLAY_UNCHECKED"),
    *_all("family", KEPT, "BREAK_DROP_WITHOUT_CHECK"),
    # Power loss: each wait for durability left out, and each step before the one it needs.
    *_all("power", I1, "BREAK_BYTES_NOT_DURABLE", "BREAK_ROW_BEFORE_BYTES", "BREAK_DELETE_BEFORE_INDEX"),
    *_all("power", I2, "BREAK_DELETE_BEFORE_JOURNAL"),
    *_all("power", I4, "BREAK_ANSWER_BEFORE_INDEX", "BREAK_ANSWER_BEFORE_JOURNAL"),
    *_all("power", I5, "BREAK_INTENT_NOT_DURABLE", "BREAK_FORGET_BEFORE_DELETE"),
)
"""Broken on purpose."""

REACHABLE: Sequence[Configuration] = (
    # Both manifests stand; the blob is pushed again after it retired; a collection that leaves nothing, after a crash; a
    # manifest that revives.
    *_all("collector", REACHED, "REACH=1", "REACH=2", "REACH=3", "REACH=4"),
    # A push that heals a suspect blob.
    *_all("collector", REACHED, "REACH=5 DAMAGES=1"),
    *_all("family", REACHED, "REACH=1", "REACH=2", "REACH=3", "REACH=4"),
    *_all("power", REACHED, "REACH=1", "REACH=2", "REACH=3"),
)
"""What must be possible, or the searches would prove nothing."""

SOUND: Sequence[Configuration] = (
    *_all("collector", None, "CRASHES=1", "PROMISE", "GENERATIONS=2 DAMAGES=1 CRASHES=0"),
    *_all("family", None, "PUTS=6"),
    *_all("power", None, "CUTS=1"),
    # Either of two is enough: each is saved by the other.
    *_all("collector", None, "BREAK_REVIVE_LEAVES_TRASH", "BREAK_RETIRE_WITHOUT_CHECK"),
    # The order of row and bytes only matters where nobody lists the backend; and without a listing, it is that order alone.
    *_all("collector", None, "BREAK_FORGET_FIRST", "NO_RECONCILE NO_EXPIRE NO_PUSHER_DIES"),
)
"""The protocol as it is, small enough for every run of the tests."""

LARGE: Sequence[Configuration] = (
    *_all("collector", None, "COLLECTORS=2", "GENERATIONS=3", "REPOSITORIES=2 DAMAGES=1", "COLLECTORS=2 CRASHES=2"),
    *_all("collector", None, "COLLECTORS=2 REPOSITORIES=2", "COLLECTORS=2 DAMAGES=1"),
    *_all("power", None, "CUTS=2", "CUTS=3"),
    *_all("family", None, "PUTS=12"),
)
"""The same, larger."""
