"""A mount that hurts, for the tests of a file."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.keeper import kept
from tests.tools import require_tool

PROJECT = Path(__file__).resolve().parent.parent.parent
START_S = 60


class HurtingMount:
    """Where it is, and what it does."""

    def __init__(self, source: Path, place: Path, plan: Path) -> None:
        self.source, self.place = source, place
        self._plan = plan

    def hurt(self, rates: dict[str, float], seed: int) -> None:
        """From now on each call meets these faults by chance."""
        self._set({"seed": seed, "rates": rates})

    def hurt_once(self, *faults: tuple[str, str]) -> None:
        """Each fault comes at the next call that it fits, on a path with this part."""
        self._set({"once": faults})

    def relent(self) -> None:
        """No more faults."""
        self._set({})

    def counts(self) -> dict[str, int]:
        """How often each fault came since the mount was made."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads(Path(f"{self._plan}.counts").read_text(encoding="ascii"))
        return {}

    def _set(self, plan: dict[str, object]) -> None:
        new = Path(f"{self._plan}.new")
        new.write_text(json.dumps(plan), encoding="ascii")
        os.replace(new, self._plan)


@pytest.fixture(scope="module")
def hurting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HurtingMount]:
    """Hurts nobody until it is told to."""
    require_tool("fusermount3", how="Debian: apt-get install fuse3")
    with hurting_mount(tmp_path_factory.mktemp("hurting")) as mount:
        yield mount


@contextlib.contextmanager
def hurting_mount(base: Path) -> Iterator[HurtingMount]:
    """A mount below `base`. Should this process be killed, it goes."""
    mount = HurtingMount(base / "source", base / "mount", base / "plan.json")
    for directory in (mount.source, mount.place):
        directory.mkdir()
    mount.relent()
    command = [
        sys.executable,
        "-m",
        "tests.nas.hurting_mount",
        str(mount.source),
        str(mount.place),
        f"{base}/plan.json",
    ]
    with kept(command, cleanup=["fusermount3", "-u", "-z", str(mount.place)], cwd=PROJECT) as process:
        deadline = time.monotonic() + START_S
        while not os.path.ismount(mount.place):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the mount does not come"
            time.sleep(0.01)
        yield mount
