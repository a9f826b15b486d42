"""Listeners are told what Docker Distribution would tell them, and nobody waits for them."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from blobstore.digest import Digest
from blobstore.errors import ConfigInvalid
from blobstore.names import RepositoryName, TagName
from blobstore.server.operations.config import EndpointConfig, NotificationsConfig
from blobstore.server.operations.logs import make_log
from blobstore.server.operations.notifications import Notifier, targets
from blobstore.server.protocol import observing
from blobstore.server.protocol.access import ANYBODY, Principal
from blobstore.server.protocol.messages import Headers, Request
from blobstore.server.protocol.registry import Registry
from tests.gc.scene import Bench

# What Debian's docker-registry 2.8.2 posted when the requests of `scenario` were sent to it.
RECORDED = Path(__file__).with_name("distribution-2.8-events.json")
CONFIG, LAYER = b"{}", b"layer"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Receiver:
    """A real listener on the loopback, which answers what it is told to."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        """Of the next answers; 200 after them, and 0 for none at all."""
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.taken: list[dict[str, Any]] = []
        self.url = ""
        self.news = asyncio.Condition()

    async def receive(self, request: web.Request) -> web.Response:
        document = json.loads(await request.read())
        status = self.statuses.pop(0) if self.statuses else 200
        async with self.news:
            self.requests.append((dict(request.headers), document))
            if 200 <= status < 300:
                self.taken += document["events"]
            self.news.notify_all()
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        elsewhere = {"Location": self.url} if 300 <= status < 400 else None
        return web.Response(status=status or 200, headers=elsewhere)

    async def wait_for(self, count: int) -> list[dict[str, Any]]:
        async with self.news:
            await asyncio.wait_for(self.news.wait_for(lambda: len(self.taken) >= count), 20)
        return self.taken


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver, application = Receiver(), web.Application()
    application.router.add_post("/hook", receiver.receive)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


class Tallied:
    """Counts as metrics do."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.waiting = 0

    def notified(self, listener: str, outcome: str, waiting: int) -> None:
        assert listener == "test"
        self.outcomes[outcome] += 1
        self.waiting = waiting


def config(receiver: Receiver, **more: Any) -> NotificationsConfig:
    endpoint = EndpointConfig(name="test", url=receiver.url, backoff="0.01s")
    return NotificationsConfig(endpoints=(msgspec.structs.replace(endpoint, **more),))


def tag_deleted(number: int = 0) -> observing.TagDeleted:
    request = Request(method="DELETE", path="/", request_id="r")
    return observing.TagDeleted(
        request=request, principal=ANYBODY, repository=RepositoryName("a"), tag=TagName(f"t{number}")
    )


