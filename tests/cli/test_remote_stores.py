"""Every command on every kind of storage that is not a local disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blobstore.store
from blobstore.cli._app import build
from blobstore.digest import Digest
from tests.cli.conftest import Cli, Layout
from tests.cli.remotes import MakeRemote, Remote, make_remote, oss_config
from tests.servers.oss_standin import SECRET, OssStandin, oss_process, oss_server

__all__ = ["make_remote", "oss_process", "oss_server"]
KINDS = ("weed", "oss", "nas")
MIB = 1024 * 1024


@pytest.fixture(params=KINDS)
def remote(request: pytest.FixtureRequest, make_remote: MakeRemote) -> Remote:
    """A place of each kind, with nothing there yet."""
    return make_remote(request.param)


@pytest.fixture
def oss(make_remote: MakeRemote) -> Remote:
    """A place on OSS alone."""
    return make_remote("oss")


def every_command() -> Iterator[str]:
    """As the command line itself lists them."""
    app = build()
    for name in (name for name in app if not name.startswith("-")):
        inner = [each for each in app[name] if not each.startswith("-")]
        if not inner or app[name].default_command is not None:
            yield name
        yield from (f"{name} {each}" for each in inner)


def test_every_command_works(remote: Remote, layout: Layout, tmp_path: Path):
    """The whole story: two images that share a layer, a big blob, what each command says, and nothing left at the end."""
    shared, own = layout.layer(2 * MIB), layout.layer(5000)
    a, b = layout.image("a", [shared]), layout.image("b", [shared, own])
    assert "blobstore init" in remote.fails(2, "ls")
    made = remote("init", "--json").document()
    assert made["created"] is True
    assert not remote("init", "--json").document()["created"]
    (home,) = remote.homes()
    assert home.name == made["store_id"]
    assert (home / "index" / "data.mdb").exists()

    imported = remote("import", str(layout.path), "library/app", "--json").document()
    assert (imported["blobs_imported"], imported["manifests_put"]) == (4, 2)
    again = remote("import", str(layout.path), "library/app", "--json").document()
    assert (again["blobs_imported"], again["blobs_skipped"]) == (0, 4)
    assert remote("ls", "--json").document() == {"repositories": ["library/app"]}
    assert {tag["tag"]: tag["digest"] for tag in remote("ls", "library/app", "--json").document()["tags"]} == {
        "a": a,
        "b": b,
    }
    big = tmp_path / "big"
    big.write_bytes(os.urandom(17 * MIB))
    digest = remote("put", str(big), "--json").document()["digest"]
    assert digest == str(Digest.of(big.read_bytes()))
    assert remote("get", digest, "-o", str(tmp_path / "back")).status == 0
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    assert remote("stat", digest, "--json").document()["state"] == "present"
    assert remote("stats", "--json").document()["blobs"] == 7
    assert remote("du", "library/app", "--json").document()["total"]["blobs"] == 6
    assert remote("tag", "library/app:b", "latest").status == 0
    assert remote("untag", "library/app:latest").status == 0

    assert remote("rm", f"library/app@{b}").status == 0
    policy = ("--grace", "0s", "--quarantine", "1h", "--json")
    foreseen = remote("gc", "--dry-run", *policy).document()
    run = remote("gc", *policy).document()
    assert run["candidates"] == foreseen["candidates"]
    assert run["blobs"]["condemned"] == 3
    assert remote("gc", "explain", own["digest"], "--json").document()["condemned_by"] == run["run"]
    assert len(remote("gc", "undo", run["run"], "--json").document()["blobs"]) == 3
    assert len(remote("gc", "runs", "--json").document()["runs"]) == 1
    freed = remote("gc", "--grace", "0s", "--quarantine", "0s", "--json").document()
    assert (freed["blobs"]["freed"], freed["undeleted"]) == (3, 0)
    assert remote("unpin", digest).status == 0
    assert remote("gc", "--grace", "0s", "--quarantine", "0s", "--json").document()["blobs"]["freed"] == 1

    checked = remote("check", "--read-data", "--json").document()
    assert (checked["blobs"]["checked"], checked["read"]["blobs"], checked["files"]["orphans"]) == (3, 3, 0)
    assert remote("export", "library/app:a", str(tmp_path / "out")).status == 0
    copied = remote.copy_to(str(tmp_path / "copy"))
    assert (copied["blobs_copied"], copied["manifests_copied"], copied["tags_copied"]) == (2, 1, 1)
    rebuilt = remote("index", "rebuild", "--wait", "0s", "--json").document()
    assert (rebuilt["blobs"], rebuilt["tags"], rebuilt["problems"]) == (3, 1, [])
    assert remote("rm", "library/app").status == 0
    # A plan that was written is carried out; a rebuild has everything held for one grace.
    plan = str(tmp_path / "plan")
    assert remote("gc", "--dry-run", "--plan", plan, "--grace", "0s", "--quarantine", "0s").status == 0
    assert remote("gc", "--plan", plan, "--json").document()["blobs"]["freed"] == 3
    # Nothing but the marker and the journal is left.
    assert remote("check", "--json").document()["files"]["listed"] == 0
    # The daemon has real clients of its own: tests/clients.
    assert remote.commands == set(every_command()) - {"serve"}


def test_a_lost_index_is_rebuilt_from_the_storage_alone(remote: Remote, layout: Layout, tmp_path: Path):
    """No command gives the store an empty one; the rebuild finds all, and what comes back of the old one is refused."""
    layout.image("a", [layout.layer(3 * MIB)])
    assert remote("import", str(layout.path), "library/app").status == 0
    pinned = tmp_path / "pinned"
    # Longer than a part, so that on an object store its name says nothing and its record does.
    pinned.write_bytes(os.urandom(17 * MIB))
    digest = remote("put", str(pinned), "--json").document()["digest"]
    before = remote("ls", "library/app", "--json").document()["tags"]
    aside = remote.lose_index()
    for command in (("ls",), ("import", str(layout.path), "library/app"), ("put", str(pinned)), ("init",), ("gc",)):
        said = remote.fails(2, *command)
        assert "index rebuild" in said
        assert "other hosts" in said
    assert remote.homes() == [aside]
    rebuilt = remote("index", "rebuild", "--wait", "0s", "--json").document()
    assert (rebuilt["blobs"], rebuilt["manifests"], rebuilt["tags"], rebuilt["pins"]) == (4, 1, 1, 1)
    assert rebuilt["problems"] == []
    assert remote("ls", "library/app", "--json").document()["tags"] == before
    assert remote("check", "--read-data").status == 0
    assert remote("get", digest, "-o", str(tmp_path / "back")).status == 0
    assert (tmp_path / "back").read_bytes() == pinned.read_bytes()
    (home,) = [each for each in remote.homes() if each != aside]
    shutil.rmtree(home)
    shutil.move(aside, home)
    assert "other hosts" in remote.fails(2, "ls")


def test_the_index_may_be_elsewhere(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever names it finds the spool beside it."""
    monkeypatch.setenv("BLOBSTORE_INDEX", f"lmdb://{tmp_path}/my/index")
    (tmp_path / "blob").write_bytes(os.urandom(2 * MIB))
    assert remote("put", str(tmp_path / "blob")).status == 0
    assert remote("check").status == 0
    assert remote.homes() == []
    monkeypatch.delenv("BLOBSTORE_INDEX")
    assert "there is no index in" in remote.fails(2, "ls")


