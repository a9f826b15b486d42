"""Stores on storage that is not a local disk, for the command line: a URL, a configuration, an environment."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli, Result
from tests.servers.oss_standin import KEY_ID, REGION, SECRET, OssStandin
from tests.servers.processes import S3Server

OF_TWO_WORDS = ("gc explain", "gc undo", "gc runs", "index rebuild")


class Remote:
    """A place for a store, and the command line with its configuration."""

    def __init__(self, url: str, config: str, directory: Path, cli: Cli) -> None:
        self.url, self._cli = url, cli
        self.commands: set[str] = set()
        self.state = directory / "state"
        self.config = directory / "blobstore.toml"
        self.config.write_text(f'store = "{url}"\n{config}')

    def __call__(self, *argv: str) -> Result:
        """Run a command on it."""
        self.commands.add(" ".join(argv[: 2 if " ".join(argv[:2]) in OF_TWO_WORDS else 1]))
        return self._cli(*argv, "--config", str(self.config))

    def copy_to(self, target: str) -> Any:
        """Copy it, which takes two stores as arguments; the report."""
        self.commands.add("copy")
        return self._cli("copy", self.url, target, "--config", str(self.config), "--json").document()

    def fails(self, status: int, *argv: str) -> str:
        """Run one that fails; what it says, in one line."""
        result = self(*argv)
        assert (result.status, result.out) == (status, ""), result
        *warnings, line = result.err.splitlines()
        assert line.startswith("blobstore: error: ")
        # In these tests the share is a directory, which every command remarks.
        assert all("which is no share" in warning for warning in warnings)
        return line

    def homes(self) -> list[Path]:
        """What this host keeps of stores."""
        return sorted((self.state / "blobstore").glob("*"))

    def lose_index(self) -> Path:
        """Move what this host keeps of the one store away; where to."""
        (home,) = self.homes()
        aside = home.with_name("aside")
        shutil.move(home, aside)
        return aside


def s3_config(server: S3Server, **changes: str) -> str:
    """The table of a server."""
    endpoint = changes.pop("endpoint", server.endpoint)
    lines = [
        f'endpoint = "{endpoint}"',
        'region = "us-east-1"',
        *(f"{key} = {value}" for key, value in changes.items()),
    ]
    return "[s3]\n" + "\n".join(lines) + "\n"


def oss_config(server: OssStandin, **changes: str) -> str:
    """The table of the stand-in."""
    endpoint = changes.pop("endpoint", server.endpoint)
    lines = [
        f'endpoint = "{endpoint}"',
        f'region = "{REGION}"',
        *(f"{key} = {value}" for key, value in changes.items()),
    ]
    return "[oss]\n" + "\n".join(lines) + "\n"


MakeRemote = Callable[[str], Remote]


@pytest.fixture
def make_remote(
    request: pytest.FixtureRequest, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cloud: None
) -> MakeRemote:
    """Makes a place by the name of its kind."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("BLOBSTORE_STORE", "BLOBSTORE_INDEX", "BLOBSTORE_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def make(kind: str) -> Remote:
        if kind == "nas":
            (tmp_path / "share").mkdir()
            return Remote(f"nas://{tmp_path}/share/store", "", tmp_path, cli)
        if kind == "oss":
            standin: OssStandin = request.getfixturevalue("oss_server")
            monkeypatch.setenv("OSS_ACCESS_KEY_ID", KEY_ID)
            monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", SECRET)
            return Remote(f"oss://{standin.new_bucket()}/registry", oss_config(standin), tmp_path, cli)
        server: S3Server = request.getfixturevalue(kind)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        url = f"s3://{server.bucket}/cli/{secrets.token_hex(8)}"
        return Remote(url, s3_config(server), tmp_path, cli)

    return make
