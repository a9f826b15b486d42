"""docs/cli.md against what the commands print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from blobstore.cli._app import build
from tests.cli.conftest import Cli, Images

REFERENCE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def keys(value: Any) -> set[str]:
    """Every key of a document, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_the_reference_names_every_command():
    """And every subcommand."""
    for name in build():
        if not name.startswith("-"):
            assert re.search(rf"`{name}\b", REFERENCE), name
    for name in ("gc explain", "gc undo", "gc runs", "index rebuild"):
        assert f"**`{name}" in REFERENCE


@pytest.mark.parametrize(
    "argv",
    [
        ["init"], ["put", "blob"], ["import", "LAYOUT", "x/y"], ["export", "library/app:a", "out"], ["ls"],
        ["ls", "library/app"], ["stat", "LAYER"], ["tag", "library/app:a", "c"], ["untag", "library/app:a"],
        ["rm", "library/app"], ["du"], ["du", "library/app"], ["stats"], ["check", "--read-data"], ["gc"],
        ["copy", "SOURCE", "target"], ["gc", "--dry-run"], ["gc", "runs"], ["gc", "explain", "LAYER"], ["index", "rebuild"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_reference_names_every_key(cli: Cli, images: Images, layout, argv: list[str]):
    """No JSON document has a key that the reference is silent on."""
    Path("blob").write_text("x")
    if argv[:2] == ["gc", "runs"]:
        cli("gc")
    real = {"LAYER": images.shared_layer, "LAYOUT": str(layout.path), "SOURCE": str(images.store)}
    document = json.loads(cli(*(real.get(each, each) for each in argv), "--json").out)
    assert {key for key in keys(document) if f'"{key}"' not in REFERENCE} == set()


@pytest.mark.parametrize("option", ["--grace", "--quarantine", "--no-delete-untagged", "--incremental", "--max-share"])
def test_the_reference_names_every_option_of_gc(cli: Cli, option: str):
    """As the help does."""
    assert option in REFERENCE
    assert option in cli("gc", "--help").out
