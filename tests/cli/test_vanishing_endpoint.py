"""The server goes away in the middle of a push, and comes back."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import Layout
from tests.cli.gate import gate_to
from tests.cli.remotes import MakeRemote, make_remote, oss_config, s3_config
from tests.servers.oss_standin import OssStandin, oss_process, oss_server
from tests.servers.processes import S3Server

__all__ = ["make_remote", "oss_process", "oss_server"]
MIB = 1024 * 1024
BRIEFLY = {"attempts": "3", "connect_timeout": '"2s"', "read_timeout": '"10s"'}


@pytest.mark.parametrize("kind", ["weed", "oss"])
def test_an_import_that_lost_its_server_goes_on_with_the_next_command(
    make_remote: MakeRemote, kind: str, layout: Layout, request: pytest.FixtureRequest, tmp_path: Path
):
    """One clear line and 1; what had come stays; the same command again does the rest, and nothing is left over."""
    server: S3Server | OssStandin = request.getfixturevalue("oss_server" if kind == "oss" else kind)
    remote = make_remote(kind)
    first, second = layout.layer(1 * MIB), layout.layer(20 * MIB)
    layout.image("a", [first])
    layout.image("b", [first, second])
    with gate_to(urlsplit(server.endpoint).port or 80) as gate:
        endpoint = f"http://127.0.0.1:{gate.port}"
        config = (
            s3_config(server, endpoint=endpoint, **BRIEFLY)
            if isinstance(server, S3Server)
            else oss_config(server, endpoint=endpoint, **BRIEFLY)
        )
        remote.config.write_text(f'store = "{remote.url}"\n{config}')
        assert remote("init").status == 0
        gate.shut_after(12 * MIB)
        said = remote.fails(1, "import", str(layout.path), "library/app")
        assert remote.url.partition("/")[0] in said
        assert gate.refused > 0
        said = remote.fails(1, "ls")
        assert remote.url.partition("/")[0] in said
        assert f"the endpoint is {endpoint}" in said
        gate.open()
        assert remote("ls").status == 0
        imported = remote("import", str(layout.path), "library/app", "--json").document()
        assert imported["manifests_put"] == 2
        assert remote("export", "library/app:b", str(tmp_path / "out")).status == 0
        # What the cut left: the parts of the upload, which nobody goes on with, and its spool.
        gone = remote("gc", "--upload-idle", "0s", "--grace", "0s", "--quarantine", "0s", "--json").document()
        assert gone["undeleted"] == 0
        checked = remote("check", "--read-data", "--json").document()
        assert (checked["files"]["orphans"], checked["blobs"]["checked"]) == (0, 6)
        # No record, as their digests were known; no parts that wait.
        assert checked["files"]["listed"] == 6
    (home,) = remote.homes()
    assert os.listdir(home / "spool") == []
