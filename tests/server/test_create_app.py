"""The registry inside somebody's own application of aiohttp."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import blobstore
from blobstore.server import create_app
from blobstore.server.protocol.access import OpenAccess

BYTES = hashlib.shake_128(b"app").digest(3_000_000)
DIGEST = "sha256:" + hashlib.sha256(BYTES).hexdigest()


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    async with blobstore.open(str(tmp_path / "store"), create=True) as store:
        application = web.Application()
        application.on_response_prepare.append(stamp)
        application.router.add_get("/own", own)
        application.add_subapp("/v2", create_app(store))
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()


async def own(_: web.Request) -> web.Response:
    return web.Response(text="mine")


async def stamp(_: web.Request, response: web.StreamResponse) -> None:
    """What others add to every answer of theirs, they can add to ours."""
    response.headers["X-Own"] = "1"


async def test_a_blob_goes_through_a_mounted_registry(url: str):
    """Pushed with a body far above aiohttp's usual limit, with 100-continue, and pulled again, whole and in part."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/own") as answer:
            assert await answer.text() == "mine"
        async with session.post(f"{url}/v2/a/b/blobs/uploads/") as answer:
            assert answer.status == 202
            location = answer.headers["Location"]
        async with session.put(f"{url}{location}?digest={DIGEST}", data=io.BytesIO(BYTES), expect100=True) as answer:
            assert answer.status == 201
        async with session.get(f"{url}/v2/a/b/blobs/{DIGEST}") as answer:
            assert await answer.read() == BYTES
        async with session.get(f"{url}/v2/a/b/blobs/{DIGEST}", headers={"Range": "bytes=5-9"}) as answer:
            assert (answer.status, await answer.read()) == (206, BYTES[5:10])
        async with session.head(f"{url}/v2/a/b/blobs/{DIGEST}") as answer:
            assert (answer.headers["Content-Length"], answer.headers["X-Own"]) == (str(len(BYTES)), "1")
        async with session.get(f"{url}/v2/a/b/blobs/sha256:{'0' * 64}") as answer:
            assert (answer.status, (await answer.json())["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")


async def test_it_runs_by_itself(tmp_path: Path):
    """Without anything around it, with routes of somebody's own beside its one."""
    async with blobstore.open(str(tmp_path / "store"), create=True) as store:
        application = create_app(store)
        application.router.add_get("/own", own)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            for path, status in (("/v2/", 200), ("/v2", 200), ("/own", 200), ("/v2/_catalog", 200), ("/x", 404)):
                async with session.get(url + path) as answer:
                    assert (path, answer.status) == (path, status)
        await runner.cleanup()


async def test_nothing_is_decompressed(url: str):
    """S14: a body that aiohttp would make a thousand times as large is refused."""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/v2/a/b/blobs/uploads/") as answer:
            location = answer.headers["Location"]
        bomb, headers = gzip.compress(bytes(1_000_000)), {"Content-Encoding": "gzip"}
        async with session.patch(f"{url}{location}", data=bomb, headers=headers) as answer:
            assert (answer.status, (await answer.json())["errors"][0]["code"]) == (415, "UNSUPPORTED")
        async with session.get(f"{url}{location}") as answer:
            assert (answer.status, answer.headers["Range"]) == (204, "0-0")


class Closing(OpenAccess):
    """Knows whether it was closed."""

    is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True


async def test_the_access_control_is_closed_with_the_application(tmp_path: Path):
    """It may have threads."""
    access = Closing()
    async with blobstore.open(str(tmp_path / "store"), create=True) as store:
        runner = web.AppRunner(create_app(store, access=access))
        await runner.setup()
        assert not access.is_closed
        await runner.cleanup()
    assert access.is_closed


async def test_a_refusal_comes_before_the_body(url: str):
    """Aiohttp would say 100-continue by itself, before anybody looked."""
    async with aiohttp.ClientSession() as session:
        headers = {"Content-Length": "100000000", "Expect": "100-continue"}
        async with session.put(f"{url}/v2/A/blobs/uploads/x", headers=headers, data=_never(), expect100=True) as answer:
            assert answer.status in (400, 404)


async def _never() -> AsyncIterator[bytes]:
    raise AssertionError("the body was asked for")
    yield b""
