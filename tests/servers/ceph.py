"""Ceph's object gateway (Debian ceph-mon, ceph-osd, radosgw): what many run in their own cellar."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tests.servers.processes as servers
from tests.tools import require_tool

_CONF = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon2}/0,v1:127.0.0.1:{mon1}/0
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
run dir = {directory}
admin socket = {directory}/$name.asok
log file = {directory}/$name.daemon.log
pid file = {directory}/$name.pid
keyring = {directory}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 2000
[mon.a]
mon data = {directory}/mon
mon initial members = a
mon data avail crit = 1
mon data avail warn = 2
[osd.0]
osd data = {directory}/osd
keyring = {directory}/osd/keyring
osd objectstore = memstore
memstore device bytes = 4294967296
[client.rgw.a]
rgw data = {directory}/rgw
rgw frontends = beast endpoint=127.0.0.1:{rgw}
rgw thread pool size = 32
"""


@contextmanager
def running_ceph(directory: Path) -> Iterator[servers.S3Server]:
    """A monitor, a store in memory and a gateway; about fifteen seconds until a user can write."""
    for tool, package in (("ceph-mon", "ceph-mon"), ("ceph-osd", "ceph-osd"), ("radosgw", "radosgw")):
        require_tool(tool, how=f"apt-get install {package}")
    # Paths of unix sockets are short, pytest's directories are not.
    with tempfile.TemporaryDirectory(prefix="ceph-") as short, ExitStack() as daemons:
        cluster = _Cluster(Path(short), directory, daemons)
        cluster.start()
        try:
            yield cluster.server
        finally:
            for log in Path(short).glob("*.log"):
                shutil.copy(log, directory)


class _Cluster:
    def __init__(self, home: Path, logs: Path, daemons: ExitStack) -> None:
        self._home, self._logs, self._daemons = home, logs, daemons
        mon1, mon2, self._rgw = servers.free_ports(3)
        conf = _CONF.format(fsid=uuid.uuid4(), directory=home, mon1=mon1, mon2=mon2, rgw=self._rgw)
        self._addresses = f"[v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon1}]"
        self._conf = home / "ceph.conf"
        self._conf.write_text(conf)
        for name in ("mon", "osd", "rgw"):
            (home / name).mkdir()
        self.server = servers.S3Server("ceph", f"http://127.0.0.1:{self._rgw}")

    def start(self) -> None:
        self._make_monitor()
        self._spawn("ceph-mon", "-i", "a")
        self._ceph("-s", seconds=30)
        self._make_store()
        self._spawn("ceph-osd", "-i", "0")
        _until(lambda: "1 up" in self._ceph("osd", "stat"), "the store of Ceph")
        gateway = self._spawn("radosgw", "-n", "client.rgw.a")
        log = self._logs / "radosgw.log"
        servers.wait_until(lambda: servers.answers(self.server.endpoint), "radosgw", gateway, log, seconds=90)
        user = ("--uid", "tests", "--display-name", "tests", "--access-key", servers.ACCESS_KEY)
        self._run("radosgw-admin", "-n", "client.rgw.a", "user", "create", *user, "--secret-key", servers.SECRET_KEY)
        servers.make_bucket(self.server)

    def _make_monitor(self) -> None:
        keyring = str(self._home / "keyring")
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        for name in ("mon.", "client.admin", "client.rgw.a"):
            options = ("--create-keyring",) if name == "mon." else ()
            self._run("ceph-authtool", *options, keyring, "--gen-key", "-n", name, *everything)
        monmap = str(self._home / "monmap")
        self._run("monmaptool", "--create", "--fsid", self._fsid(), "--addv", "a", self._addresses, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)

    def _make_store(self) -> None:
        secret = self._run("ceph-authtool", "--gen-print-key").strip()
        (self._home / "osd" / "keyring").write_text(f"[osd.0]\n\tkey = {secret}\n")
        identity = str(uuid.uuid4())
        self._ceph("osd", "new", identity, "-i", "-", given=f'{{"cephx_secret": "{secret}"}}')
        self._ceph("auth", "import", "-i", str(self._home / "keyring"))
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._ceph("osd", "crush", "add", "osd.0", "1", "host=h", "root=default")

    def _fsid(self) -> str:
        return self._conf.read_text().split("fsid = ")[1].split()[0]

    def _ceph(self, *arguments: str, seconds: float = 20, given: str | None = None) -> str:
        return self._run("ceph", *arguments, seconds=seconds, given=given)

    def _run(self, program: str, *arguments: str, seconds: float = 60, given: str | None = None) -> str:
        command = [program, "-c", str(self._conf), *arguments]
        if program in ("ceph-authtool", "monmaptool"):
            command = [program, *arguments]
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=servers.clean_environment(),
            cwd=self._home,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [program, "-c", str(self._conf), *arguments, "-f"]
        return self._daemons.enter_context(servers.running(command, self._logs, name=program))


def _until(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not start")
        time.sleep(0.2)
