"""Short words for what the store's tests push."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import blobstore
from blobstore.store import Store


async def push_blob(store: Store, data: bytes, repository: str = "app") -> blobstore.Descriptor:
    async with store.repository(repository).open_upload() as upload:
        await upload.write(data)
        return await upload.commit()


def small_disk(tmp_path: Path, size: str) -> Path:
    """A tmpfs of a few MiB, where root may mount one."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mounted)], capture_output=True, check=False
    )
    if made.returncode != 0:
        reason = "mounting a small file system needs root"
        pytest.fail(reason) if os.environ.get("REQUIRE_ALL") == "1" else pytest.skip(reason)
    return mounted
