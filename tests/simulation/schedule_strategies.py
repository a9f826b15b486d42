"""Strategies: which of the waiting calls goes on, so that many kinds of interleaving come up, rare ones among them."""

from __future__ import annotations

import random  # noqa: TID251 - from a printed seed
from collections.abc import Sequence

HORIZON_STEPS = 500
"""Within how many steps the change points of priorities lie: about the length of a scene."""


class Strategy:
    """One seed's way to choose: anybody; by priorities that change at a few points (PCT, ASPLOS'10); anybody but one, who
    waits as long as it can; or one for some steps in a row, then another."""

    def __init__(self, chance: random.Random, first_step: int = 0) -> None:
        self._chance = chance
        self.kind = chance.choice(["uniform", "priority", "priority", "starve", "bursts"])
        self._priorities: dict[str, float] = {}
        self._changes = {first_step + chance.randrange(HORIZON_STEPS) for _ in range(chance.randint(1, 6))}
        self._starved: str | None = None
        self._burst: tuple[str, int] = ("", 0)

    def choose(self, step: int, waiting: Sequence[str]) -> int:
        """The place of the one that goes on; `waiting` says who waits."""
        if self.kind == "priority":
            return self._by_priority(step, waiting)
        if self.kind == "starve":
            return self._all_but_one(step, waiting)
        if self.kind == "bursts":
            return self._in_bursts(waiting)
        return self._chance.randrange(len(waiting))

    def _by_priority(self, step: int, waiting: Sequence[str]) -> int:
        for who in waiting:
            if who not in self._priorities:
                self._priorities[who] = self._chance.random()
        highest = max(waiting, key=self._priorities.__getitem__)
        if step in self._changes:
            self._priorities[highest] = -step
            highest = max(waiting, key=self._priorities.__getitem__)
        return self._one_of(highest, waiting)

    def _all_but_one(self, step: int, waiting: Sequence[str]) -> int:
        if self._starved is None or step in self._changes:
            self._starved = self._chance.choice(waiting)
        others = [at for at, who in enumerate(waiting) if who != self._starved]
        return self._chance.choice(others) if others else 0

    def _in_bursts(self, waiting: Sequence[str]) -> int:
        who, left = self._burst
        if left <= 0 or who not in waiting:
            who, left = self._chance.choice(waiting), self._chance.randint(1, 40)
        self._burst = (who, left - 1)
        return self._one_of(who, waiting)

    def _one_of(self, who: str, waiting: Sequence[str]) -> int:
        return self._chance.choice([at for at, each in enumerate(waiting) if each == who])
