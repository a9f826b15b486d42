"""Lists of names: a repository's tags (end-8), and the catalog of repositories (Docker's extension)."""

from __future__ import annotations

import re

import msgspec

from blobstore.names import RepositoryName, TagName, repository_name_max_chars, tag_max_chars
from blobstore.server.protocol._base import document
from blobstore.server.protocol._call import Call
from blobstore.server.protocol._locations import next_link
from blobstore.server.protocol.messages import Response
from blobstore.server.protocol.problems import Problem

_COUNT = re.compile(r"[0-9]{1,19}", re.ASCII)
_BEHIND_ALL = "\x7f"
"""Sorts behind every character a name may have."""


async def list_tags(call: Call) -> Response:
    """`GET /v2/<name>/tags/list`, in byte order, a page at a time."""
    count = page_size(call, call.settings.tags_page_max, call.settings.tags_page_max)
    last = call.parameter("last")
    after = TagName(_cursor(last, tag_max_chars)) if last is not None else None
    # One more, to know whether there are more. Asked for with none too: an unknown repository is one all the same.
    found = await call.index.list_tags(call.name, after, count + 1)
    tags = [str(entry.tag) for entry in found[:count]]
    body = msgspec.json.encode({"name": str(call.name), "tags": tags})
    has_more = bool(tags) and len(found) > count
    return _listed(call, body, f"/v2/{call.name}/tags/list", tags[-1] if has_more else None, count)


async def list_catalog(call: Call) -> Response:
    """`GET /v2/_catalog`: the repositories that who asks may see."""
    settings, access = call.settings, call.core.access
    count = page_size(call, settings.catalog_page_default, settings.catalog_page_max)
    last = call.parameter("last")
    after = RepositoryName(_cursor(last, repository_name_max_chars)) if last is not None else None
    names: list[RepositoryName] = []
    while count and len(names) <= count:
        page = await call.index.list_repositories(after, settings.catalog_page_max)
        names += [name for name in page if access.sees(call.principal, name)]
        if len(page) < settings.catalog_page_max:
            break
        after = page[-1]
    body = msgspec.json.encode({"repositories": [str(name) for name in names[:count]]})
    return _listed(call, body, "/v2/_catalog", names[count - 1] if count and len(names) > count else None, count)


def page_size(call: Call, default: int, maximum: int) -> int:
    """The `n` of a request: no page is larger than `maximum`, whatever is asked for.

    Raises:
        Problem: 400, it is no number.
    """
    text = call.parameter("n")
    if text is None:
        return min(default, maximum)
    if not _COUNT.fullmatch(text):
        raise Problem(400, "UNSUPPORTED", f"n={text!r:.40} is not a number of entries")
    return min(int(text), maximum)


def _cursor(last: str, chars_max: int) -> str:
    """Where in the order of names any text stands: as far as names have characters and are long."""
    good = re.match(r"[\x21-\x7e]*", last, re.ASCII)
    assert good is not None
    text = good[0]
    if len(text) == len(last):
        return text[: chars_max + 1]
    # Its next character is behind all that names are made of, or a blank, a control, before them all.
    return text[:chars_max] + (_BEHIND_ALL if last[len(text)] > "\x7e" else "")


def _listed(call: Call, body: bytes, path: str, last: str | None, count: int) -> Response:
    found = document(call, body)
    if last is None:
        return found
    link = next_link(call, path, [("last", last), ("n", str(count))])
    return Response(found.status, [*found.headers, link], found.payload)
