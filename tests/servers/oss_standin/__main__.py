"""The stand-in as a process: prints its port, serves on loopback alone, ends when its standard input does."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiohttp import web

from tests.servers.oss_standin import listings, multiparts, objects
from tests.servers.oss_standin.replies import Refusal, refuse
from tests.servers.oss_standin.service import Service
from tests.servers.oss_standin.signatures import Account
from tests.servers.oss_standin.storage import Bucket

_READ_BYTES = 1024 * 1024

HANDLERS = {
    "PutBucket": listings.put_bucket,
    "GetBucketInfo": listings.info,
    "GetBucketVersioning": listings.versioning,
    "ListObjectsV2": listings.list_objects,
    "ListObjectVersions": listings.list_versions,
    "DeleteMultipleObjects": listings.delete_many,
    "ListMultipartUploads": multiparts.list_uploads,
    "PutObject": objects.put,
    "GetObject": objects.get,
    "HeadObject": objects.head,
    "DeleteObject": objects.delete,
    "InitiateMultipartUpload": multiparts.initiate,
    "UploadPart": multiparts.put_part,
    "ListParts": multiparts.list_parts,
    "CompleteMultipartUpload": multiparts.complete,
    "AbortMultipartUpload": multiparts.abort,
}


class Control:
    """What tests ask of the stand-in behind its customers' back: `POST /-/<verb>` with its arguments as JSON."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle(self, request: web.Request) -> web.Response:
        verb = getattr(self, request.match_info["verb"])
        return web.json_response(verb(**await request.json()))

    def bucket(self, name: str, versioning: str = "", *, forgets: bool = False) -> None:
        self._service.buckets[name] = Bucket(name, self._service.region, versioning, forgets=forgets)

    def drop_bucket(self, name: str) -> None:
        self._service.buckets.pop(name, None)

    def account(self, denied: list[str], **fields: Any) -> None:
        self._service.accounts[fields["key_id"]] = Account(denied=set(denied), **fields)

    def domain(self, name: str, bucket: str) -> None:
        self._service.domains[name] = bucket

    def fault(self, **fields: Any) -> None:
        self._service.faults.add(**fields)

    def clear(self) -> None:
        """No faults any more, clocks right, nothing counted, what was held is forgotten."""
        self._service.faults.clear()
        self._service.held.clear()
        self._service.counts.clear()
        self._service.actions.clear()
        self._service.clock_ahead_s = 0

    def release(self) -> int:
        """Do what came in and was held back; how many."""
        held, self._service.held = self._service.held, []
        for effect in held:
            try:
                effect()
            except Refusal:
                # Whoever asked is gone; there is nobody to tell.
                continue
        return len(held)

    def clock(self, ahead_s: float) -> None:
        self._service.clock_ahead_s = ahead_s

    def retain(self, bucket: str, key: str) -> None:
        self._service.buckets[bucket].undeletable.add(key)

    def counts(self) -> dict[str, int]:
        return dict(self._service.counts)

    def actions(self) -> dict[str, int]:
        return dict(self._service.actions)

    def state(self, bucket: str) -> dict[str, Any]:
        """What a bucket really holds."""
        found = self._service.buckets[bucket]
        return {
            "versions": {
                key: [
                    {
                        "id": each.version_id,
                        "is_marker": each.bodies is None,
                        "size": each.size,
                        "crc": each.crc,
                        "headers": each.headers,
                    }
                    for each in found.versions(key)
                ]
                for key in found.keys("", "")
            },
            "multiparts": {
                each.upload_id: {"key": each.key, "parts": {number: body.size for number, body in each.parts.items()}}
                for each in found.multiparts.values()
            },
        }


async def serve(region: str) -> None:
    """Until standard input ends."""
    service = Service(region, HANDLERS)

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await service.handle(request)
        except ConnectionError:
            # They hung up; nobody is left to be told.
            return refuse(Refusal(400, "RequestTimeout"), request.method)

    application = web.Application()
    application.router.add_post("/-/{verb}", Control(service).handle)
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None, read_bufsize=_READ_BYTES, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1, backlog=512)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
