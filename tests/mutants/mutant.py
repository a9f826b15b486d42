"""A mutant: the engine broken on purpose in one place, and the test that must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """A passage of one file, replaced. It must stand there exactly once: when the engine moves on, a mutant fails loudly."""

    file: str
    old: str
    new: str

    def apply(self, tree: Path) -> None:
        """Edit the copy of the project at `tree`."""
        path = tree / self.file
        text = path.read_text(encoding="utf-8")
        found = text.count(self.old)
        if found != 1:
            raise StaleMutant(f"{self.file} has the passage {found} times, not once:\n{self.old}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


class StaleMutant(Exception):
    """The engine has changed where a mutant would break it: write the mutant anew."""


@dataclass(frozen=True)
class Mutant:
    """`breaks` says in a sentence what no longer holds, `promise` which invariant or promise of docs/storage.md, or rule of
    docs/security.md, that is;
    `caught_by` are node ids of tests of which the first that runs must fail.

    A mutant that is `saved_by` another check breaks nothing alone: `caught_by` must pass then, and fails for the pair of them.
    """

    name: str
    breaks: str
    promise: str
    edits: tuple[Edit, ...]
    caught_by: tuple[str, ...]
    saved_by: str = ""

    def apply(self, tree: Path) -> None:
        """Break the copy of the project at `tree`."""
        for edit in self.edits:
            edit.apply(tree)
