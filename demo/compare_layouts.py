"""Compares the blobs of two OCI image layouts, byte for byte."""

from __future__ import annotations

import sys
from pathlib import Path


def main(first: str, second: str) -> None:
    """Exit with 1 and a sentence if they differ."""
    blobs = [
        {path.name: path.read_bytes() for path in Path(layout, "blobs", "sha256").iterdir()}
        for layout in (first, second)
    ]
    if blobs[0] != blobs[1]:
        sys.exit(f"they differ: {sorted(blobs[0].keys() ^ blobs[1].keys()) or 'same names, other bytes'}")
    print(f"All {len(blobs[0])} blobs are the same, byte for byte.")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
