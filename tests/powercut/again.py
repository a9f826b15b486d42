"""Looks again at a state that was kept because it was wrong: `python -m tests.powercut.again FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.powercut.campaign import enter_workspace, look
from tests.powercut.disks import FILE_SYSTEMS, Disk, copy_sparse


def main(folder: Path) -> None:
    """Print what is wrong; the kept image stays as it is."""
    kept = json.loads((folder / "expected.json").read_text())
    expected = {key: frozenset(right) for key, right in kept["expected"].items()}
    image = folder.resolve() / "image"
    workspace = enter_workspace()
    copy_sparse(str(image), f"{workspace}/torn")
    disk = Disk(FILE_SYSTEMS[kept["file_system"]], f"{workspace}/torn", f"{workspace}/mounted")
    for problem in look(disk, expected, loses_index=kept["loses_index"]) or ["nothing is wrong"]:
        print(problem)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
