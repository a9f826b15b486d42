"""The RAM policies that docs/backends/oss.md gives: what they allow suffices, and none of it is more than is needed."""

import json
import re
import secrets
from pathlib import Path

import pytest

from blobstore.abc.backend import read_all
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.digest import Digest
from blobstore.errors import AccessDenied
from blobstore.generation import Generation
from blobstore.layout import UPLOADS_PREFIX, blob_key
from tests.backends.test_oss import opened, plain_environment, settings_for
from tests.servers.oss_standin import OssStandin, oss_process, oss_server
from tests.servers.oss_standin.service import ACTIONS

__all__ = ["oss_process", "oss_server", "plain_environment"]
MIB = 1024 * 1024
PAGE = Path(__file__).parents[2] / "docs/backends/oss.md"
OF_VERSIONS = {"oss:ListObjectVersions", "oss:DeleteObjectVersion"}


def allowed() -> set[str]:
    """The actions of the page's policy."""
    document = re.search(r"### RAM policy\n.*?```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert document is not None
    return {action for statement in json.loads(document[1])["Statement"] for action in statement["Action"]}


async def test_a_plain_bucket_needs_the_policy_but_what_is_of_versions(oss_server: OssStandin, tmp_path: Path) -> None:
    """Everything that a store does to its bucket goes with it, and takes all of it."""
    assert await _used(oss_server, tmp_path, allowed() - OF_VERSIONS, "") == allowed() - OF_VERSIONS


async def test_a_versioned_bucket_needs_the_policy(oss_server: OssStandin, tmp_path: Path) -> None:
    """All of it."""
    assert await _used(oss_server, tmp_path, allowed(), "Enabled") == allowed()
    with pytest.raises(AccessDenied):
        await _used(oss_server, tmp_path / "again", allowed() - OF_VERSIONS, "Enabled")


async def _used(server: OssStandin, directory: Path, actions: set[str], versioning: str) -> set[str]:
    """Which rights all verbs of a store take, with an account that has these."""
    denied = (set(ACTIONS.values()) | OF_VERSIONS) - actions
    server.add_account("store", denied=tuple(denied))
    server.ask("clear")
    settings = settings_for(server, server.new_bucket(versioning), access_key_id="store")
    async with opened(settings) as client:
        store = ObjectStoreBackend(
            RetryingClient(client), prefix="registry", spool_directory=str(directory), part_bytes=MIB
        )
        await store.put_new("checkpoint/x", b"small")
        await store.put("blobstore.json", b"{}")
        await _push(store)
        await _let_go(store)
        keys = [info.key async for info in store.list("")]
        assert len(keys) == 3
        assert await store.delete(keys) == set(keys)
    return set(server.ask("actions"))


async def _push(store: ObjectStoreBackend) -> None:
    """In two sessions, and back."""
    data, generation = secrets.token_bytes(3 * MIB + 1), Generation(1, 1)
    key = blob_key(Digest.of(data), generation)
    upload = await store.open_upload(str(generation), key=key)
    await upload.write(data[: 2 * MIB])
    await upload.aclose()
    upload = await store.open_upload(str(generation), resume=True)
    await upload.write(data[upload.offset :])
    assert await upload.commit(key) == (key,)
    assert await read_all(store, key) == data
    assert (await store.stat(key)).size_bytes == len(data)


async def _let_go(store: ObjectStoreBackend) -> None:
    """An upload that was left, by its name in the listing."""
    upload = await store.open_upload(str(Generation(1, 2)))
    await upload.write(secrets.token_bytes(2 * MIB))
    await upload.aclose()
    left = [info.key async for info in store.list(UPLOADS_PREFIX)]
    assert left == [f"{UPLOADS_PREFIX}{Generation(1, 2)}"]
    await store.delete(left)
