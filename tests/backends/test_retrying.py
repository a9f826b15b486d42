"""The layer that retries: what it repeats, what it makes of an answer that was lost, and how it gives way."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import pytest

from blobstore.abc.backend import ObjectInfo
from blobstore.backends._object_client import Part
from blobstore.backends._pacing import RetryBudget, RetryLimits
from blobstore.backends._retrying import RetryingClient
from blobstore.errors import AccessDenied, KeyUnknown, RangeInvalid, SlowDown, StorageFailed, TransientError
from blobstore.testing.fakes import FakeClock
from blobstore.testing.object_client import Fault
from tests.backends.scripted_client import ScriptedClient, Unconfirmed, fault

LOST = fault(TransientError("put k: timed out"), is_done=True)
RESET = fault(TransientError("put k: connection reset"))
SLOW = fault(SlowDown("503 SlowDown"))
LIMITS = RetryLimits(attempts_max=4)


class Bench:
    """A client with faults, and one that retries over it, in a time of its own."""

    def __init__(self, limits: RetryLimits = LIMITS, **budget: float) -> None:
        self.server, self.clock, self.slept = ScriptedClient(), FakeClock(), list[float]()
        self.budget = RetryBudget(self.clock, **budget)
        self.client = RetryingClient(self.server, budget=self.budget, limits=limits, clock=self.clock, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(round(seconds * 1000) + 1)
        await asyncio.sleep(0)

    def fail(self, verb: str, *faults: Fault | Unconfirmed | None) -> None:
        self.server.faults[verb].extend(faults)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def _get(bench: Bench, key: str, start: int = 0, stop: int | None = None) -> bytes:
    async with bench.client.get(key, start, stop) as (_, chunks):
        return b"".join([chunk async for chunk in chunks])


async def _multipart(bench: Bench, key: str = "k") -> tuple[str, list[Part]]:
    multipart_id = await bench.client.start_multipart(key)
    return multipart_id, [await bench.client.put_part(key, multipart_id, number, b"part") for number in (1, 2)]


VERBS: dict[str, Callable[[Bench], Awaitable[object]]] = {
    "put": lambda bench: bench.client.put("new", b"x", is_new=True),
    "head": lambda bench: bench.client.head("k"),
    "get": lambda bench: _get(bench, "k"),
    "delete": lambda bench: bench.client.delete(["k"]),
    "probe": lambda bench: bench.client.probe("scratch"),
    "start_multipart": lambda bench: bench.client.start_multipart("m"),
    "put_part": lambda bench: bench.client.put_part("m", "m1", 1, b"part"),
    "list_parts": lambda bench: bench.client.list_parts("m", "m1"),
    "abort": lambda bench: bench.client.abort("m", "m1"),
}


async def _prepared(bench: Bench) -> None:
    bench.server.objects["k"] = b"value"
    assert await bench.client.start_multipart("m") == "m1"
    bench.server.calls.clear()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("weather", [RESET, SLOW, LOST], ids=["reset", "slow", "lost"])
async def test_what_may_pass_is_repeated(bench: Bench, verb: str, weather: Fault) -> None:
    """Whether the request took effect or not, the next answer is the caller's."""
    await _prepared(bench)
    bench.fail(verb, weather, weather)
    await VERBS[verb](bench)
    assert bench.server.calls[verb] == 3
    assert bench.budget.spent == 2


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("error", [StorageFailed, AccessDenied])
async def test_what_stays_is_not_repeated(bench: Bench, verb: str, error: type[StorageFailed]) -> None:
    """Another error is told at once."""
    await _prepared(bench)
    bench.fail(verb, fault(error("no")))
    with pytest.raises(error):
        await VERBS[verb](bench)
    assert bench.server.calls[verb] == 1
    assert bench.slept == []


async def test_attempts_end(bench: Bench) -> None:
    """After as many as were named the error is told, with how often it was tried; nothing was slept for in vain."""
    bench.fail("head", *[RESET] * 9)
    with pytest.raises(TransientError, match=r"connection reset \(asked 4 times\)"):
        await bench.client.head("k")
    assert bench.server.calls["head"] == 4
    assert len(bench.slept) == 3


async def test_pauses_are_drawn_below_a_bound_that_doubles() -> None:
    """Full jitter: anywhere from 0 to the bound, and no bound above the largest."""
    limits = RetryLimits(attempts_max=8, delay_first_s=1, delay_max_s=20)
    longest = [0.0] * 7
    for _ in range(200):
        bench = Bench(limits)
        bench.fail("head", *[RESET] * 8)
        with pytest.raises(TransientError):
            await bench.client.head("k")
        longest = [max(pair) for pair in zip(longest, bench.slept, strict=True)]
    bounds = [1, 2, 4, 8, 16, 20, 20]
    assert all(bound / 2 < seen <= bound for seen, bound in zip(longest, bounds, strict=True))


