"""A process that tries points: it has everything imported, forks a child for each, and reads orders from its input.

`python -m tests.faults.worker BASE SHIM`; an order and its answer are a line of JSON each.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.faults.points import Point, Workshop
from tests.faults.stage import warm_up


def main() -> None:
    """Carry out orders until the input ends."""
    asyncio.run(warm_up())
    gc.freeze()
    workshop = Workshop(Path(sys.argv[1]), Path(sys.argv[2]))
    for line in sys.stdin:
        try:
            answer = _carry_out(workshop, json.loads(line))
        except Exception:  # noqa: BLE001 - whoever gave the order is told
            answer = {"crash": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


def _carry_out(workshop: Workshop, order: dict[str, Any]) -> Any:
    match order:
        case {"learn": str(flow)}:
            return workshop.learn(flow)
        case {"try": str(point)}:
            return workshop.attempt(Point.parse(point))._asdict()
        case {"trace": str(flow)}:
            return [call._asdict() for call in workshop.trace(flow)]
        case {"run unwatched": str(flow)}:
            return str(workshop.run_unwatched(flow))
    raise AssertionError(order)


if __name__ == "__main__":
    main()
