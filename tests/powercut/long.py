"""The long profile: 2,000 crash states and more (--goal) on ext4, xfs and btrfs, and how often each broken variant is caught.

`python -m tests.powercut.long` goes on where the last one stopped. Every sequence of up to three steps is recorded once on each
file system; the other workloads take turns.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
from collections.abc import Iterator

from tests.ledger import Ledger
from tests.powercut.campaign import Figures
from tests.powercut.disks import FILE_SYSTEMS
from tests.powercut.runs import Job, run_all
from tests.powercut.variants import VARIANTS
from tests.powercut.workloads import WORKLOADS

GOAL = 2_000
STATES_OF_ONE_CAMPAIGN = 88
VARIANT_STATES = 60
_OTHERS_EVERY_ROUNDS = 4
_OTHERS = [name for name in WORKLOADS if name != "short"]


def variant_jobs(seed: int) -> Iterator[Job]:
    """The engine broken in each way, on each file system."""
    for variant, (workload, _) in VARIANTS.items():
        for file_system in FILE_SYSTEMS:
            yield Job(file_system, workload, seed, VARIANT_STATES, variant)


def sound_jobs(seed: int) -> Iterator[Job]:
    """The engine as it is, for ever."""
    for turn in itertools.count():
        for file_system in FILE_SYSTEMS:
            yield Job(file_system, "short", seed + turn, STATES_OF_ONE_CAMPAIGN)
            if turn % _OTHERS_EVERY_ROUNDS == 0:
                workload = _OTHERS[turn // _OTHERS_EVERY_ROUNDS % len(_OTHERS)]
                yield Job(file_system, workload, seed + turn, STATES_OF_ONE_CAMPAIGN)


def main() -> int:
    """See the module; 1 if anything was wrong, or a variant was not caught."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--goal", type=int, default=GOAL, help="how many crash states")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="how many campaigns side by side")
    arguments = parser.parse_args()
    # As Ctrl-C does: what runs is ended, what was counted is saved.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ledger = Ledger("powercut", goal=arguments.goal, unit="crash states")
    seed = int(ledger.figures.setdefault("seed", arguments.seed))
    print(f"seed {seed}; {ledger}", flush=True)
    try:
        _try_variants(ledger, seed, arguments.at_once)
        _try_sound(ledger, seed, arguments.at_once)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
    print(ledger)
    missed = [name for name, found in ledger.figures.items() if str(found).startswith("0 of ")]
    print(f"variants missed: {', '.join(missed) or 'none'}")
    return 1 if missed or ledger.figures.get("wrong", 0) else 0


def _try_variants(ledger: Ledger, seed: int, at_once: int) -> None:
    missing = [job for job in variant_jobs(seed) if f"{job.file_system} {job.variant}" not in ledger.figures]
    for job, figures in run_all(missing, at_once):
        ledger.figures[f"{job.file_system} {job.variant}"] = f"{figures.wrong_states} of {figures.states}"
        ledger.save()
        print(f"{job.file_system} {job.variant}: {figures.wrong_states} of {figures.states} wrong", flush=True)


def _try_sound(ledger: Ledger, seed: int, at_once: int) -> None:
    done = int(ledger.figures.get("campaigns", 0))
    for job, figures in run_all(itertools.islice(sound_jobs(seed), done, None), at_once):
        _count(ledger, job, figures)
        ledger.save()
        if ledger.is_complete:
            return


def _count(ledger: Ledger, job: Job, figures: Figures) -> None:
    counts = {job.file_system: figures.states, job.workload: figures.states, "flushes": figures.flushes}
    ledger.add(figures.states, campaigns=1, wrong=figures.wrong_states, **counts)
    print(f"{ledger.done:,}: {job.file_system} {job.workload} {job.seed}: {figures.states} states", flush=True)
    for line in figures.wrong:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