@pytest.mark.parametrize("store_id", ["../../etc", "", "x" * 32, "0" * 33])
def test_a_marker_names_no_directory_of_its_choice(make_remote: MakeRemote, tmp_path: Path, store_id: str):
    """An id that we never made is refused before anything is looked for under it."""
    remote = make_remote("nas")
    assert remote("init").status == 0
    marker = tmp_path / "share" / "store" / "blobstore.json"
    document = json.loads(marker.read_text())
    marker.write_text(json.dumps({**document, "store_id": store_id}))
    for command in (("ls",), ("init",), ("index", "rebuild")):
        assert "is not a marker of a store" in remote.fails(2, *command)
    assert len(remote.homes()) == 1


def test_an_index_of_another_store_is_refused(make_remote: MakeRemote, cli: Cli, tmp_path: Path):
    """The bucket has its own."""
    index = ("--index", f"lmdb://{tmp_path}/index")
    assert cli("init", "--store", str(tmp_path / "other"), *index).status == 0
    remote = make_remote("moto")
    assert remote("init").status == 0
    assert "belongs to index" in remote.fails(2, "ls", *index)
    assert "belongs to index" in remote.fails(2, "gc", *index)


def test_wrong_credentials_are_told(make_remote: MakeRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A secret that is wrong, a key that nobody knows, none at all: 2, one line, and nothing is made here."""
    secret = tmp_path / "secret"
    for kind, key, secret_key in (
        ("weed", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("oss", "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET"),
    ):
        remote = make_remote(kind)
        right = os.environ[secret_key]
        for name, value in ((secret_key, "wrong-secret"), (key, "nobody")):
            monkeypatch.setenv(name, value)
            for command in ("ls", "init"):
                said = remote.fails(2, command)
                assert remote.url.partition("/")[0] in said
                assert right not in said
                assert "wrong-secret" not in said
        monkeypatch.delenv(key)
        monkeypatch.delenv(secret_key)
        assert "credentials" in remote.fails(2, "ls")
        # A file may hold them.
        secret.write_text(f"{right}\n")
        fields = ("access_key", "secret_key_file") if kind == "weed" else ("access_key_id", "access_key_secret_file")
        real = "ak-for-tests" if kind == "weed" else "LTAI5tStandInKeyId"
        with remote.config.open("a") as file:
            file.write(f'{fields[0]} = "{real}"\n{fields[1]} = "secret"\n')
        assert "there is no store at" in remote.fails(2, "ls")
        assert remote.homes() == []


@pytest.mark.parametrize("kind", ["moto", "weed", "oss"])
def test_a_bucket_that_is_not_there_is_told(make_remote: MakeRemote, kind: str):
    """It is not made, as who pays for it decides that."""
    remote = make_remote(kind)
    url = f"{remote.url.partition('/')[0]}//no-such-bucket-here/registry"
    for command in ("init", "ls"):
        assert "no-such-bucket-here" in remote.fails(2, command, "--store", url)
    assert remote.homes() == []


def test_no_right_to_delete_is_told_and_the_next_run_goes_on(
    oss: Remote, oss_server: OssStandin, layout: Layout, monkeypatch: pytest.MonkeyPatch
):
    """Reading goes on; what could not be deleted is deleted by who may."""
    layout.image("a", [layout.layer(2 * MIB)])
    assert oss("import", str(layout.path), "library/app").status == 0
    assert oss("rm", "library/app").status == 0
    allowed = os.environ["OSS_ACCESS_KEY_ID"]
    oss_server.add_account("LTAI5tReader", SECRET, denied=("oss:DeleteObject", "oss:PutObject"))
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "LTAI5tReader")
    policy = ("--grace", "0s", "--quarantine", "0s", "--delete-untagged")
    assert oss("stats").status == 0
    assert "denied" in oss.fails(2, "gc", *policy).lower()
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", allowed)
    assert oss("gc", *policy).status == 0
    assert oss("check", "--json").document()["files"]["listed"] == 0


def test_two_that_make_a_store_in_the_same_moment_share_it(
    make_remote: MakeRemote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The slower one joins; what it had made for a store of its own is gone."""
    remote = make_remote("moto")
    create, command = blobstore.store.create_marker, [sys.executable, "-m", "blobstore", "init", "--json"]
    theirs: list[str] = []

    async def create_too_late(*args) -> bool:
        if not theirs:
            done = subprocess.run([*command, "--config", str(remote.config)], capture_output=True, check=True)
            theirs.append(json.loads(done.stdout)["store_id"])
        return await create(*args)

    monkeypatch.setattr(blobstore.store, "create_marker", create_too_late)
    (tmp_path / "blob").write_bytes(b"shared")
    assert remote("put", str(tmp_path / "blob")).status == 0
    assert remote("stats", "--json").document()["store_id"] == theirs[0]
    assert [home.name for home in remote.homes()] == theirs


def test_an_extra_that_is_not_installed_is_named(make_remote: MakeRemote, monkeypatch: pytest.MonkeyPatch):
    """With the words to install it."""
    monkeypatch.setitem(sys.modules, "aioboto3", None)
    for name in [name for name in sys.modules if name.startswith(("blobstore.backends.s3", "blobstore.backends._s3"))]:
        monkeypatch.delitem(sys.modules, name)
    remote = make_remote("moto")
    assert "pip install 'blobstore[s3]'" in remote.fails(2, "ls")


def test_a_wrong_setting_is_told(oss: Remote, oss_server: OssStandin, tmp_path: Path):
    """With the table it is in."""
    oss.config.write_text(f'store = "{oss.url}"\n[oss]\nendpoint = "http://127.0.0.1:9"\n')
    assert "[oss]" in oss.fails(2, "ls")
    oss.config.write_text(f'store = "{oss.url}"\n' + oss_config(oss_server, access_key_id='"x"'))
    assert "oss.access_key_secret_file" in oss.fails(2, "ls")
    oss.config.write_text(
        f'store = "{oss.url}"\n' + oss_config(oss_server, access_key_id='"x"', access_key_secret_file='"none"')
    )
    assert str(tmp_path / "none") in oss.fails(2, "ls")
    oss.config.write_text(f'store = "{oss.url}"\n' + oss_config(oss_server, part_size='"1KiB"'))
    assert "part_size" in oss.fails(2, "ls")
