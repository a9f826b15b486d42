"""Campaigns as processes of their own, started side by side."""

from __future__ import annotations

import collections
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec

from tests.powercut.campaign import PROJECT, Figures


@dataclass(frozen=True, slots=True)
class Job:
    """What a campaign is asked for; `states` None: all."""

    file_system: str
    workload: str
    seed: int
    states: int | None = None
    variant: str | None = None
    until_wrong: bool = False

    @property
    def command(self) -> list[str]:
        """The command that does it, to be run in the project."""
        words = ["-m", "tests.powercut.campaign", "--file-system", self.file_system, "--workload", self.workload]
        words += ["--seed", str(self.seed)]
        words += ["--states", str(self.states)] if self.states is not None else []
        words += ["--variant", self.variant] if self.variant is not None else []
        return [*words, "--until-wrong"] if self.until_wrong else words


def start(job: Job) -> subprocess.Popen[str]:
    """Begin a campaign. It ends with the thread that began it."""
    return subprocess.Popen(
        [sys.executable, *job.command], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_all(jobs: Iterable[Job], at_once: int) -> Iterator[tuple[Job, Figures]]:
    """Do campaigns, some at once, and give their figures in the order in which they were asked for.

    Raises:
        RuntimeError: one could not be carried out.
    """
    waiting = iter(jobs)
    running = collections.deque((job, start(job)) for job in islice(waiting, at_once))
    try:
        while running:
            job, process = running[0]
            told, complaints = process.communicate()
            running.popleft()
            if process.returncode != 0:
                raise RuntimeError(f"python {' '.join(job.command)}\n{complaints}")
            running += [(each, start(each)) for each in islice(waiting, 1)]
            yield job, msgspec.json.decode(told.splitlines()[-1], type=Figures)
    finally:
        for _, process in running:
            process.kill()
            process.communicate()
