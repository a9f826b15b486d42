"""The NAS backend over the real Linux NFS client and server, v3 and v4.2, two clients: inside user-mode-linux."""

from __future__ import annotations

import os
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.servers.uml.guest import NFS_INIT, fast_place, run_guest
from tests.tools import require_tool

PROJECT = Path(__file__).resolve().parent.parent.parent
GUEST = PROJECT / "tests" / "nas" / "guest"
TIMEOUT_S = 1500
"""Under half a minute of it is waiting, the rest is for machines that have much else to do."""
TESTS_MIN = 200
PACKAGES = "user-mode-linux uml-utilities kmod nfs-common nfs-kernel-server rpcbind iproute2"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guest left when it had run every test in `tests/nas/guest`."""
    for program in ("linux.uml", "rpc.nfsd", "mkfs.ext4", "ip"):
        require_tool(program, how=f"Debian: apt-get install {PACKAGES}")
    # Where the guest can see it: its /dev and /run are its own.
    directory = tmp_path_factory.mktemp("guest")
    files = sorted(str(path.relative_to(PROJECT)) for path in GUEST.glob("guest_*.py"))
    (directory / "tests").write_text(" ".join(files), encoding="ascii")
    with tempfile.TemporaryDirectory(prefix="blobstore-nfs-", dir=fast_place(directory)) as place:
        settings = {"PROJECT": str(PROJECT), "PYTHON": sys.executable}
        said = run_guest(NFS_INIT, GUEST / "job.sh", directory, Path(place) / "disk", settings, TIMEOUT_S)
    (directory / "console").write_text(said, encoding="utf-8")
    return directory


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_nas_backend_over_nfs(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything in `tests/nas/guest` passes in the guest, and none was left out."""
    log = (results / "guest.log").read_text(encoding="utf-8", errors="replace")
    assert (results / "junit.xml").exists(), log[-5000:] + (results / "console").read_text(encoding="utf-8")[-2000:]
    suite = ET.parse(results / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    failures = [
        f"{case.get('classname')}::{case.get('name')}\n{(problem.text or '')[-3000:]}"
        for case in suite.iter("testcase")
        for problem in (*case.findall("failure"), *case.findall("error"))
    ]
    assert not failures, "\n\n".join(failures)
    assert (results / "status").read_text(encoding="ascii").strip() == "0", log[-3000:]
    ran, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    assert ran >= TESTS_MIN
    assert skipped == 0 or os.environ.get("REQUIRE_ALL") != "1"
    with capsys.disabled():
        print(f"\n  {ran} tests in the guest, {float(suite.get('time', 0)):.0f} s", end="")
