"""The guards of the protocol: what each recorded verb may do, judged by an abstract state of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.model import guards_collecting, guards_pushing, guards_references
from tests.model.state import CONDEMNED, SUSPECT, State, differences
from tests.model.trace import Entry
from tests.model.world import Broken, Refused, World

PROBLEMS_MAX = 20
"""The first is the one to look at; the others may follow from it."""

NOT_OF_THE_PROTOCOL: Mapping[str, str] = {
    "note_clock": "only stops collectors",
    "note_orphan_scan": "only says that a listing is due",
    "ask_orphan_scan": "only says that a listing is due",
    "trim_outbox": "rows that the journal holds",
    "save_run": "a report",
    "initialise": "the very first verb of an index",
}
"""Verbs that write no row the guards look at, and why."""

Guard = Callable[[World, dict[str, Any], Any], Any]


def _guards(*modules: Any) -> dict[str, Guard]:
    return {name: guard for module in modules for name, guard in module.GUARDS.items()}


GUARDS: Mapping[str, Guard] = _guards(guards_pushing, guards_references, guards_collecting)
"""By the name of the verb: takes the state, the arguments and the outcome said, changes the state as the protocol wants, and
returns which outcome the protocol wants, in the part of it that matters: `(wanted, said)`."""


class Guards:
    """Replays verbs, and says which of them the protocol would not have let do what they did."""

    def __init__(self, state: State | None = None) -> None:
        self._world = World(state)
        self.steps = 0

    def step(self, entry: Entry) -> list[str]:
        """One verb; what is wrong with it."""
        self.steps += 1
        if entry.verb in NOT_OF_THE_PROTOCOL and entry.verb not in GUARDS:
            return []
        if entry.verb not in GUARDS:
            return [f"{_place(entry)}: no guard is known for this verb"]
        wanted_refusal: str | None = None
        wanted = said = None
        try:
            wanted, said = GUARDS[entry.verb](self._world, entry.arguments, entry.outcome)
        except Refused as refused:
            wanted_refusal = str(refused)
        except TypeError:
            # A verb that was refused answered nothing that the guard could compare with.
            if entry.refusal is None:
                raise
        except Broken as broken:
            return [f"{_place(entry)}: {broken}"]
        if entry.refusal != wanted_refusal:
            return [f"{_place(entry)}: {_ended(entry.refusal)}, the protocol wants it {_ended(wanted_refusal)}"]
        if wanted != said:
            return [f"{_place(entry)}: answered {said}, the protocol wants {wanted}"]
        return self._broken(entry)

    def compare(self, index: State) -> list[str]:
        """What the tables of the index hold beside, or instead of, what the verbs explain."""
        return differences(self._world.state, index)[:PROBLEMS_MAX]

    def _broken(self, entry: Entry) -> list[str]:
        """The invariants that a look at the blobs of one verb can tell."""
        touched = entry.arguments.get("digest") or entry.arguments.get("content", {}).get("digest")
        row = self._world.blob(touched) if isinstance(touched, str) else None
        if row is None or touched is None:
            return []
        if row.generation in self._world.retired and row.state != SUSPECT:
            return [f"{_place(entry)}: {touched} is {row.state} with {row.generation}, which was retired"]
        if row.state == CONDEMNED and row.generation not in self._world.state.trash:
            return [f"{_place(entry)}: {touched} is condemned, and no trash row will ever end that"]
        return []


def _ended(refusal: str | None) -> str:
    return f"refused with {refusal}" if refusal else "carried out"


def _place(entry: Entry) -> str:
    return f"transaction {entry.transaction}, {entry.verb}({str(entry.arguments)[:600]})"
