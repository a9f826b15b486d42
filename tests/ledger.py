"""Figures of a long profile, kept in a file so that it can be stopped and resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

FOLDER = Path(os.environ.get("RELIABILITY_DIR", Path(__file__).parent.parent / ".reliability"))
"""Not part of the project: what a machine has done so far."""


class Ledger:
    """How far a profile has come towards its goal, and what it counted on the way.

    `done` and `goal` are in `unit`; `figures` are further counts by name. A ledger belongs to one process at a time.
    """

    def __init__(self, name: str, *, goal: int, unit: str) -> None:
        self.name, self.goal, self.unit = name, goal, unit
        self.done = 0
        self.figures: dict[str, int | str] = {}
        if self._path.exists():
            saved = json.loads(self._path.read_text())
            self.done, self.figures = saved["done"], saved["figures"]

    @property
    def _path(self) -> Path:
        return FOLDER / f"{self.name}.json"

    @property
    def is_complete(self) -> bool:
        """Whether the goal is reached."""
        return self.done >= self.goal

    def add(self, done: int = 0, **figures: int) -> None:
        """Count what was done since, and add to figures."""
        self.done += done
        for name, count in figures.items():
            before = self.figures.get(name, 0)
            assert isinstance(before, int), f"{name} is a note: {before!r}"
            self.figures[name] = before + count

    def note(self, **figures: int | str) -> None:
        """Set figures that do not add up, such as a largest value."""
        self.figures.update(figures)

    def save(self) -> None:
        """Write all, whole or not at all; a kill loses what was counted since the last save, never the file."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        document = {"name": self.name, "unit": self.unit, "goal": self.goal, "done": self.done, "figures": self.figures}
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(document, indent=2) + "\n")
        draft.replace(self._path)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.figures.items())
        return f"{self.name}: {self.done:,} of {self.goal:,} {self.unit}" + (f" ({counts})" if counts else "")
