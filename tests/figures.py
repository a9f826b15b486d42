"""The table of docs/reliability.md, from what the long profiles have counted: `python -m tests.figures` writes it anew."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.ledger import FOLDER
from tests.mutants.mutants import MUTANTS

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: python -m tests.figures -->\n", "<!-- end of figures -->\n"

Figures = Mapping[str, int | str]


def _count(figures: Figures, name: str) -> str:
    return f"{int(figures.get(name, 0)):,}"


def _named(*names: str) -> Callable[[Figures], str]:
    """A list of figures under their own names."""
    return lambda figures: ", ".join(f"{_count(figures, name)} {name.replace('_', ' ')}" for name in names)


def _caught(figures: Figures) -> str:
    """Of the broken engines, how many states each spoiled: "12 of 60"."""
    found = [str(count) for count in figures.values() if " of " in str(count)]
    return f"{sum(not count.startswith('0 of') for count in found)} of {len(found)} broken engines caught"


ROWS: tuple[tuple[str, str, Callable[[Figures], str]], ...] = (
    ("model", "Models of the protocol, searched by spin", _named("states", "transitions", "variants_refuted")),
    (
        "machine",
        "State machine against an oracle",
        _named("memory_steps", "lmdb_steps", "restarts", "rebuilds", "collections"),
    ),
    (
        "interleavings",
        "Interleavings of several processes",
        _named("distinct_schedules", "switches", "late_requests", "killed", "collections", "failed"),
    ),
    ("faults", "The n-th system call fails, or kills", _named("flows", "errors", "kills", "wrong")),
    (
        "powercut",
        "Power cuts, by replay of block writes",
        lambda figures: f"{_named('ext4', 'xfs', 'btrfs', 'wrong')(figures)}; {_caught(figures)}",
    ),
    ("kills", "`kill -9` of processes", _named("acknowledged", "collections", "rebuilds", "lost")),
    ("soak", "Soak", _named("collections", "condemned", "freed", "broken", "unknown_in_promise", "leaks")),
    ("fuzz", "Fuzzing, guided by coverage", lambda figures: f"{len(figures)} parsers"),
)


def table() -> str:
    """The rows, in Markdown; what was not run yet says so."""
    lines = ["| what | reached | of it | again with |", "|---|---|---|---|"]
    for name, title, of_it in ROWS:
        path = FOLDER / f"{name}.json"
        if not path.exists():
            lines.append(f"| {title} | not run yet | | `make prove-{name}` |")
            continue
        saved = json.loads(path.read_text())
        lines.append(
            f"| {title} | {saved['done']:,} {saved['unit']} | {of_it(saved['figures'])} | `make prove-{name}` |"
        )
    others = sum(bool(mutant.saved_by) for mutant in MUTANTS)
    caught = (
        f"{len(MUTANTS) - others} caught by the test that is named for them; "
        f"{others} break nothing alone, as another check saves them"
    )
    lines.append(f"| Engines broken on purpose | {len(MUTANTS)} mutants | {caught} | `pytest tests/mutants` |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Put the table between its marks."""
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}{table()}{END}{tail}")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
