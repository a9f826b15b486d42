"""Which states a disk may be in after a power cut, drawn from a recording.

All that was written before the last flush is there. Of what came after, nothing is, or any part of it: some writes and not
others, and of one write some sectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random  # noqa: TID251 - from a printed seed

from tests.powercut.recording import Flush, Mark, Record, Write

START, END = {"workload": "start"}, {"workload": "end"}
_SUBSETS_LISTED_MAX_WRITES = 3


@dataclass(frozen=True, slots=True)
class Epoch:
    """The time between two flushes. `since` became durable with the flush before, `volatile` had been written when the power
    went, `marks` had been made."""

    number: int
    since: tuple[Write, ...]
    volatile: tuple[Write, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Crash:
    """A disk after a power cut: what lasted of what was volatile, and in words."""

    lasting: tuple[Write, ...]
    how: str


def epochs_of(records: Sequence[Record]) -> Iterator[Epoch]:
    """Each time between two flushes of the workload. The cut is at its end, where most was answered.

    What was there before the workload started is taken as durable: the workload syncs before it says so.
    """
    since: list[Write] = []
    volatile: list[Write] = []
    marks: list[Mark] = []
    number, has_started = 0, False
    for record in records:
        match record:
            case Write():
                volatile.append(record)
            case Mark() if record.document == START:
                has_started, since, volatile = True, since + volatile, []
            case Mark() if record.document == END:
                break
            case Mark():
                marks.append(record)
            case Flush() if has_started:
                yield Epoch(number, tuple(since), tuple(volatile), tuple(marks))
                number, since, volatile = number + 1, volatile, []
            case Flush():
                since, volatile = since + volatile, []
    yield Epoch(number, tuple(since), tuple(volatile), tuple(marks))


def crashes_of(epoch: Epoch, random: Random, samples: int, atom_bytes: int) -> list[Crash]:
    """States at the end of an epoch, each once. That all of it lasted is the first state of the next."""
    found = [Crash((), "nothing")]
    subsets = _subsets(len(epoch.volatile), random, samples)
    found += [Crash(tuple(epoch.volatile[at] for at in subset), f"writes {subset}") for subset in subsets]
    big = [at for at, write in enumerate(epoch.volatile) if len(write.data) > atom_bytes]
    if big and samples:
        found.append(_torn(epoch, random, random.choice(big), atom_bytes))
    return found


def _subsets(count: int, random: Random, samples: int) -> list[tuple[int, ...]]:
    """Some of the ways to choose from `count` writes, neither none nor all; every way where there are few."""
    if count <= _SUBSETS_LISTED_MAX_WRITES:
        every = [each for size in range(1, count) for each in itertools.combinations(range(count), size)]
        return sorted(random.sample(every, min(samples, len(every))))
    drawn = {tuple(at for at in range(count) if random.random() < 0.5) for _ in range(samples)}
    return sorted(each for each in drawn if 0 < len(each) < count)


def _torn(epoch: Epoch, random: Random, torn: int, atom_bytes: int) -> Crash:
    """One write in part, and some of the others."""
    lasting: list[Write] = []
    for at, write in enumerate(epoch.volatile):
        if at == torn:
            lasting += _some_atoms(write, random, atom_bytes)
        elif random.random() < 0.5:
            lasting.append(write)
    return Crash(tuple(lasting), f"write {torn} torn, {len(lasting)} pieces")


def _some_atoms(write: Write, random: Random, atom_bytes: int) -> list[Write]:
    atoms = [Write(write.offset + at, write.data[at : at + atom_bytes]) for at in range(0, len(write.data), atom_bytes)]
    cut = random.randrange(1, len(atoms))
    if random.random() < 0.5:
        return atoms[:cut]
    return [atom for atom in atoms if random.random() < 0.5]
