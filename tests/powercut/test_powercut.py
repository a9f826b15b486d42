"""The power goes at any flush: what was answered is there, on ext4, xfs and btrfs; an engine that does not sync is caught."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from pathlib import Path
from random import Random  # noqa: TID251 - from a printed seed

import pytest

from tests.powercut.crashes import END, START, Epoch, crashes_of, epochs_of
from tests.powercut.disks import FILE_SYSTEMS
from tests.powercut.expected import FREE, GONE, THERE, expect
from tests.powercut.recording import Flush, Mark, Write
from tests.powercut.runs import Job, run_all, start
from tests.powercut.variants import VARIANTS
from tests.tools import require_tool

SEED = int(os.environ.get("POWERCUT_SEED", "1"))
STATES = {"push": 12, "collect": 12, "free": 6, "index": 6, "upload": 6, "rebuild": 6, "create": 4, "short": 12}
_AT_ONCE = 2
_GONE_S_MAX = 20


@pytest.fixture(scope="session")
def rig() -> None:
    """What the rig needs of a machine: root, FUSE, loop devices, the three file systems."""
    for tool in ("mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "fusermount3", "fallocate"):
        require_tool(tool)
    missing = []
    if os.geteuid() != 0:
        missing.append("root")
    missing += [path for path in ("/dev/fuse", "/dev/loop-control") if not os.path.exists(path)]
    if importlib.util.find_spec("mfusepy") is None:
        missing.append("mfusepy (pip install mfusepy)")
    known = Path("/proc/filesystems").read_text(encoding="ascii").split()
    missing += [f"{name} in this kernel" for name in FILE_SYSTEMS if name not in known]
    if missing:
        reason = f"cutting the power needs {', '.join(missing)}"
        pytest.fail(reason) if os.environ.get("REQUIRE_ALL") == "1" else pytest.skip(reason)


@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
def test_what_was_answered_survives_a_power_cut(rig: None, file_system: str) -> None:
    """Some states of every workload; the long profile looks at thousands."""
    jobs = [Job(file_system, workload, SEED, states) for workload, states in STATES.items()]
    for job, figures in run_all(jobs, _AT_ONCE):
        assert figures.states == job.states
        assert not figures.wrong, "\n".join([f"python {' '.join(job.command)}", *figures.wrong])


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_engine_that_does_not_sync_is_caught(rig: None, variant: str) -> None:
    """The rig can fail: each step that is left out loses something that it sees."""
    job = Job("ext4", VARIANTS[variant][0], SEED, variant=variant, until_wrong=True)
    [(_, figures)] = run_all([job], 1)
    assert figures.wrong_states == 1, f"not caught in {figures.states} states: python {' '.join(job.command)}"


def test_a_killed_campaign_leaves_nothing(rig: None) -> None:
    """Killed while a disk is mounted, it takes mounts and block devices with it."""
    process = start(Job("ext4", "push", SEED))
    assert process.stdout is not None
    process.stdout.readline()
    handles = [os.readlink(each) for each in Path(f"/proc/{process.pid}/fd").iterdir() if each.is_symlink()]
    devices = [Path(handle).name for handle in handles if handle.startswith("/dev/loop")]
    assert devices
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + _GONE_S_MAX
    while any(Path(f"/sys/block/{device}/loop/backing_file").exists() for device in devices):
        assert time.monotonic() < deadline, f"{devices} are still in use"
        time.sleep(0.05)
    assert "blobstore-powercut" not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


def test_what_was_written_before_a_flush_is_there_and_the_rest_may_be() -> None:
    before, flushed, volatile = Write(0, b"before"), Write(8, b"flushed"), Write(16, b"volatile")
    records = [before, Mark(START), flushed, Mark({"begun": 1}), Flush(), volatile, Mark(END), Write(24, b"late")]
    assert list(epochs_of(records)) == [
        Epoch(0, (before,), (flushed,), (Mark({"begun": 1}),)),
        Epoch(1, (flushed,), (volatile,), (Mark({"begun": 1}),)),
    ]


def test_any_part_of_what_is_volatile_may_last_down_to_a_sector() -> None:
    writes = (Write(0, bytes(range(256)) * 8), Write(4096, b"x" * 512), Write(8192, b"y" * 512))
    crashes = crashes_of(Epoch(0, (), writes, ()), Random(SEED), 6, 512)
    assert crashes[0].lasting == ()
    assert len({crash.lasting for crash in crashes[:-1]}) == 7
    torn = [write for write in crashes[-1].lasting if write.offset < 2048]
    assert all(len(write.data) == 512 for write in torn)
    assert len(torn) < 4


def test_a_step_without_an_answer_may_have_happened_or_not() -> None:
    moved = Mark({"begun": 2, "effects": {"tag app t": "sha256:b"}})
    made = [Mark({"begun": 1, "effects": {"tag app t": "sha256:a"}}), Mark({"answered": 1})]
    assert expect(made[:1]) == {"tag app t": {GONE, "sha256:a"}}
    assert expect(made) == {"tag app t": {"sha256:a"}}
    assert expect([*made, moved]) == {"tag app t": {"sha256:a", "sha256:b"}}
    assert expect([*made, moved, Mark({"answered": 2})]) == {"tag app t": {"sha256:b"}}
    assert expect([Mark({"begun": 1, "effects": {"blob x": THERE}})]) == {"blob x": {FREE, THERE}}
