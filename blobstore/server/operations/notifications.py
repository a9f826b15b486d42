"""Notifications: what was pushed, pulled, mounted and deleted, posted to listeners as Docker Distribution does.

Source: Distribution's documentation, "Work with notifications", and what its version 2.8 sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import msgspec

from blobstore.clock import Clock, SystemClock, iso_utc, random_hex
from blobstore.server.operations._listener import Listener, Tally
from blobstore.server.operations.config import NotificationsConfig
from blobstore.server.operations.logs import Log, no_log
from blobstore.server.protocol import observing
from blobstore.server.protocol.observing import Observation

FLUSH_WITHIN_S = 5.0
"""How long a stop waits for what is queued to be sent."""
_BLOB_TYPE = "application/octet-stream"


class Notifier:
    """An observer that tells listeners.

    Args:
        config: who they are.
        address: of this registry, for `source`.
        clock: for the events' times.
        log: is told of failures and drops.
        tally: counts.
    """

    def __init__(
        self,
        config: NotificationsConfig,
        *,
        address: str = "",
        clock: Clock | None = None,
        log: Log | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._clock, self._log = clock or SystemClock(), log or no_log()
        self._source = {"addr": address or os.uname().nodename, "instanceID": _uuid()}
        self._listeners = [Listener(endpoint, self._log, tally) for endpoint in config.endpoints]
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Begin to send.

        Raises:
            ConfigInvalid: a file that holds a secret can't be read.
        """
        async with contextlib.AsyncExitStack() as stack:
            for listener in self._listeners:
                await stack.enter_async_context(listener.running())
            self._stack = stack.pop_all()

    async def aclose(self) -> None:
        """Send what is queued, for a bounded time; what is left then is counted as dropped."""
        await asyncio.gather(*(listener.drain(FLUSH_WITHIN_S) for listener in self._listeners))
        await self._stack.aclose()

    def __call__(self, observation: Observation, /) -> None:
        """One observation; see `Observer`."""
        if not self._listeners:
            return
        now_ms = self._clock.now_ms()
        for action, target in targets(observation):
            wanting = [each for each in self._listeners if each.wants(action, target.get("mediaType"))]
            if not wanting:
                continue
            event = {
                "id": _uuid(),
                "timestamp": f"{iso_utc(now_ms)[:-1]}.{now_ms % 1000:03}Z",
                "action": action,
                "target": target,
                "request": _request(observation.request),
                "actor": _actor(observation),
                "source": self._source,
            }
            envelope = msgspec.json.encode({"events": [event]}, enc_hook=str)
            for listener in wanting:
                listener.put(envelope)


def targets(observation: Observation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Action and `target` of each event that an observation is; a manifest put under several tags is one for each."""
    match observation:
        case observing.BlobPushed():
            yield "push", _content(observation, "blobs", _BLOB_TYPE)
        case observing.BlobPulled():
            yield "pull", _content(observation, "blobs", _BLOB_TYPE)
        case observing.BlobMounted(source=source):
            yield "mount", {**_content(observation, "blobs", _BLOB_TYPE), "fromRepository": source}
        case observing.ManifestPushed(media_type=media_type, tags=tags):
            for tag in tags or (None,):
                yield "push", {**_content(observation, "manifests", media_type), **_tagged(tag)}
        case observing.ManifestPulled(media_type=media_type, tag=tag):
            yield "pull", {**_content(observation, "manifests", media_type), **_tagged(tag)}
        case observing.BlobDeleted(digest=digest) | observing.ManifestDeleted(digest=digest):
            yield "delete", {"digest": str(digest), "repository": observation.repository}
        case observing.TagDeleted(tag=tag):
            yield "delete", {"repository": observation.repository, "tag": tag}
        case _:
            pass


def _content(observation: Any, kind: str, media_type: str) -> dict[str, Any]:
    request, digest = observation.request, str(observation.digest)
    return {
        "mediaType": media_type,
        "size": observation.size_bytes,
        "digest": digest,
        # The older name of `size`.
        "length": observation.size_bytes,
        "repository": observation.repository,
        "url": f"{request.scheme}://{request.host}/v2/{observation.repository}/{kind}/{digest}",
    }


def _tagged(tag: str | None) -> dict[str, str]:
    return {"tag": tag} if tag is not None else {}


def _request(request: Any) -> dict[str, str]:
    return {
        "id": request.request_id,
        "addr": request.peer,
        "host": request.host,
        "method": request.method,
        "useragent": request.headers.get("User-Agent") or "",
    }


def _actor(observation: Any) -> dict[str, str]:
    name = observation.principal.name
    return {"name": name} if name else {}


def _uuid() -> str:
    text = random_hex(16)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:]}"
