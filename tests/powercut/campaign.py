"""Records one workload on one file system, then cuts the power at each flush and looks at what is left.

A process of its own, as all it mounts is its own and goes with it, also by kill -9:
`python -m tests.powercut.campaign --file-system ext4 --workload push --seed 1 --states 100`. Prints a line of JSON every now
and then, the last with all figures. A state that is wrong is kept, with the command that looks at it again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random  # noqa: TID251 - from a printed seed

import msgspec

from tests.ledger import FOLDER
from tests.powercut import kernel, workloads
from tests.powercut.checking import find_wrong
from tests.powercut.crashes import Crash, Epoch, crashes_of, epochs_of
from tests.powercut.disks import FILE_SYSTEMS, Disk, apply, copy_sparse, make_file_system
from tests.powercut.expected import Expected, expect
from tests.powercut.recorder import DISK
from tests.powercut.recording import Record, read_recording
from tests.powercut.scene import make_chunks_small
from tests.powercut.variants import VARIANTS

PROJECT = Path(__file__).parent.parent.parent
PLACE = "store"
_SAMPLES = 3
_STEP_S_MAX = 120
_TELL_EVERY_STATES = 50
_KEPT_MAX = 3


class Figures(msgspec.Struct):
    """What a campaign found. `wrong` has a few lines of the first states that were; `possible` counts what could be looked at."""

    states: int = 0
    possible: int = 0
    flushes: int = 0
    wrong_states: int = 0
    wrong: list[str] = []
    seconds: float = 0


class Campaign:
    """One workload on one file system, in a workspace that is this process's own."""

    def __init__(self, arguments: argparse.Namespace, workspace: str) -> None:
        self._arguments, self._workspace = arguments, workspace
        self._system = FILE_SYSTEMS[arguments.file_system]
        self._random = Random(arguments.seed)
        self.figures = Figures()

    def run(self) -> None:
        """Record, then look at the states, all or as many as were asked for."""
        empty = f"{self._workspace}/empty"
        make_file_system(self._system, empty)
        chosen = self._choose(self._record(empty))
        # What was loaded so far is shared with every child, and no collection of memory copies its pages.
        gc.freeze()
        durable, torn = f"{self._workspace}/durable", f"{self._workspace}/torn"
        copy_sparse(empty, durable)
        copy_sparse(empty, torn)
        disk = Disk(self._system, torn, f"{self._workspace}/mounted")
        for epoch, crashes in chosen:
            apply(durable, epoch.since)
            expected = expect(epoch.marks) if crashes else {}
            for crash, loses_index in crashes:
                copy_sparse(durable, torn)
                apply(torn, crash.lasting)
                problems = look(disk, expected, loses_index=loses_index)
                self._count(epoch, crash, expected, problems, loses_index=loses_index)
                if problems and self._arguments.until_wrong:
                    return
        disk.close()

    def _record(self, empty: str) -> list[Record]:
        """Do the workload on a disk of which everything is noted."""
        recorded, recording, served = (f"{self._workspace}/{name}" for name in ("recorded", "recording", "served"))
        copy_sparse(empty, recorded)
        os.mkdir(served)
        recorder = subprocess.Popen(
            [sys.executable, "-m", "tests.powercut.recorder", served, recorded, recording],
            cwd=PROJECT,
            start_new_session=True,
        )
        _wait_until_mounted(served, recorder)
        disk = Disk(self._system, f"{served}/{DISK}", f"{self._workspace}/mounted")
        with disk.mounted() as mountpoint:
            problems = in_child(lambda: self._work(f"{mountpoint}/{PLACE}", recording))
            if problems:
                raise AssertionError(f"the workload failed: {problems}")
        disk.close()
        kernel.unmount(served)
        recorder.wait(_STEP_S_MAX)
        os.unlink(recorded)
        records = read_recording(recording)
        os.unlink(recording)
        return records

    async def _work(self, place: str, recording: str) -> list[str]:
        make_chunks_small()
        if self._arguments.variant is not None:
            VARIANTS[self._arguments.variant][1]()
        await workloads.run(self._arguments.workload, place, recording, self._arguments.seed)
        return []

    def _choose(self, records: list[Record]) -> list[tuple[Epoch, list[tuple[Crash, bool]]]]:
        """Every state, or as many of them as were asked for; in each fourth the index is lost as well."""
        found = [
            (epoch, crash)
            for epoch in epochs_of(records)
            for crash in crashes_of(epoch, self._random, _SAMPLES, self._system.atom_bytes)
        ]
        wanted = min(self._arguments.states or len(found), len(found))
        taken = set(self._random.sample(range(len(found)), wanted))
        chosen: list[tuple[Epoch, list[tuple[Crash, bool]]]] = []
        for at, (epoch, crash) in enumerate(found):
            if not chosen or chosen[-1][0] is not epoch:
                chosen.append((epoch, []))
            if at in taken:
                chosen[-1][1].append((crash, self._random.random() < 0.25))
        self.figures.possible, self.figures.flushes = len(found), len(chosen) - 1
        return chosen

    def _count(self, epoch: Epoch, crash: Crash, expected: Expected, problems: list[str], *, loses_index: bool) -> None:
        figures = self.figures
        figures.states += 1
        if problems:
            figures.wrong_states += 1
            lost = ", the index lost" if loses_index else ""
            where = f"after flush {epoch.number}, of {len(epoch.volatile)} later writes {crash.how} lasted{lost}"
            figures.wrong += [f"{where}: {problem}" for problem in problems[:5]] if figures.wrong_states <= 5 else []
            if self._arguments.variant is None and figures.wrong_states <= _KEPT_MAX:
                self._keep(crash, expected, loses_index=loses_index)
        if figures.states % _TELL_EVERY_STATES == 1:
            print(json.dumps({"states": figures.states}), flush=True)

    def _keep(self, crash: Crash, expected: Expected, *, loses_index: bool) -> None:
        arguments = self._arguments
        name = f"{arguments.file_system}-{arguments.workload}-{arguments.seed}-{self.figures.states}"
        folder = FOLDER / "powercut-wrong" / name
        folder.mkdir(parents=True, exist_ok=True)
        copy_sparse(f"{self._workspace}/durable", str(folder / "image"))
        apply(str(folder / "image"), crash.lasting)
        document = {
            "file_system": arguments.file_system,
            "loses_index": loses_index,
            "expected": {key: sorted(right) for key, right in expected.items()},
        }
        (folder / "expected.json").write_text(json.dumps(document, indent=2))
        self.figures.wrong.append(f"look again: python -m tests.powercut.again {folder}")


