"""A process that fuzzes one target: `python -m tests.fuzz.child TARGET`, then what libFuzzer takes."""

from __future__ import annotations

import importlib
import resource
import sys

import atheris

address_space_max_bytes = 1 << 30
"""A parser that wants more for an input of some kilobytes gets a MemoryError, which is a finding as any other error."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (address_space_max_bytes, address_space_max_bytes))
    program, name, *arguments = sys.argv
    # Only what is on trial is watched: coverage of anything else would lead the search away.
    with atheris.instrument_imports(include=["blobstore"], enable_loader_override=False):
        targets = importlib.import_module("tests.fuzz.targets")
    targets.lower_limits()
    atheris.Setup([program, *arguments], targets.TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