async def test_the_budget_is_one_for_all() -> None:
    """Of many requests that fail at once only as many are repeated as the process may; successes and time earn more."""
    bench = Bench(retries_max=5, retries_per_success=0.5, retries_per_s=0)
    bench.fail("head", *[RESET] * 15)
    failed = await asyncio.gather(*[bench.client.head("k") for _ in range(10)], return_exceptions=True)
    assert bench.server.calls["head"] == 15
    assert all("not asked again" in str(error) for error in failed)
    bench.server.objects["k"] = b""
    bench.server.faults.clear()
    for _ in range(2):
        await bench.client.head("k")
    bench.fail("head", RESET)
    await bench.client.head("k")
    bench.fail("head", RESET)
    with pytest.raises(TransientError):
        await bench.client.head("k")


async def test_time_earns_retries() -> None:
    """A process that failed a lot may try again after a while, though nothing succeeded."""
    bench = Bench(retries_max=1, retries_per_success=0, retries_per_s=0.1)
    bench.server.objects["k"] = b""
    for is_repeated in (True, False):
        bench.fail("head", RESET)
        if is_repeated:
            await bench.client.head("k")
            continue
        with pytest.raises(TransientError):
            await bench.client.head("k")
    bench.clock.advance(10_000)
    bench.fail("head", RESET)
    await bench.client.head("k")


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_put_whose_answer_was_lost_is_ours(bench: Bench, lost: int) -> None:
    """Refused because it is there already: by our own attempt, so it is told as done."""
    bench.fail("put", *[LOST] * lost)
    assert await bench.client.put("k", b"ours", is_new=True) is True
    assert bench.server.objects == {"k": b"ours"}


@pytest.mark.parametrize("theirs", [b"other", b"more of it", b""])
async def test_a_put_that_somebody_else_made_is_refused(bench: Bench, theirs: bytes) -> None:
    """Also where an attempt of ours failed before, and the sizes are the same."""
    bench.server.objects["k"] = theirs
    bench.fail("put", RESET)
    assert await bench.client.put("k", b"ours!", is_new=True) is False
    assert bench.server.objects == {"k": theirs}


async def test_a_put_that_was_refused_at_once_is_believed(bench: Bench) -> None:
    """Equal bytes are not taken for ours if no attempt can have put them; a server that only was slow has done nothing."""
    bench.server.objects["k"] = b"same"
    assert await bench.client.put("k", b"same", is_new=True) is False
    bench.fail("put", SLOW)
    assert await bench.client.put("k", b"same", is_new=True) is False
    assert bench.server.calls["head"] == bench.server.calls["get"] == 0


async def test_looking_after_a_lost_answer_may_fail_too(bench: Bench) -> None:
    """It is repeated with the put, which does no harm."""
    bench.fail("put", LOST)
    bench.fail("head", RESET)
    assert await bench.client.put("k", b"ours", is_new=True) is True
    bench.fail("put", LOST)
    bench.fail("get", RESET, fault(TransientError("in the middle"), after=1))
    assert await bench.client.put("k2", b"ours", is_new=True) is True


async def test_a_completion_whose_answer_was_lost_is_done(bench: Bench) -> None:
    """The upload is unknown afterwards, its object is there with its size."""
    multipart_id, parts = await _multipart(bench)
    bench.fail("complete", LOST)
    await bench.client.complete("k", multipart_id, parts)
    assert bench.server.objects == {"k": b"partpart"}


async def test_a_completion_of_an_unknown_upload_fails(bench: Bench) -> None:
    """If no attempt can have completed it, or what is there has another size, or nothing is there."""
    multipart_id, parts = await _multipart(bench)
    bench.server.objects["k"] = b"of_size8"
    with pytest.raises(KeyUnknown):
        await bench.client.complete("k", "another", parts)
    del bench.server.objects["k"]
    await bench.client.abort("k", multipart_id)
    bench.fail("complete", RESET)
    with pytest.raises(KeyUnknown):
        await bench.client.complete("k", multipart_id, parts)
    bench.server.objects["k"] = b"another"
    bench.fail("complete", RESET)
    with pytest.raises(KeyUnknown):
        await bench.client.complete("k", multipart_id, parts)


async def test_an_upload_begun_twice_is_open_once(bench: Bench) -> None:
    """What an attempt began whose answer was lost is dropped; uploads of other keys, also longer ones, are not."""
    await bench.client.start_multipart("kk")
    bench.fail("start_multipart", LOST, RESET, LOST)
    multipart_id = await bench.client.start_multipart("k")
    assert set(bench.server.multiparts) == {("kk", "m1"), ("k", multipart_id)}


