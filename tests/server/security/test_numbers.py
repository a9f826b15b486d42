"""S7, S26: a number costs nothing by being big, and lists come in pages (CVE-2023-2253)."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobstore.server.protocol.settings import RegistrySettings
from blobstore.testing.fakes import image
from tests.server.security.guest import House
from tests.spec.client import OCI_MANIFEST, digest

LISTS = ["/v2/_catalog", "/v2/team-a/x/tags/list"]
HUGE = ["2147483648", "9223372036854775807", "1000000000000000000"]
WRONG = ["-1", "1e3", "0x10", " 1", "1 ", "+1", "", "a", "1.0", "١", "9" * 4301, "1\n", "null", "1_000", "²"]


@pytest.fixture
async def home(house: House) -> House:
    await house.alice.push_image("v1", "team-a/x")
    return house


@pytest.mark.parametrize("url", LISTS)
@pytest.mark.parametrize("number", HUGE)
async def test_a_huge_number_is_the_largest_page(home: House, url: str, number: str) -> None:
    """Nothing is made room for before it is there."""
    await home.alice.get(url)
    tracemalloc.start()
    answer = await home.alice.get(url, n=number)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status == 200
    assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize("url", LISTS)
@pytest.mark.parametrize("number", WRONG)
async def test_what_is_no_number_is_refused(home: House, url: str, number: str) -> None:
    """Digits alone, and not too many of them."""
    answer = await home.alice.get(url, n=number)
    assert answer.status == 400
    assert len(answer.body) < 1000


@pytest.mark.parametrize("url", LISTS)
async def test_none_is_none(home: House, url: str) -> None:
    """An empty page, and no way from it that would go round for ever."""
    answer = await home.alice.get(url, n="0")
    assert answer.status == 200
    assert [] in answer.json.values()
    assert answer.get("Link") is None


@given(st.text(max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_place_in_a_list_is_one(home: House, last: str) -> None:
    """`last` need not be a name; it is no query either."""
    for url in LISTS:
        answer = await home.alice.get(url, last=last, n="1")
        assert answer.status == 200


async def test_pages_are_bounded_whatever_is_asked_for(home: House) -> None:
    """And their links lead through the whole list, each entry once."""
    for number in range(25):
        await home.alice.push_manifest(image(b"config one", [b"layer one"]).body, f"t{number:02}", "team-a/x")
    home.registry.settings = RegistrySettings(tags_page_max=10)
    found: list[str] = []
    url: str | None = "/v2/team-a/x/tags/list?n=1000000"
    pages = 0
    while url is not None:
        answer = await home.alice.get(url)
        assert len(answer.json["tags"]) <= 10
        found += answer.json["tags"]
        url = answer.next if answer.get("Link") else None
        pages += 1
    assert pages == 3
    assert found == [f"t{number:02}" for number in range(25)] + ["v1"]


async def test_referrers_come_in_pages(home: House) -> None:
    """However many a subject has: each answer is bounded, and names what is of this repository alone."""
    subject = image(b"config one", [b"layer one"])
    pushed = []
    for number in range(12):
        config = f"config {number}".encode()
        await home.alice.push(config, "team-a/x")
        body = image(config, [], subject=subject).body
        pushed.append(await home.alice.push_manifest(body, None, "team-a/x", OCI_MANIFEST))
    home.registry.settings = RegistrySettings(referrers_page_max=5)
    found: list[str] = []
    url: str | None = f"/v2/team-a/x/referrers/{subject.digest}"
    while url is not None:
        answer = await home.alice.get(url)
        listed = [each["digest"] for each in answer.json["manifests"]]
        assert len(listed) <= 5
        found += listed
        url = answer.next if answer.get("Link") else None
    assert sorted(found) == sorted(pushed)
    assert (await home.bob.get(f"/v2/team-b/x/referrers/{subject.digest}")).json["manifests"] == []


@pytest.mark.parametrize(
    "value",
    [
        "bytes=" + ",".join(f"{at}-{at}" for at in range(100_000)),
        "bytes=0-99999999999999999999999999",
        "bytes=" + "9" * 5000 + "-",
        "bytes=-" + "9" * 5000,
        "bytes=" + "0-," * 5000,
        "bytes=0-0,0-0,0-0,0-0" * 300,
        "bytes==",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-0",
        "bits=0-1",
        "bytes=٠-١",
    ],
    ids=lambda value: value[:22],
)
async def test_ranges_made_to_cost_are_cheap(home: House, value: str) -> None:
    """Many, overlapping or huge: refused, or no more bytes than a few times the blob."""
    data = b"0123456789" * 10
    await home.alice.push(data, "team-a/x")
    answer = await home.alice.get(f"/v2/team-a/x/blobs/{digest(data)}", headers={"Range": value})
    assert answer.status in (200, 206, 400, 416)
    assert len(answer.body) < 100_000


@given(st.text(max_size=60) | st.from_regex(r"bytes=(\d{0,12}-\d{0,12},? ?){0,6}", fullmatch=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_range_has_an_answer(home: House, value: str) -> None:
    """Whatever stands there."""
    data = b"layer one"
    answer = await home.alice.get(f"/v2/team-a/x/blobs/{digest(data)}", headers={"Range": value})
    assert answer.status in (200, 206, 400, 416)


@given(st.text(max_size=40) | st.from_regex(r"\d{0,25}-\d{0,25}", fullmatch=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_place_of_a_chunk_has_an_answer(home: House, value: str) -> None:
    """Nothing is written where it doesn't belong."""
    location = await home.alice.begin("team-a/x")
    answer = await home.alice.patch(location, b"abc", headers={"Content-Range": value})
    assert answer.status in (202, 400, 416)
    status = await home.alice.get(location)
    assert status["Range"] in ("0-0", "0-2")
    assert answer.status != 202 or status["Range"] == "0-2"


async def test_many_tags_at_once_are_refused(home: House) -> None:
    """Each is a row; 414 says that the line was too long."""
    body = image(b"config one", [b"layer one"]).body
    url = f"/v2/team-a/x/manifests/{digest(body)}?" + "&".join(f"tag=t{number}" for number in range(101))
    answer = await home.alice.put(url, body, headers={"Content-Type": OCI_MANIFEST})
    assert answer.status == 414
    assert (await home.alice.get("/v2/team-a/x/tags/list")).json["tags"] == ["v1"]
