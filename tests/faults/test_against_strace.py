"""The shim misses nothing: it counts the calls on the store that strace sees."""

from __future__ import annotations

import collections
import os
import random  # noqa: TID251 - from a printed seed
import re
from pathlib import Path

import pytest

from tests.faults.crew import SEED, Crew, scratch
from tests.faults.flows import FLOWS
from tests.faults.shim import NAMES
from tests.tools import require_tool

pytestmark = pytest.mark.timeout(600)

_ALWAYS = ("upload-large", "open")
"""A flow of each kind of call; others are drawn."""
_FLOWS = int(os.environ.get("FAULTS_FLOWS", "4"))
# Their workers run side by side, so that how many share a commit differs from run to run.
_CONCURRENT = {"import-layout", "import-archive", "rebuild"}
_CALL = re.compile(r"^\d+ +(\w+)\((.*)$")
_LOCKS = ("F_SETLK", "F_SETLKW", "F_GETLK", "F_OFD_SETLK", "F_OFD_SETLKW")


def _traced(lines: list[str], root: str) -> list[str]:
    """The names of the calls on `root` between its marks; those that were interrupted by another thread's are listed where
    they began."""
    names: list[str] = []
    is_inside = False
    for line in lines:
        if f"{root}/--begin--" in line or f"{root}/--end--" in line:
            is_inside = "--begin--" in line
            continue
        found = _CALL.match(line)
        if not is_inside or found is None or root not in line:
            continue
        name, arguments = found.groups()
        # The data that is written may name the root too; paths stand first.
        if name != "fcntl" or any(f"{lock}," in arguments for lock in _LOCKS):
            names.append(name)
    return names


def test_the_shim_sees_what_strace_sees(tmp_path: Path) -> None:
    """The same calls, by name, as often."""
    log = tmp_path / "strace.log"
    # Those that NAMES has for compatibility alone are not all known to strace by name.
    traced = ",".join(sorted(set(NAMES.values()) - {"preadv", "faccessat2"}))
    strace = [
        require_tool("strace"),
        "-f",
        "-y",
        "-qq",
        "-s",
        "0",
        "-o",
        str(log),
        "-e",
        f"trace={traced}",
        "-e",
        "signal=none",
    ]
    print(f"FAULTS_SEED={SEED}")
    flows = [*_ALWAYS, *random.Random(SEED).sample(sorted(FLOWS.keys() - set(_ALWAYS)), _FLOWS)]
    with scratch() as base:
        with Crew(base, 1) as crew:
            crew.learn(flows)
            seen = {flow: [call["name"] for call in crew.order(trace=flow)] for flow in flows}
        with Crew(base, 1, prefix=strace) as crew:
            roots = {flow: crew.order(**{"run unwatched": flow}) for flow in flows}
        # One worker has one root; its flows follow each other, each between two marks.
        (root,) = set(roots.values())
    parts = _split(log.read_text(errors="replace").splitlines(), root)
    assert len(parts) == len(flows)
    for flow, lines in zip(flows, parts, strict=True):
        by_strace, by_shim = collections.Counter(_traced(lines, root)), collections.Counter(seen[flow])
        assert by_shim, flow
        if flow in _CONCURRENT:
            assert by_shim.keys() == by_strace.keys(), flow
        else:
            assert by_shim == by_strace, (
                f"{flow}: {by_shim - by_strace} by the shim, {by_strace - by_shim} by strace alone"
            )


def _split(lines: list[str], root: str) -> list[list[str]]:
    parts: list[list[str]] = []
    for line in lines:
        if f"{root}/--begin--" in line:
            parts.append([])
        if parts:
            parts[-1].append(line)
    return parts
