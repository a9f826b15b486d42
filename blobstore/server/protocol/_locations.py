"""Where things are: the URLs in `Location` and `Link`, relative or absolute."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, urlencode

from blobstore.digest import Digest
from blobstore.names import RepositoryName
from blobstore.server.protocol._call import Call


def location(call: Call, path: str) -> tuple[str, str]:
    """The header that names a path of this registry."""
    return ("Location", _url(call, path))


def blob_path(name: RepositoryName, digest: Digest) -> str:
    """Where a blob is pulled."""
    return f"/v2/{name}/blobs/{digest}"


def manifest_path(name: RepositoryName, digest: Digest) -> str:
    """Where a manifest is pulled."""
    return f"/v2/{name}/manifests/{digest}"


def upload_path(name: RepositoryName, public_id: str) -> str:
    """Where an upload goes on. Nothing in it changes while it does, so that an older answer stays as good as the last."""
    return f"/v2/{name}/blobs/uploads/{public_id}"


def next_link(call: Call, path: str, parameters: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The header that names the next page of a list (RFC 8288)."""
    query = urlencode(list(parameters), quote_via=quote)
    return ("Link", f'<{_url(call, path)}?{query}>; rel="next"')


def _url(call: Call, path: str) -> str:
    if call.settings.absolute_locations:
        return f"{call.request.scheme}://{call.request.host}{path}"
    return path
