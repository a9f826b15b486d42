"""S1, S2: no text of a client becomes a path; names have one grammar, one parser, and a length."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blobstore.digest import Digest
from blobstore.errors import DigestInvalid
from blobstore.server.protocol.messages import Headers, Request
from blobstore.server.protocol.routing import find_route
from tests.server.security.guest import Guest, House
from tests.spec.client import Body, digest, read

HEX = "a" * 64
TRAVERSALS = [
    "sha256:../../../../etc/passwd",
    "sha256:..",
    "sha256:" + "../" * 21 + "a",
    "sha256:/etc/passwd",
    "../../../etc/passwd",
    "..",
    ".",
    "sha256:" + HEX + "/../../x",
    "sha256:" + HEX + "\n",
    "sha256:" + HEX + "\0",
    "sha256:" + HEX.upper(),
    "sha256:" + HEX[1:],
    "sha256:" + "a" * 63 + "à",
    "sha256:" + "٠" * 64,
    "sha256:sha256:" + HEX,
    "SHA256:" + HEX,
    "md5:" + "a" * 32,
    "sha512:" + HEX,
    "\\..\\..\\x",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "~root",
    "-rf",
    "$(id)",
    "a\r\nX-Evil: 1",
]


@pytest.mark.parametrize("text", [*TRAVERSALS, "sha256" + HEX])
def test_a_digest_is_what_it_is_called(text: str) -> None:
    """The whole text, not its beginning: `$` would let a line's end through."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


class Tree:
    """All that is below a folder, to see that nothing came to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = self.now()

    def now(self) -> dict[str, tuple[int, int]]:
        """Each file with its size and when it was written. The index is written to by itself."""
        found = {}
        for path in sorted(self._folder.rglob("*")):
            if "index" not in path.relative_to(self._folder).parts and path.is_file():
                found[str(path)] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was written, made or removed."""
        return self.now() == self._before


@pytest.mark.parametrize("text", TRAVERSALS)
async def test_no_path_leads_out_of_the_store(on_disk: House, tmp_path: Path, text: str) -> None:
    """In each place where a client names something, plain and percent-encoded."""
    await on_disk.root.push_image("v1", "team-a/x")
    tree = Tree(tmp_path)
    wanted = {"GET": None, "HEAD": None, "DELETE": None, "PUT": b"evil", "PATCH": b"evil", "POST": b"evil"}
    for place in (
        "team-a/x/blobs/{}",
        "team-a/x/manifests/{}",
        "team-a/x/referrers/{}",
        "team-a/x/blobs/uploads/{}",
        "{}/tags/list",
        "{}/blobs/uploads/",
        "{}",
    ):
        for written in (quote(text, safe="/:"), quote(text, safe="")):
            for method, body in wanted.items():
                answer = await on_disk.root.ask(method, "/v2/" + place.format(written), body)
                assert answer.status in (400, 404, 405), (method, place, answer)
                assert "evil" not in str(answer.headers).lower()
    for parameters in ({"digest": text}, {"mount": text, "from": "team-a/x"}, {"mount": digest(b"x"), "from": text}):
        answer = await on_disk.root.post("/v2/team-a/y/blobs/uploads/", b"evil", **parameters)
        assert answer.status == (400 if "digest" in parameters else 202)
    location = await on_disk.root.begin("team-a/x")
    assert (await on_disk.root.put(location, b"evil", digest=text)).status == 400
    await on_disk.root.delete(location)
    # What was begun and cancelled leaves at most what the cleaner takes away next.
    new = set(tree.now()) - set(tree._before)
    assert all("/disk/store/uploads/" in name for name in new), new
    assert {name: tree.now().get(name) for name in tree._before} == tree._before


ODD = st.sampled_from(
    [
        "..",
        ".",
        "",
        "%2e",
        "a",
        "b1",
        "blobs",
        "uploads",
        "manifests",
        "tags",
        "list",
        "_catalog",
        "\0",
        "A",
        "à",
        "a" * 256,
        "sha256:" + HEX,
        "latest",
        "referrers",
        "_oci",
        "ext",
        "discover",
        "\\",
        "a b",
        "\n",
    ]
)


@given(st.lists(ODD, max_size=7).map("/".join), st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]))
@example("_catalog", "GET")
@example("/_catalog", "GET")
@example("a/../b/tags/list", "GET")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_path_has_an_answer_of_the_specification(house: House, path: str, method: str) -> None:
    """Never a fault of ours, and nothing made by what is no name."""
    response = await house.root.registry.answer(
        Request(
            method=method, path="/v2/" + path, headers=Headers(house.root._fields), body=aiter(Body(b"x")), size_bytes=1
        )
    )
    await read(response)
    assert response.status < 500
    route = find_route("/v2/" + path)
    if response.status < 400 and route.name is not None:
        assert all(
            part and part.isascii() and part == part.lower() and part not in (".", "..")
            for part in route.name.split("/")
        )


@pytest.mark.parametrize(
    "name",
    [
        "a/../b",
        "a//b",
        "/a",
        "a/",
        "A",
        "a b",
        "a.",
        ".a",
        "-a",
        "a___b",
        "a..b",
        "a/_b",
        "_catalog",
        "a%2fb%2f..",
        "a" * 256,
        "à",
        "a\n",
        "a/" * 127 + "ab",
    ],
)
async def test_a_name_outside_the_grammar_is_no_repository(house: House, name: str) -> None:
    """Whatever a proxy or a file system would make of it."""
    answer = await house.root.get(f"/v2/{quote(name, safe='/')}/tags/list")
    assert answer.status in (400, 404)
    assert (await house.root.post(f"/v2/{quote(name, safe='/')}/blobs/uploads/")).status in (400, 404, 405)


async def test_words_of_the_api_are_names_too(house: House) -> None:
    """Rights are those of the repository that is meant, whichever words it is made of."""
    for name in ("team-a/blobs/uploads", "team-a/tags/list", "team-a/manifests/blobs"):
        await house.alice.push_image("v1", name)
        assert (await house.alice.get(f"/v2/{name}/tags/list")).json["tags"] == ["v1"]
        assert (await house.bob.get(f"/v2/{name}/tags/list")).status == 403
    # This one is `team-b`'s upload, not a repository of alice's.
    assert (await house.alice.get("/v2/team-b/x/blobs/uploads/team-a")).status == 403


async def test_a_long_name_is_refused_at_once(house: House) -> None:
    """By its length, before any pattern reads it; a megabyte of separators is no work."""
    for text in ("a" * 1_000_000, "a-" * 500_000, "a/" * 500_000, "-" * 1_000_000):
        answer = await house.root.get(f"/v2/{text}/tags/list")
        assert answer.status in (400, 404)
        assert len(answer.body) < 1000


async def test_a_link_in_the_store_is_not_followed(on_disk: House, tmp_path: Path) -> None:
    """Whoever could put one there might show any file of the machine."""
    data = b"a blob"
    await on_disk.alice.push(data, "team-a/x")
    [path] = (tmp_path / "disk" / "store" / "blobs" / "sha256").rglob(f"{digest(data)[7:]}*")
    (tmp_path / "outside").write_bytes(b"secret")
    path.unlink()
    path.symlink_to(tmp_path / "outside")
    try:
        answer = await Guest.get(on_disk.alice, f"/v2/team-a/x/blobs/{digest(data)}")
    except OSError:
        # A store that was tampered with: the host answers 500.
        return
    assert answer.status >= 400
    assert b"secret" not in answer.body
    assert os.path.islink(path)
