"""That this is a registry, and what it can do beyond the specification."""

from __future__ import annotations

import msgspec

from blobstore.server.protocol._call import Call
from blobstore.server.protocol.messages import Response

_JSON = ("Content-Type", "application/json")
_CATALOG = {
    "name": "_catalog",
    "url": "https://distribution.github.io/distribution/spec/api/#listing-repositories",
    "description": "All repositories, as Docker's registry lists them",
    "endpoints": ["_catalog"],
}
_EXTENSIONS = msgspec.json.encode({"extensions": [_CATALOG]})


async def ping(call: Call) -> Response:
    """`GET /v2/`: every client asks this first (end-1)."""
    return document(call, b"{}")


def document(call: Call, body: bytes, content_type: tuple[str, str] = _JSON) -> Response:
    """200 with a document, or with its length alone for HEAD."""
    if call.request.method == "HEAD":
        return Response(200, [content_type, ("Content-Length", str(len(body)))])
    return Response(200, [content_type], body)


async def discover(call: Call) -> Response:
    """`_oci/ext/discover`: the extensions document (distribution-spec, extensions)."""
    return document(call, _EXTENSIONS)