def look(disk: Disk, expected: Expected, *, loses_index: bool) -> list[str]:
    """Everything that is wrong with a disk after a power cut."""
    try:
        with disk.mounted() as mountpoint:
            return in_child(lambda: find_wrong(f"{mountpoint}/{PLACE}", expected, loses_index=loses_index))
    except OSError as error:
        return [f"the file system is beyond repair: {error}"]


def in_child(work: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """Do something in a process forked for it, which begins with all loaded and nothing open; returns what it found."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        found = ["it ended before it told anything"]
        try:
            kernel.die_with_parent()
            os.close(reader)
            signal.alarm(_STEP_S_MAX)
            found = asyncio.run(work())
        except BaseException:  # noqa: BLE001 - the parent tells it
            found = [traceback.format_exc()]
        finally:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(json.dumps(found).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(told) if told else [f"it was killed: {os.waitstatus_to_exitcode(status)}"]


def _wait_until_mounted(path: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _STEP_S_MAX
    while not os.path.ismount(path):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the recorder did not start: is mfusepy installed, and libfuse3?")
        time.sleep(0.01)


def enter_workspace() -> str:
    """A folder in memory that only this process and its children see, and that goes when the last of them does."""
    kernel.own_mounts()
    folder = os.path.join(tempfile.gettempdir(), "blobstore-powercut")
    os.makedirs(folder, exist_ok=True)
    kernel.mount("tmpfs", folder, "tmpfs", "mode=0700")
    return folder


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--file-system", choices=FILE_SYSTEMS, required=True)
    parser.add_argument("--workload", choices=workloads.WORKLOADS, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--states", type=int, help="look at so many at most")
    parser.add_argument("--variant", choices=VARIANTS, help="break the engine")
    parser.add_argument("--until-wrong", action="store_true", help="stop at the first state that is wrong")
    kernel.die_with_parent()
    campaign = Campaign(parser.parse_args(), enter_workspace())
    began = time.monotonic()
    campaign.run()
    campaign.figures.seconds = round(time.monotonic() - began, 1)
    print(msgspec.json.encode(campaign.figures).decode(), flush=True)


if __name__ == "__main__":
    main()
