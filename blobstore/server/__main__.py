"""`python -m blobstore.server DESCRIPTOR`: one process of the daemon, started by `blobstore serve` with the plan it inherits."""

from __future__ import annotations

import sys

from blobstore.errors import BlobstoreError
from blobstore.server.daemon.plan import Plan
from blobstore.server.daemon.process import run_process


def main() -> int:
    """Serve, and say in one line why not."""
    try:
        return run_process(Plan.read(int(sys.argv[1])))
    except BlobstoreError as error:
        print(f"blobstore: error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the edge of the program
        return 1


if __name__ == "__main__":
    sys.exit(main())
