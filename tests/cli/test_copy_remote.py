"""`copy` from files to a bucket, from there to a bucket of another server, and back to files."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Images
from tests.servers.processes import S3Server


def _configuration(directory: Path, server: S3Server) -> str:
    secret = directory / f"{server.bucket}.secret"
    secret.write_text(server.secret_key)
    path = directory / f"{server.endpoint.rpartition(':')[2]}.toml"
    path.write_text(
        f'[s3]\nendpoint = "{server.endpoint}"\nregion = "us-east-1"\npath_style = true\n'
        f'access_key = "{server.access_key}"\nsecret_key_file = "{secret}"\n'
    )
    return str(path)


@pytest.mark.usefixtures("no_cloud")
def test_a_store_moves_between_servers(
    cli: Cli, images: Images, weed: S3Server, moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each end with its own configuration; what comes back is what was there, and a second run of each sends nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    configurations = _configuration(tmp_path, weed), _configuration(tmp_path, moto)
    places = [f"s3://{server.bucket}/{tmp_path.name}" for server in (weed, moto)]
    home = str(tmp_path / "home")
    steps = (
        ("--to-config", configurations[0], str(images.store), places[0]),
        ("--config", configurations[0], "--to-config", configurations[1], *places),
        ("--config", configurations[1], places[1], home),
    )
    for step in steps:
        document = cli("copy", *step, "--json").document()
        assert (document["blobs_copied"], document["manifests_copied"], document["tags_copied"]) == (4, 2, 2)
        again = cli("copy", *step, "--json").document()
        assert (again["bytes_copied"], again["blobs_present"], again["manifests_present"]) == (0, 4, 2)
    for place, configuration in zip(places, configurations, strict=True):
        assert cli("check", "--read-data", "--store", place, "--config", configuration).status == 0
    assert cli("check", "--read-data", "--store", home).status == 0
    listed = [cli("ls", "library/app", "--store", each, "--json").document() for each in (str(images.store), home)]
    assert listed[0] == listed[1]
