"""Properties over any text: where it stands in an order of names, and which bytes it asks for."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.names import TagName
from blobstore.server.protocol._ranges import Span, chunk_span, wanted_spans
from blobstore.server.protocol._tags import _cursor
from blobstore.server.protocol.messages import Headers
from blobstore.server.protocol.problems import Problem
from blobstore.server.protocol.routing import Endpoint, find_route
from tests.spec.client import digest

TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True).map(TagName.parse)
TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
NEAR = st.one_of(TEXT, st.builds(lambda tag, more: tag + more, TAGS, TEXT), TAGS.map(str))


@given(NEAR, TAGS)
def test_a_cursor_stands_where_its_text_does(last: str, tag: TagName) -> None:
    """Every tag is behind the one as it is behind the other, in byte order; and a key of the index has room for it."""
    cursor = _cursor(last, 128)
    assert (tag.encode() > cursor.encode()) == (tag.encode() > last.encode())
    assert len(cursor.encode()) <= 129


@given(st.text("bytes=0123456789-, x", max_size=40), st.integers(0, 200))
def test_ranges_lie_within(text: str, size: int) -> None:
    """Whatever is asked for: parts of what is there, none empty; or all of it, or an answer that says why not."""
    with contextlib.suppress(Problem):
        spans = wanted_spans(Headers([("Range", text)]), '"x"', size, 9)
        for span in spans or ():
            assert 0 <= span.start < span.stop <= size
        assert spans is None or 1 <= len(spans) <= 9


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 200))
def test_a_range_is_the_bytes_it_names(first: int, last: int, size: int) -> None:
    """As a slice of all bytes would have it."""
    everything = bytes(range(size))
    expected = everything[first : last + 1]
    headers = Headers([("Range", f"bytes={first}-{last}")])
    if not expected:
        with pytest.raises(Problem) as refused:
            wanted_spans(headers, '"x"', size, 9)
        assert refused.value.status == 416
        return
    spans = wanted_spans(headers, '"x"', size, 9)
    assert spans == [Span(first, first + len(expected))]
    assert spans is not None
    assert everything[spans[0].start : spans[0].stop] == expected


@given(st.text("0123456789- /", max_size=50))
def test_a_chunk_says_where_it_belongs_or_is_refused(text: str) -> None:
    """Any text; nothing else is raised."""
    span = None
    with contextlib.suppress(Problem):
        span = chunk_span(Headers([("Content-Range", text)]))
    if span is None:
        return
    assert f"{span.start}-{span.stop - 1}" == "-".join(str(int(part)) for part in text.strip().split("-"))


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_chunk_that_says_where_it_belongs(first: int, size: int) -> None:
    """From its first byte to its last, both of them in it."""
    headers = Headers([("Content-Range", f"{first}-{first + size}")])
    assert chunk_span(headers) == Span(first, first + size + 1)


WORDS = st.sampled_from(
    ["blobs", "uploads", "manifests", "tags", "list", "referrers", "a", "b-c", "_oci", "ext", "discover", ""]
)


@given(st.lists(WORDS, min_size=1, max_size=4).map("/".join))
def test_paths_are_read_from_the_right(name: str) -> None:
    """Whatever a repository is called, its endpoints are its own."""
    named = digest(b"")
    for path, endpoint in (
        (f"/v2/{name}/blobs/{named}", Endpoint.BLOB),
        (f"/v2/{name}/blobs/uploads/", Endpoint.UPLOADS),
        (f"/v2/{name}/blobs/uploads/id", Endpoint.UPLOAD),
        (f"/v2/{name}/manifests/tag", Endpoint.MANIFEST),
        (f"/v2/{name}/tags/list", Endpoint.TAGS),
        (f"/v2/{name}/referrers/{named}", Endpoint.REFERRERS),
    ):
        route = find_route(path)
        assert (route.endpoint, route.name) == (endpoint, name)