async def scenario(registry: Registry) -> None:
    """The requests behind the recorded events."""

    async def send(method: str, path: str, body: bytes | None = None, **query: str) -> str:
        async def chunks(data: bytes) -> AsyncIterator[bytes]:
            yield data

        headers = Headers(
            [
                ("User-Agent", "Python-urllib/3.11"),
                *([("Content-Type", OCI_MANIFEST)] if "/manifests/" in path else []),
            ]
        )
        request = Request(
            method=method,
            path=path,
            query=list(query.items()),
            headers=headers,
            body=chunks(body) if body is not None else None,
            size_bytes=len(body) if body is not None else None,
            host="127.0.0.1:46002",
            peer="127.0.0.1",
            request_id="x",
        )
        response = await registry.answer(request)
        assert response.status < 300, (method, path, response)
        if hasattr(response.payload, "close"):
            response.payload.close()
        return response.header("Location") or ""

    for data in (CONFIG, LAYER):
        location = await send("POST", "/v2/a/b/blobs/uploads/")
        await send("PUT", location, data, digest=str(Digest.of(data)))
    descriptors = [
        {"mediaType": "application/vnd.oci.image.config.v1+json"},
        {"mediaType": "application/vnd.oci.image.layer.v1.tar"},
    ]
    described = [
        {**descriptor, "digest": str(Digest.of(data)), "size": len(data)}
        for descriptor, data in zip(descriptors, (CONFIG, LAYER), strict=True)
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": [described[1]]}
    manifest, layer = json.dumps(document).encode(), Digest.of(LAYER)
    await send("PUT", "/v2/a/b/manifests/latest", manifest)
    await send("POST", "/v2/c/d/blobs/uploads/", mount=str(layer), **{"from": "a/b"})
    await send("GET", "/v2/a/b/manifests/latest")
    await send("GET", f"/v2/a/b/manifests/{Digest.of(manifest)}")
    await send("GET", f"/v2/a/b/blobs/{layer}")
    await send("DELETE", f"/v2/a/b/manifests/{Digest.of(manifest)}")
    await send("DELETE", f"/v2/a/b/blobs/{layer}")


def comparable(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what is another one each time."""
    found = []
    for event in events:
        assert len(event["id"]) == len("42bf0e29-5734-4d26-b59a-f965ab3af92b")
        assert event["timestamp"].endswith("Z")
        assert set(event["source"]) == {"addr", "instanceID"}
        request = {**event["request"], "id": "", "addr": event["request"]["addr"].partition(":")[0]}
        found.append({**event, "id": "", "timestamp": "", "source": "", "request": request})
    return found


async def test_events_are_those_of_docker_distribution(bench: Bench) -> None:
    """Field by field what version 2.8 posts for the same requests. It also tells of HEAD as a pull, and of the tags of a deleted
    manifest; we don't. And it lets a blob be deleted that a manifest needs."""
    recorded = [
        event
        for event in json.loads(RECORDED.read_text())
        if event["request"]["method"] != "HEAD"
        and (event["action"], event["target"].get("tag")) != ("delete", "latest")
    ]
    recorded[-2:] = reversed(recorded[-2:])
    async with receiving() as receiver:
        notifier = Notifier(config(receiver), clock=bench.clock)
        await notifier.open()
        await scenario(Registry(bench.store, observer=notifier))
        events = await receiver.wait_for(len(recorded))
        await notifier.aclose()
    assert comparable(events) == comparable(recorded)
    headers, document = receiver.requests[0]
    assert headers["Content-Type"] == "application/vnd.docker.distribution.events.v1+json"
    assert len(document["events"]) == 1


async def test_a_listener_that_fails_gets_every_event_once_and_in_order() -> None:
    """Errors, answers that break off, errors beyond the threshold: each event is tried again until it is taken."""
    tally, stream = Tallied(), io.StringIO()
    async with receiving() as receiver:
        receiver.statuses = [500, 0, 200, 503, 502, 500, 500, 0, 404, 401, 200, 200, 429]
        notifier = Notifier(config(receiver, threshold=3), tally=tally, log=make_log(None, stream))
        await notifier.open()
        for number in range(6):
            notifier(tag_deleted(number))
        events = await receiver.wait_for(6)
        await notifier.aclose()
    assert [event["target"]["tag"] for event in events] == [f"t{number}" for number in range(6)]
    assert tally.outcomes == {"queued": 6, "delivered": 6, "failed": 10}
    assert tally.waiting == 0
    assert "a listener takes no events" in stream.getvalue()
    assert "takes events again" in stream.getvalue()


async def test_an_event_that_is_sent_elsewhere_is_not_delivered() -> None:
    """A listener that has moved is a fault that somebody has to see, and is not followed wherever it points."""
    tally, stream = Tallied(), io.StringIO()
    async with receiving() as receiver:
        receiver.statuses = [301, 307]
        notifier = Notifier(config(receiver, threshold=2), tally=tally, log=make_log(None, stream))
        await notifier.open()
        notifier(tag_deleted())
        await receiver.wait_for(1)
        await notifier.aclose()
    assert len(receiver.requests) == 3
    assert tally.outcomes == {"queued": 1, "failed": 2, "delivered": 1}
    assert "status 307" in stream.getvalue()


async def test_an_event_that_a_listener_refuses_again_and_again_does_not_stop_the_others() -> None:
    """Only answers that say so: what may pass is waited for."""
    tally = Tallied()
    async with receiving() as receiver:
        receiver.statuses = [400, 500, 400, 422]
        notifier = Notifier(config(receiver, threshold=2), tally=tally)
        await notifier.open()
        notifier(tag_deleted(0))
        notifier(tag_deleted(1))
        events = await receiver.wait_for(1)
        await notifier.aclose()
    assert [event["target"]["tag"] for event in events] == ["t1"]
    assert tally.outcomes["refused"] == 1


async def test_a_queue_that_is_full_drops_what_comes_and_says_so() -> None:
    """Counted one by one, told once."""
    tally, stream = Tallied(), io.StringIO()
    async with receiving() as receiver:
        notifier = Notifier(config(receiver, queue=3), tally=tally, log=make_log(None, stream))
        for number in range(10):
            notifier(tag_deleted(number))
        assert tally.outcomes == {"queued": 3, "dropped": 7}
        assert stream.getvalue().count("events are dropped") == 1
        await notifier.open()
        events = await receiver.wait_for(3)
        await notifier.aclose()
    assert [event["target"]["tag"] for event in events] == ["t0", "t1", "t2"]


async def test_a_listener_that_is_not_there_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither who is observed nor the end; what could not be sent is counted."""
    monkeypatch.setattr("blobstore.server.operations.notifications.FLUSH_WITHIN_S", 0.05)
    tally, stream = Tallied(), io.StringIO()
    endpoint = EndpointConfig(name="test", url="http://127.0.0.1:9/hook", backoff="60s", threshold=1)
    notifier = Notifier(NotificationsConfig(endpoints=(endpoint,)), tally=tally, log=make_log(None, stream))
    await notifier.open()
    for number in range(5):
        notifier(tag_deleted(number))
    await notifier.aclose()
    assert (tally.outcomes["queued"], tally.outcomes["delivered"], tally.outcomes["dropped"]) == (5, 0, 5)
    assert '"dropped":5' in stream.getvalue()


async def test_what_a_listener_ignores_is_not_sent(bench: Bench) -> None:
    """By action, by media type."""
    async with receiving() as receiver:
        wanted = config(receiver, ignored_actions=("pull", "mount"), ignored_media_types=("application/octet-stream",))
        notifier = Notifier(wanted)
        await notifier.open()
        await scenario(Registry(bench.store, observer=notifier))
        events = await receiver.wait_for(3)
        await notifier.aclose()
    assert [(event["action"], event["target"].get("mediaType")) for event in events] == [
        ("push", OCI_MANIFEST),
        ("delete", None),
        ("delete", None),
    ]


async def test_a_secret_comes_from_its_file(tmp_path: Path) -> None:
    """And is in no configuration; a file that isn't there is an error at start."""
    (tmp_path / "secret").write_text("Bearer s3cret\n")
    async with receiving() as receiver:
        given = config(
            receiver, authorization_file=str(tmp_path / "secret"), headers={"X-Site": "one"}, media_type="v2"
        )
        notifier = Notifier(given)
        await notifier.open()
        notifier(tag_deleted())
        await receiver.wait_for(1)
        await notifier.aclose()
        headers = receiver.requests[0][0]
        with pytest.raises(ConfigInvalid, match="nowhere"):
            await Notifier(config(receiver, authorization_file=str(tmp_path / "nowhere"))).open()
    assert (headers["Authorization"], headers["X-Site"]) == ("Bearer s3cret", "one")
    assert headers["Content-Type"].endswith("events.v2+json")


def test_a_manifest_under_several_tags_is_an_event_for_each() -> None:
    """Distribution knows one tag an event; without any there is one event."""
    fields: dict[str, Any] = {
        "request": Request(method="PUT", path="/"),
        "principal": Principal("alice"),
        "repository": RepositoryName("a"),
        "digest": Digest.of(b""),
        "size_bytes": 0,
        "media_type": OCI_MANIFEST,
    }
    for tags, expected in (((), [None]), (("1", "latest"), ["1", "latest"])):
        put = observing.ManifestPushed(**fields, tags=tuple(TagName(tag) for tag in tags))
        assert [target.get("tag") for _, target in targets(put)] == expected