async def test_an_upload_is_begun_though_the_other_cannot_be_dropped(bench: Bench) -> None:
    """It is found later, by the listing of uploads."""
    bench.fail("start_multipart", LOST)
    bench.fail("abort", fault(AccessDenied("no right to abort")))
    assert (await bench.client.put_part("k", await bench.client.start_multipart("k"), 1, b"x")).size_bytes == 1


@pytest.mark.parametrize("breaks", [[1], [3, 2], [10], [1] * 10])
async def test_a_body_that_breaks_off_goes_on_where_it_did(bench: Bench, breaks: list[int]) -> None:
    """However often, as long as it comes further; each byte once, and no further than was asked."""
    bench.server.objects["k"] = bytes(range(20))
    bench.fail("get", *[fault(TransientError("reset in mid-body"), after=after) for after in breaks])
    assert await _get(bench, "k", 2, 18) == bytes(range(2, 18))
    assert bench.server.calls["get"] == len(breaks) + 1


async def test_a_body_that_comes_no_further_fails(bench: Bench) -> None:
    """After the attempts that one request has."""
    bench.server.objects["k"] = bytes(20)
    bench.fail("get", fault(TransientError("reset in mid-body"), after=5), *[RESET] * 10)
    with pytest.raises(TransientError, match="asked 4 times"):
        await _get(bench, "k")


async def test_a_body_that_breaks_off_at_its_end_is_whole(bench: Bench) -> None:
    """There is nothing left to ask for."""
    bench.server.objects["k"] = bytes(20)
    for stop in (None, 20, 25, 7):
        size = min(stop or 20, 20)
        bench.fail("get", fault(TransientError("reset after the last byte"), after=size))
        assert len(await _get(bench, "k", 0, stop)) == size
    assert bench.server.calls["get"] == 4


async def test_a_body_that_changes_is_not_mixed(bench: Bench) -> None:
    """Were it rewritten with another length in between, that is told."""
    bench.server.objects["k"] = bytes(20)
    bench.fail("get", fault(TransientError("reset"), after=5))
    async with bench.client.get("k") as (size, chunks):
        assert size == 20
        bench.server.objects["k"] = bytes(30)
        with pytest.raises(StorageFailed, match="changed while it was read"):
            _ = [chunk async for chunk in chunks]


async def test_what_get_refuses_is_refused_on_entering(bench: Bench) -> None:
    """Unknown keys and wrong ranges, not repeated."""
    with pytest.raises(KeyUnknown):
        await _get(bench, "k")
    bench.server.objects["k"] = b"value"
    with pytest.raises(RangeInvalid):
        await _get(bench, "k", 5)
    assert bench.server.calls["get"] == 2


async def test_a_listing_goes_on_behind_the_last_key(bench: Bench) -> None:
    """Each key once and in order, wherever it broke off; what was given to begin behind holds."""
    keys = [f"{number:04}" for number in range(2500)]
    bench.server.objects.update(dict.fromkeys(keys, b"x"))
    broken = fault(TransientError("reset"), after=300)
    bench.fail("list", RESET, broken, broken, None, RESET)
    assert [info async for info in bench.client.list("", "0009")] == [ObjectInfo(key, 1) for key in keys[10:]]


async def test_a_listing_of_uploads_tells_each_once(bench: Bench) -> None:
    """Though it begins anew each time; one that never comes further ends."""
    for number in range(10):
        await bench.client.start_multipart(f"{number}")
    bench.fail("list_multiparts", *[fault(TransientError("reset"), after=after) for after in (3, 5, 8)])
    assert [found.key async for found in bench.client.list_multiparts("")] == list("0123456789")
    bench.server.calls.clear()
    bench.fail("list_multiparts", *[fault(TransientError("reset"), after=3)] * 100)
    with pytest.raises(TransientError):
        _ = [found async for found in bench.client.list_multiparts("")]
    assert bench.server.calls["list_multiparts"] == 4


async def test_unconfirmed_deletes_are_asked_for_again(bench: Bench) -> None:
    """The keys that stayed, a few times; what is never confirmed is not told as gone."""
    bench.server.objects.update({"a": b"", "b": b"", "c": b""})
    bench.fail("delete", Unconfirmed(frozenset("ab")), Unconfirmed(frozenset("a")))
    assert await bench.client.delete(["a", "b", "c"]) == frozenset("abc")
    bench.server.objects["a"] = b""
    bench.fail("delete", *[Unconfirmed(frozenset("a"))] * 9)
    assert await bench.client.delete(["a", "b"]) == frozenset("b")
    assert bench.server.objects == {"a": b""}
    assert bench.server.calls["delete"] == 6
    assert await bench.client.delete([]) == frozenset()


