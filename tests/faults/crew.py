"""Workers side by side, and a directory in memory for their stages."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from tests.faults.points import Point, Result
from tests.faults.shim import compile_shim

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("FAULTS_SEED", "20261121"))
"""Of what the short forms pick."""
_PREFIX = "blobstore-faults-"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory, in memory where there is room: the kernel's own disk is not what is tested here."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    for left in Path(parent).glob(f"{_PREFIX}*"):
        maker = left.name.removeprefix(_PREFIX).partition("-")[0]
        if maker.isdigit() and not Path("/proc", maker).exists():
            # It was killed.
            shutil.rmtree(left, ignore_errors=True)
    base = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)).resolve()
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


class Crew:
    """As many workers as there are processors; use it with `with`. It ends the processes it started."""

    def __init__(self, base: Path, size: int | None = None, prefix: Sequence[str] = ()) -> None:
        self.library = compile_shim(base)
        command = [*prefix, sys.executable, "-m", "tests.faults.worker", str(base), str(self.library)]
        self._size = size or os.cpu_count() or 1
        # Sets are in the same order in each; and a Ctrl-C is not for them: they end when their input does.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        self._processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for _ in range(self._size)
        ]
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            process.wait()
            process.stdout.close()

    def order(self, **order: str) -> Any:
        """Have an order carried out by whoever is idle; blocks."""
        process = self._idle.get()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
        finally:
            self._idle.put(process)
        assert not (isinstance(answer, dict) and "crash" in answer), f"{order}: {answer['crash']}"
        return answer

    def learn(self, flows: Iterable[str]) -> dict[str, dict[str, int]]:
        """Make the templates; how many calls of each flow each fault can hit."""
        names = list(flows)
        with ThreadPoolExecutor(self._size) as threads:
            return dict(zip(names, threads.map(lambda name: self.order(learn=name), names), strict=True))

    def attempt(self, points: Iterable[Point]) -> list[Result]:
        """Try points, side by side; in their order."""
        with ThreadPoolExecutor(self._size) as threads:
            return [Result(**each) for each in threads.map(lambda point: self.order(**{"try": str(point)}), points)]


def told(result: Result) -> str:
    """A point that failed, and how to try it again."""
    lines = [f"{result.point} hit {result.hit or 'nothing'}; the caller was told {result.error or 'nothing'}"]
    lines += [f"    {problem}" for problem in result.problems]
    return "\n".join([*lines, f"    again: python -m tests.faults.long --only {result.point}"])
