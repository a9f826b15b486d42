"""The command line: `main` runs it for the shell, `run` for a caller that wants the exit status (docs/cli.md)."""

from __future__ import annotations

from collections.abc import Sequence


def main() -> None:
    """The entry point of the command `blobstore`; ends the process."""
    import sys

    from blobstore.cli._run import run_as_process

    sys.exit(run_as_process(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one command in this process, with the standard streams as they are; returns its exit status."""
    from blobstore.cli._run import run_command

    return run_command(argv)


__all__ = ["main", "run"]
