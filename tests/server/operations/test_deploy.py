"""What is handed out to run the daemon fits it: configurations, the unit, manifests, dashboard and alerts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from blobstore.config import load_config
from blobstore.gc import GcPolicy
from blobstore.locations import parse_index_url, parse_store_url
from blobstore.server.daemon.config import load_server_config
from blobstore.server.daemon.plan import DEFAULT_LISTEN, listen_addresses
from blobstore.server.operations.config import CollectConfig
from blobstore.server.operations.figures import StoreFigures
from blobstore.server.operations.metrics import Metrics, sample_names
from blobstore.server.protocol.settings import RegistrySettings
from tests.gc.scene import Bench
from tests.tools import require_tool

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
EXAMPLES = sorted((DEPLOY / "examples").glob("*.toml"))
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def manifests(kind: str) -> list[dict[str, Any]]:
    return [each for path in KUBERNETES for each in documents(path) if each["kind"] == kind]


def test_there_is_an_example_for_each_storage() -> None:
    """By its name."""
    assert [path.stem for path in EXAMPLES] == ["file", "nas", "oss", "s3"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_can_be_used_as_it_is(path: Path) -> None:
    """Every key is known, every value can be used, and it is open to nobody."""
    config, server = load_config(str(path)), load_server_config(str(path))
    assert config.store is not None
    assert type(parse_store_url(config.store)).__name__.lower().startswith(path.stem[:3])
    if config.index is not None:
        parse_index_url(config.index)
    assert server.auth.method != "none"
    assert listen_addresses(server)[0].is_loopback


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_example_has_in_comments_can_be_used_too(path: Path, tmp_path: Path) -> None:
    """A comment that is a line of configuration becomes one by taking its mark away."""
    text = re.sub(r"^# (?=\[|[a-z_]+ = )", "", path.read_text(), flags=re.MULTILINE)
    assert text != path.read_text() or path.stem == "nas"
    whole = tmp_path / path.name
    whole.write_text(text)
    load_config(str(whole))
    load_server_config(str(whole))


async def test_every_query_names_metrics_that_exist(bench: Bench) -> None:
    """Of the dashboard and of the alerts; and the dashboard shows nearly all that is counted."""
    figures = StoreFigures(bench.store, GcPolicy(), {"data": "/"})
    there = Metrics().names() | {name for metric in await figures.look() for name in sample_names(metric)}
    there.add("blobstore_build_info")
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown.append(dashboard["templating"]["list"][1]["query"]["query"])
    (rules,) = documents(DEPLOY / "prometheus-rules.yaml")
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    named = {name for text in (*shown, *alerts) for name in re.findall(r"\bblobstore_\w+", text)}
    assert named <= there, named - there
    counted = {re.sub(r"_(bucket|sum|count)$", "", name) for name in there if name.startswith("blobstore_")}
    seen = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert not counted - seen - {"blobstore_build"}


def test_panels_stand_beside_each_other() -> None:
    """None on another, none beyond the edge, each with an id of its own."""
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_alerts_have_what_people_need() -> None:
    """A name, how bad it is, and a sentence."""
    (rules,) = documents(DEPLOY / "prometheus-rules.yaml")
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    assert all(
        rule["labels"]["severity"] in ("warning", "critical") and rule["annotations"]["summary"] for rule in alerts
    )


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """Whole, but for the program, which isn't installed here."""
    tool = require_tool("systemd-analyze", how="Debian: apt-get install systemd")
    text = (DEPLOY / "blobstore.service").read_text()
    assert "ExecStart=/opt/blobstore/bin/blobstore serve " in text
    unit = tmp_path / "blobstore.service"
    unit.write_text(text.replace("/opt/blobstore/bin/blobstore", "/bin/true"))
    done = subprocess.run([tool, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "blobstore" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_unit_gives_a_stop_more_time_than_the_daemon_takes() -> None:
    """Else uploads under way would be killed that the daemon waits for."""
    from blobstore.server.daemon.process import STOP_WITHIN_S
    from blobstore.server.daemon.workers import KILL_AFTER_S

    unit = (DEPLOY / "blobstore.service").read_text()
    given = int(re.search(r"TimeoutStopSec=(\d+)s", unit)[1])  # type: ignore[index]
    (stateful,) = manifests("StatefulSet")
    assert given > STOP_WITHIN_S + KILL_AFTER_S
    assert stateful["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > STOP_WITHIN_S + KILL_AFTER_S


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_every_manifest_is_yaml_that_names_what_it_is(path: Path) -> None:
    """With a kind, a version of its API and a name."""
    found = documents(path)
    assert found
    for each in found:
        assert each["apiVersion"]
        assert each["kind"] == "Kustomization" or each["metadata"]["name"].startswith("blobstore")


def test_kustomize_puts_the_manifests_together() -> None:
    """And one pod is all there is: its index is a file on its volume."""
    done = subprocess.run(
        [require_tool("kubectl", how="a client of Kubernetes"), "kustomize", str(DEPLOY / "kubernetes")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [each for each in yaml.safe_load_all(done.stdout) if each]
    assert {each["kind"] for each in found} == {"ConfigMap", "Service", "StatefulSet", "Ingress", "NetworkPolicy"}
    (stateful,) = [each for each in found if each["kind"] == "StatefulSet"]
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    assert stateful["spec"]["selector"]["matchLabels"] == labels
    for service in (each for each in found if each["kind"] == "Service"):
        assert service["spec"]["selector"] == labels


def test_the_pod_is_one_and_may_little() -> None:
    """No root, nothing to write to but its volumes; ports and files are those of its configuration."""
    (stateful,) = manifests("StatefulSet")
    assert stateful["spec"]["replicas"] == 1
    (claim,) = stateful["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    pod = stateful["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    volumes = {each["name"] for each in (*pod["volumes"], claim["metadata"])} if "name" in claim["metadata"] else set()
    assert {each["name"] for each in container["volumeMounts"]} == volumes
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    (config,) = manifests("ConfigMap")
    server = tomllib.loads(config["data"]["blobstore.toml"])["server"]
    assert server["listen"].endswith(f":{ports['registry']}")
    assert server["operator_listen"].endswith(f":{ports['operator']}")
    assert {server["run_directory"], "/etc/blobstore/blobstore.toml"} <= mounts
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in ("/healthz", "/readyz")
    assert manifests("Secret") == [], "no password is handed out"


def test_the_configuration_of_the_pod_can_be_used(tmp_path: Path) -> None:
    """It isn't open to everybody."""
    (config,) = manifests("ConfigMap")
    path = tmp_path / "blobstore.toml"
    path.write_text(config["data"]["blobstore.toml"])
    server = load_server_config(str(path))
    load_config(str(path))
    assert server.auth.method == "htpasswd"
    assert server.operator_token_file is not None
    listen_addresses(server)


def test_the_image_is_built_from_what_is_here_and_runs_without_root() -> None:
    """As far as can be seen without building it."""
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    words = [line[0] for line in lines]
    assert words.count("FROM") == 2
    assert set(words) <= {
        "FROM",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    (user,) = [line[1] for line in lines if line[0] == "USER"]
    assert user == "65532:65532"
    pyproject = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())
    (extras,) = re.findall(r"/source\[([a-z0-9,]+)\]", text)
    assert set(extras.split(",")) <= set(pyproject["project"]["optional-dependencies"])
    assert json.loads(text.rpartition("CMD ")[2].splitlines()[0])[0] == "serve"
    assert "insecure" not in text.rpartition("CMD ")[2]


def test_the_times_in_the_examples_are_the_defaults() -> None:
    """So that who copies one changes nothing by it."""
    server = load_server_config(str(DEPLOY / "examples" / "file.toml"))
    assert server.collect == CollectConfig()


def test_nginx_looks_where_the_daemon_sends_it() -> None:
    """Without a word in the configuration: the prefix, the address and the store of the example."""
    text = (DEPLOY / "nginx.conf").read_text()
    store = load_config(str(DEPLOY / "examples" / "file.toml")).store
    assert f"location {RegistrySettings().accel_prefix} {{\n        internal;\n        alias {store}/;" in text
    assert f"server {DEFAULT_LISTEN};" in text


async def test_the_page_names_what_is_there(bench: Bench) -> None:
    """Metrics, and configuration that can be used."""
    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    figures = StoreFigures(bench.store, GcPolicy(), {"data": "/"})
    there = Metrics().names() | {name for metric in await figures.look() for name in sample_names(metric)}
    there = {re.sub(r"_(bucket|sum|count)$", "", name) for name in there if name.startswith("blobstore_")}
    named = set(re.findall(r"\bblobstore_[a-z_]+", page)) - {"blobstore_build_info"}
    assert named == there - {"blobstore_build"}


def test_the_configurations_on_the_page_can_be_used(tmp_path: Path) -> None:
    """Each by itself."""
    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        (tmp_path / "page.toml").write_text(block)
        load_server_config(str(tmp_path / "page.toml"))
        load_config(str(tmp_path / "page.toml"))
