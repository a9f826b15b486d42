"""`copy` between all kinds of storage; and cut short there: killed, and with an end that goes away and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import Cli, Images, Layout
from tests.cli.gate import Gate, gate_to
from tests.cli.remotes import oss_config, s3_config
from tests.servers.oss_standin import KEY_ID, SECRET, OssStandin, oss_process, oss_server
from tests.servers.processes import S3Server

__all__ = ["oss_process", "oss_server"]
ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
BRIEFLY = {"attempts": "2", "connect_timeout": '"2s"', "read_timeout": '"10s"'}
DONE = ("blobs_copied", "manifests_copied", "tags_copied")
THERE = ("blobs_present", "manifests_present", "bytes_copied")


@pytest.fixture(autouse=True)
def _environment(no_cloud: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", SECRET)


def _configured(directory: Path, name: str, server: S3Server, text: str = "") -> str:
    """A file that says all of a server, its credentials too: two servers in one command can't both be the environment's."""
    secret = directory / f"{name}.secret"
    secret.write_text(server.secret_key)
    path = directory / f"{name}.toml"
    path.write_text(
        s3_config(server, access_key=f'"{server.access_key}"', secret_key_file=f'"{secret}"', path_style="true") + text
    )
    return str(path)


def test_a_store_goes_around_all_kinds_of_storage(
    cli: Cli, images: Images, weed: S3Server, moto: S3Server, oss_server: OssStandin, tmp_path: Path
) -> None:
    """Each end with its own configuration; what comes back is what was there, and a second run of each sends nothing."""
    both = _configured(tmp_path, "weed", weed, oss_config(oss_server))
    other = _configured(tmp_path, "moto", moto)
    (tmp_path / "share").mkdir()
    share, home = f"nas://{tmp_path}/share/store", str(tmp_path / "home")
    bucket, aliyun = f"s3://{weed.bucket}/{tmp_path.name}", f"oss://{oss_server.new_bucket()}/registry"
    elsewhere = f"s3://{moto.bucket}/{tmp_path.name}"
    steps = (
        (str(images.store), share),
        (share, bucket, "--config", both),
        (bucket, aliyun, "--config", both),
        (aliyun, elsewhere, "--config", both, "--to-config", other),
        (elsewhere, home, "--config", other),
    )
    for step in steps:
        document = cli("copy", *step, "--json").document()
        assert tuple(document[key] for key in DONE) == (4, 2, 2), step
        again = cli("copy", *step, "--json").document()
        assert tuple(again[key] for key in (*DONE, *THERE)) == (0, 0, 0, 4, 2, 0), step
    assert cli("check", "--read-data", "--store", elsewhere, "--config", other).status == 0
    assert cli("check", "--read-data", "--store", home).status == 0
    listed = [cli("ls", "library/app", "--store", each, "--json").document() for each in (str(images.store), home)]
    assert listed[0] == listed[1]


def test_one_bucket_by_two_names_is_one_store(cli: Cli, images: Images, weed: S3Server, tmp_path: Path) -> None:
    """Of the server: its address says nothing of which store it is."""
    one = _configured(tmp_path, "one", weed)
    other = tmp_path / "other.toml"
    other.write_text(Path(one).read_text().replace("127.0.0.1", "localhost"))
    place = f"s3://{weed.bucket}/{tmp_path.name}"
    assert cli("copy", str(images.store), place, "--config", one).status == 0
    result = cli("copy", place, place, "--config", one, "--to-config", str(other))
    assert (result.status, result.out) == (2, "")
    assert "are the same store" in result.err


class _Ends:
    """A store with a blob of several parts, a bucket, and a gate in front of the server."""

    def __init__(self, cli: Cli, source: str, target: str, config: str, gate: Gate) -> None:
        self.cli, self.source, self.target, self.config, self.gate = cli, source, target, config, gate

    def command(self) -> list[str]:
        return ["copy", self.source, self.target, "--config", self.config, "--json"]

    def assert_the_next_run_ends_it(self) -> None:
        """All is there and whole, nothing is there twice, and nothing is left over, after a collection that may take it."""
        document = self.cli(*self.command()).document()
        assert document["complete"] is True
        options = ("--store", self.target, "--config", self.config)
        policy = ("--upload-idle", "0s", "--grace", "0s", "--quarantine", "0s")
        assert self.cli("gc", *policy, *options, "--json").document()["undeleted"] == 0
        checked = self.cli("check", "--read-data", *options, "--json").document()
        assert (checked["files"]["listed"], checked["files"]["orphans"], checked["blobs"]["checked"]) == (7, 0, 7)
        listed = [
            self.cli("ls", "app", "--json", "--store", each, "--config", self.config).document()
            for each in (self.source, self.target)
        ]
        assert listed[0] == listed[1]


@pytest.fixture
def ends(cli: Cli, store: Path, layout: Layout, weed: S3Server, tmp_path: Path) -> Callable[[Gate], _Ends]:
    big = layout.layer(20 * MIB)
    layout.image("small", [layout.layer(1000)])
    layout.image("big", [big, layout.layer(2 * MIB)])
    assert cli("import", str(layout.path), "app").status == 0

    def make(gate: Gate) -> _Ends:
        config = _configured(tmp_path, "gate", weed)
        text = Path(config).read_text().replace(weed.endpoint, f"http://127.0.0.1:{gate.port}")
        Path(config).write_text(text + "".join(f"{key} = {value}\n" for key, value in BRIEFLY.items()))
        return _Ends(cli, str(store), f"s3://{weed.bucket}/{tmp_path.name}", config, gate)

    return make


def test_a_copy_killed_in_the_middle_of_an_upload_goes_on(ends: Callable[[Gate], _Ends], weed: S3Server) -> None:
    """Killed with signal 9 before the store was made, between small objects, at the first and the last part of a big one."""
    with gate_to(urlsplit(weed.endpoint).port or 80) as gate:
        at = ends(gate)
        for passed in (300, 60_000, 5 * MIB, 21 * MIB):
            gate.shut_after(passed)
            with subprocess.Popen(
                [sys.executable, "-m", "blobstore", *at.command()], cwd=ROOT, stdout=subprocess.DEVNULL
            ) as process:
                while not gate.is_shut:
                    assert process.poll() is None, "it was done before"
                    time.sleep(0.002)
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
            gate.open()
        at.assert_the_next_run_ends_it()


@pytest.mark.parametrize("end", ["target", "source"])
def test_a_copy_that_lost_a_server_goes_on(end: str, ends: Callable[[Gate], _Ends], weed: S3Server) -> None:
    """One clear line and 1, whichever end it was; the same command again does the rest."""
    with gate_to(urlsplit(weed.endpoint).port or 80) as gate:
        at = ends(gate)
        if end == "source":
            assert at.cli(*at.command()).status == 0
            at.source, at.target = at.target, f"{at.source}-copied"
        # What is asked of a source is little: headers.
        gate.shut_after(9 * MIB if end == "target" else 5000)
        result = at.cli(*at.command())
        assert (result.status, result.out) == (1, "")
        assert result.err.startswith("blobstore: error: ")
        assert len(result.err.splitlines()) == 1
        assert "s3://" in result.err
        assert gate.refused > 0
        gate.open()
        at.assert_the_next_run_ends_it()
        if end == "target":
            (home,) = (Path(os.environ["XDG_STATE_HOME"]) / "blobstore").iterdir()
            assert os.listdir(home / "spool") == []
