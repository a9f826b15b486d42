"""Running one target in a child: so many executions, guided by coverage, under limits of time and memory."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import msgspec

from tests.fuzz.targets import TARGETS

PROJECT = Path(__file__).parent.parent.parent

input_seconds_max = 9
resident_max_mib = 768

_EXECUTED = re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE)
_WRITTEN = re.compile(r"Test unit written to (\S+)$", re.MULTILINE)


class Outcome(msgspec.Struct, frozen=True):
    """What a child did; `broken_by` is the file of the input that broke the target."""

    executions: int
    broken_by: Path | None
    output: str


def run(name: str, executions: int, seed: int, folder: Path) -> Outcome:
    """Fuzz a target. Inputs that reached new code stay in `folder`/corpus, so that the next run goes on from them; one that broke
    it stays in `folder`/found and is tried again first, until it breaks it no more.

    A process that is told to stop takes its child along; one that is killed leaves a child that ends by itself.
    """
    corpus, found = folder / "corpus", folder / "found"
    for each in (corpus, found):
        each.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(TARGETS[name].inputs):
        (corpus / f"seed-{number:03}").write_bytes(data)
    command = [
        sys.executable, "-m", "tests.fuzz.child", name, f"-runs={executions}", f"-seed={seed}",
        f"-max_len={TARGETS[name].size_max_bytes}", f"-timeout={input_seconds_max}",
        f"-rss_limit_mb={_own_peak_mib() + resident_max_mib}",
        f"-artifact_prefix={found}/", "-print_final_stats=1", "-verbosity=1", str(corpus), str(found),
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:
        try:
            output, _ = child.communicate()
        except BaseException:
            child.kill()
            raise
    executed = _EXECUTED.search(output)
    written = _WRITTEN.search(output)
    if child.returncode == 0 and executed is not None:
        for path in found.iterdir():
            path.unlink()
    elif written is None:
        raise RuntimeError(f"the child that fuzzes {name} ended with {child.returncode}:\n{output[-4000:]}")
    return Outcome(
        int(executed[1]) if executed is not None else 0, Path(written[1]) if written is not None else None, output
    )


def _own_peak_mib() -> int:
    """What we had at most: Linux counts it into a child's peak, as that begins its life in our memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def describe(name: str, outcome: Outcome) -> str:
    """What broke a target, as a Python literal to be kept among the regressions, and how to see it again."""
    assert outcome.broken_by is not None
    trace = outcome.output[outcome.output.find(" === ") :] if " === " in outcome.output else outcome.output
    return (
        f"{name} is broken by {outcome.broken_by.read_bytes()!r}\n{trace[:3000]}\n"
        f"Again: python -m tests.fuzz.long --replay {name} {outcome.broken_by}"
    )
