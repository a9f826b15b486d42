"""Backends as the configuration says: what the stores of one process share."""

import asyncio
import gc
import weakref

from blobstore.backends._multipart import PART_BUDGET_BYTES, PartBudget
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.config import Config, OssConfig, S3Config
from blobstore.locations import OssLocation, S3Location, parse_store_url
from blobstore.remote import SharedBudgets, make_object_store, shared_budgets

MIB = 1024 * 1024
OSS = OssConfig(endpoint="http://127.0.0.1:9", region="cn-hangzhou")


def _made(url: str, config: Config, budget: PartBudget | None = None) -> ObjectStoreBackend:
    location = parse_store_url(url)
    assert isinstance(location, S3Location | OssLocation)
    return make_object_store(location, config, budget=budget)


def _budget(backend: ObjectStoreBackend) -> PartBudget:
    return backend._tools.budget


async def test_stores_share_what_the_process_has() -> None:
    """Whoever's buckets they are: memory for parts, and requests that may be repeated."""
    stores = [_made(url, Config()) for url in ("s3://one/a", "s3://one/b", "s3://two")]
    assert {id(_budget(store)) for store in stores} == {id(_budget(stores[0]))}
    assert {id(store._client._budget) for store in stores} == {id(shared_budgets().retries)}  # type: ignore[attr-defined]
    assert _budget(stores[0])._capacity == PART_BUDGET_BYTES == 40 * MIB


async def test_what_one_upload_takes_the_other_store_has_not() -> None:
    """Half of the memory is for parts that fill; two stores fill it together."""
    one, two = (_budget(_made(url, Config())) for url in ("s3://one", "s3://two"))
    taken = [one.try_fill(8 * MIB), two.try_fill(8 * MIB)]
    assert None not in taken
    assert one.try_fill(8 * MIB) is two.try_fill(8 * MIB) is None
    for buffer in taken:
        assert buffer is not None
        buffer.release()


async def test_memory_that_is_configured_is_shared_by_who_configured_it() -> None:
    """`part_memory` is for all stores of that configuration together; a budget that is given is taken."""
    config = Config(s3=S3Config(part_memory="64MiB"))
    one, two = _made("s3://one", config), _made("s3://two", config)
    assert _budget(one) is _budget(two)
    assert _budget(one)._capacity == 64 * MIB
    assert _budget(_made("s3://one", Config())) is not _budget(one)
    given = PartBudget(MIB)
    assert _budget(_made("s3://one", config, given)) is given


def test_each_event_loop_has_its_own() -> None:
    """What waits is woken on the loop that it waits on; nothing of a loop that is gone is kept."""

    async def find() -> SharedBudgets:
        return shared_budgets()

    first, second = asyncio.run(find()), asyncio.run(find())
    assert first is not second
    left = weakref.ref(first)
    del first
    gc.collect()
    assert left() is None


async def test_oss_shares_it_too() -> None:
    """One network card for all vendors."""
    s3 = _made("s3://one", Config())
    oss = _made("oss://one", Config(oss=OSS))
    assert _budget(s3) is _budget(oss)