async def test_complaints_slow_deletes_and_not_pushes(bench: Bench) -> None:
    """After a 503 the next delete waits for the pause, those behind it for their turn at half the pace; a put goes at once."""
    bench.fail("put", SLOW)
    await bench.client.put("k", b"x", is_new=True)
    bench.slept.clear()
    await bench.client.put("l", b"x", is_new=True)
    assert bench.slept == []
    await bench.client.delete(["k"])
    assert 1 < sum(bench.slept) <= 2 + 0.01
    bench.slept.clear()
    for _ in range(10):
        await bench.client.delete(["k"])
    pace = 10 / sum(bench.slept)
    assert LIMITS.pace_max_per_s / 2 * 0.8 < pace < LIMITS.pace_max_per_s / 2 * 1.2


async def test_the_pace_halves_with_each_complaint_and_comes_back(bench: Bench) -> None:
    """Down to the least, never to nothing; up again by a little each quiet second, to where it was."""
    pace = bench.client._pace
    seen = []
    for _ in range(12):
        pace.slow_down()
        pace.slow_down()
        seen.append(pace.per_s)
        bench.clock.advance(2000)
    assert seen[:4] == [100, 50, 25, 12.5]
    assert seen[-1] == LIMITS.pace_min_per_s
    bench.clock.advance(10_000)
    assert pace.per_s == LIMITS.pace_min_per_s + 10
    bench.clock.advance(1_000_000)
    assert pace.per_s == LIMITS.pace_max_per_s


async def test_a_complaint_stops_those_who_wait_already(bench: Bench) -> None:
    """A delete that slept towards its turn looks again when it wakes."""
    pace = bench.client._pace
    await pace.wait()
    waiting = asyncio.ensure_future(pace.wait())
    await asyncio.sleep(0)
    assert len(bench.slept) == 1
    pace.slow_down()
    await waiting
    assert sum(bench.slept) >= LIMITS.pace_pause_s


async def test_listings_keep_the_pace(bench: Bench) -> None:
    """One turn for each thousand keys."""
    bench.server.objects.update({f"{number:04}": b"" for number in range(2500)})
    bench.client._pace._per_s = 1
    _ = [info async for info in bench.client.list("")]
    assert 1.4 < sum(bench.slept) < 2.1


async def test_requests_are_bounded() -> None:
    """No more under way than named, whatever the verb; who pauses before a retry keeps nobody off."""
    bench = Bench(RetryLimits(requests_max=3))
    bench.server.objects["k"] = b"x"
    bench.fail("put", *[RESET] * 5)
    await asyncio.gather(
        *[bench.client.put(f"{number}", b"x", is_new=True) for number in range(20)],
        *[bench.client.head("k") for _ in range(20)],
        *[_get(bench, "k") for _ in range(20)],
    )
    assert bench.server.under_way_max == 3
    assert len(bench.server.objects) == 21


async def test_open_bodies_are_bounded_and_stop_no_request() -> None:
    """Slow readers wait for each other; a put passes them."""
    bench = Bench(RetryLimits(requests_max=1, bodies_max=2))
    bench.server.objects["k"] = b"x"
    release, entered = asyncio.Event(), list[int]()

    async def read_slowly(number: int) -> None:
        async with bench.client.get("k") as (_, chunks):
            entered.append(number)
            await release.wait()
            assert [chunk async for chunk in chunks] == [b"x"]

    readers = [asyncio.ensure_future(read_slowly(number)) for number in range(5)]
    assert await asyncio.wait_for(bench.client.put("l", b"x", is_new=True), 5)
    for _ in range(50):
        await asyncio.sleep(0)
    assert entered == [0, 1]
    release.set()
    await asyncio.gather(*readers)
    assert len(entered) == 5


async def test_cancelled_requests_let_go(bench: Bench) -> None:
    """Wherever they are stopped, also while they pause or hold a body: all slots are free again."""
    bench.server.objects["k"] = b"x" * 10

    async def everything() -> None:
        bench.fail("put", RESET)
        bench.fail("get", fault(TransientError("reset"), after=5))
        await bench.client.put("l", b"x", is_new=False)
        await _get(bench, "k")
        await bench.client.delete(["l"])
        _ = [info async for info in bench.client.list("")]

    cancelled = 0
    for steps in range(60):
        await _cancelled_after(steps, everything())
        cancelled += 1
        assert bench.client._requests._value == LIMITS.requests_max
        assert bench.client._bodies._value == LIMITS.bodies_max
        assert bench.server.under_way == 0
        assert not bench.client._pace._turn.locked()
    assert cancelled == 60


async def _cancelled_after(steps: int, work: Coroutine[object, object, None]) -> None:
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def test_it_passes_the_rest_on(bench: Bench) -> None:
    """Names, limits and links are the vendor's."""
    assert (bench.client.vendor, bench.client.location) == (bench.server.vendor, bench.server.location)
    assert bench.client.limits == bench.server.limits
    assert "k" in await bench.client.presign("k", 60)
    await bench.client.open()
    await bench.client.aclose()
