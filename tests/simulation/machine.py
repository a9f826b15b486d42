"""The state machine: clients, collectors and misfortune on one store, in memory and on LMDB with files."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from blobstore.abc.paging import every, every_tag
from blobstore.gc import GcPolicy
from blobstore.testing.invariants import find_garbage
from tests.simulation.catalogue import BY_DIGEST, BYTES, needs
from tests.simulation.machine_collecting import _DESCENT_MAX, DAY_MS
from tests.simulation.machine_failing import FailingRules
from tests.simulation.oracle import Pin
from tests.simulation.world import LmdbWorld, MemoryWorld

_FINAL = (GcPolicy(), GcPolicy(grace_s=0, quarantine_s=0, delete_untagged=True))


class Machine(FailingRules):
    """All rules; at the end, what I5 and I4 say of a store that is left alone."""

    def teardown(self) -> None:
        try:
            self.world.fuse.disarm()
            # A rule that failed left the oracle in the middle: what it says then would hide why.
            if sys.exc_info()[0] is None:
                self.end()
        finally:
            self.release()

    def end(self) -> None:
        self.reopen()
        self.all_is_well()
        # What was written while the clock ran ahead has its grace too.
        self.world.clock.advance(self.latest_ms - self.now_ms)
        for policy in _FINAL:
            self.leave_alone(policy)
            self.all_is_well()
            assert not (left := self.run(find_garbage(self.store))), left
        self.run(self.read_everything())
        if not self.oracle.lost & BY_DIGEST.keys():
            before = self.run(self.references())
            self.run(self.world.stop())
            self.restore()
            after = self.run(self.references())
            # Of a foreign layer the backend can't tell whose it is: where its bytes are there, a rebuild keeps them.
            assert before.pop("foreign") <= after.pop("foreign")
            assert after == before, {
                name: (before[name], after[name]) for name in before if before[name] != after[name]
            }
            assert not (broken := self.run(self.find_broken())), broken

    def leave_alone(self, policy: GcPolicy) -> None:
        """Collections beyond each grace: those that keep each other need one for each generation, and two for the last."""
        for _ in range(2 + (_DESCENT_MAX if policy.delete_untagged else 2)):
            # Longer than uploads under way can prolong a promise.
            self.world.clock.advance(9 * DAY_MS)
            self.oracle.promises.clear()
            self.oracle.time_is(self.now_ms, 0)
            self.oracle.collecting(self.now_ms, 0, keeps_untagged=not policy.delete_untagged)
            self.sessions.clear()
            self.run(self.collector(policy).run())
            self.run(self.store.parts.journal.flush())
            self.is_journaled = True
            self.run(self.look())
            self.is_journaled = False

    async def read_everything(self) -> None:
        """What must live is served, and right."""
        for record in self.oracle.records():
            if record.digest not in self.oracle.lost:
                manifest = await self.repository(record.repository).get_manifest(record.digest)
                assert manifest.body == BYTES[record.digest]
        pins = [
            fact.digest for fact in self.oracle.facts if isinstance(fact, Pin) and self.oracle.values(fact) == {True}
        ]
        for digest in pins:
            if digest not in self.oracle.lost:
                async with self.store.open_blob(digest) as blob:
                    assert await blob.read() == BYTES[digest]

    async def references(self) -> dict[str, Any]:
        """All that refers to anything."""
        index = self.store.index
        repositories = await index.list_repositories(None, 1000)
        nodes = [node async for node in every(lambda after: index.scan_manifests(after, 1000))]
        kept = {node.record.key: set(await index.list_children(node.record.key)) for node in nodes}
        owed = {key: digests & needs(BY_DIGEST[key.digest]) for key, digests in kept.items()}
        return {
            "manifests": {
                node.record.key: (
                    node.record.media_type,
                    node.record.subject,
                    node.record.is_subject_gone,
                    node.record.tag_count,
                    sorted(node.children),
                    sorted(owed[node.record.key]),
                )
                for node in nodes
            },
            "foreign": {(key, digest) for key in kept for digest in kept[key] - owed[key]},
            "tags": {
                (name, entry.tag): (entry.digest, entry.updated_at_ms)
                for name in repositories
                for entry in [entry async for entry in every_tag(index, name, 1000)]
            },
            "pins": await index.list_pins(None, 1000),
        }


class MemoryMachine(Machine):
    """In memory."""

    make_world = MemoryWorld


class LmdbMachine(Machine):
    """On LMDB and files."""

    make_world = LmdbWorld


MACHINES: dict[str, type[Machine]] = {"memory": MemoryMachine, "lmdb": LmdbMachine}


def run_machine(kind: str, number: int, *, examples: int, steps: int, shrinks: bool = True) -> None:
    """Run one seed; a failure is shrunk, which may take minutes, and told with the command that replays it."""
    found = type(f"{kind.title()}MachineOfSeed{number}", (MACHINES[kind],), {})
    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.normal,
        print_blob=True,
    )
    try:
        run_state_machine_as_test(seed(number)(found), settings=options)
    except BaseException as error:
        command = f"python -m tests.simulation.long_machine --index {kind} --seed {number} --examples {examples} --steps {steps}"
        error.add_note(f"replay with: {command}")
        raise
