"""The NAS backend over the real Linux NFS client and server, v3 and v4.2, two clients: inside user-mode-linux."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.servers.uml.guest import NFS_INIT, run_guest
from tests.tools import require_tool

PROJECT = Path(__file__).resolve().parent.parent.parent
GUEST = PROJECT / "tests" / "nas" / "guest"
TIMEOUT_S = {"short": 900, "long": 6000}
"""Under a minute of the short one is work or waiting, the rest is for machines that have much else to do."""
TESTS_MIN = 270
PACKAGES = "user-mode-linux uml-utilities kmod nfs-common nfs-kernel-server rpcbind iproute2 e2fsprogs"


def require_nfs() -> None:
    """Skip, or fail, where the guest lacks something."""
    for program in (
        "linux.uml",
        "mount.nfs",
        "exportfs",
        "rpc.nfsd",
        "rpc.mountd",
        "rpcbind",
        "modprobe",
        "mkfs.ext4",
        "ip",
    ):
        require_tool(program, how=f"Debian: apt-get install {PACKAGES}")


@pytest.mark.timeout(TIMEOUT_S["short"] + 60)
def test_the_nas_backend_over_nfs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything in `tests/nas/guest` passes in the guest, and none was left out."""
    _run(tmp_path, "short", capsys)


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S["long"] + 60)
def test_the_nas_backend_over_nfs_at_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With larger objects, longer lists, a cancellation at every await, and more races and failures."""
    _run(tmp_path, "long", capsys)


def _run(results: Path, profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    require_nfs()
    files = sorted(str(path.relative_to(PROJECT)) for path in GUEST.glob("guest_*.py"))
    (results / "tests").write_text(" ".join(files), encoding="ascii")
    settings = {"PROJECT": str(PROJECT), "PYTHON": sys.executable, "PROFILE": profile}
    try:
        console = run_guest(NFS_INIT, GUEST / "job.sh", results, settings, TIMEOUT_S[profile])
    except TimeoutError as error:
        raise AssertionError(f"{error}; it came so far:\n{_read(results / 'guest.log')[-3000:]}") from error
    suite = _suite(results, console)
    failures = [
        f"{case.get('classname')}::{case.get('name')}\n{(problem.text or '')[-3000:]}"
        for case in suite.iter("testcase")
        for problem in (*case.findall("failure"), *case.findall("error"))
    ]
    assert not failures, "\n\n".join(failures)
    assert _read(results / "status").strip() == "0", _read(results / "guest.log")[-3000:]
    ran, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    assert ran >= TESTS_MIN
    assert skipped == 0 or os.environ.get("REQUIRE_ALL") != "1"
    with capsys.disabled():
        print(f"\n  {ran} tests in the guest, {float(suite.get('time', 0)):.0f} s", end="")


def _suite(results: Path, console: str) -> ET.Element:
    assert (results / "junit.xml").exists(), _read(results / "guest.log")[-5000:] + console[-2000:]
    suite = ET.parse(results / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    return suite


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
