"""The inventory of `data/` says what a dictionary would, in a few bytes for each object."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.inventory import DataListing, digest_part, list_data, list_names
from blobstore.layout import blob_key, data_key, record_key

generations = st.builds(Generation, st.integers(0, 3), st.integers(0, 2**64 - 1))


@given(st.dictionaries(generations, st.integers(0, 2**63), max_size=60), st.sets(generations, max_size=60))
def test_it_says_what_a_dictionary_says(sizes: dict[Generation, int], asked: set[Generation]) -> None:
    """Sizes of what is there, None of what isn't, and what no record spoke of."""
    listing = DataListing()
    for generation in sorted(sizes, key=data_key):
        listing.add(generation, sizes[generation])
    assert len(listing) == len(sizes)
    for generation in asked | set(sizes):
        assert listing.size_of(generation) == sizes.get(generation)
    recorded = asked | set(list(sizes)[::2])
    for generation in recorded:
        assert listing.note_record(generation) == sizes.get(generation)
    assert dict(listing.without_record()) == {key: size for key, size in sizes.items() if key not in recorded}


async def test_names_of_a_digest_come_side_by_side() -> None:
    """Bytes and records merged in one order; names of nobody's are neither lost nor in the way."""
    backend = MemoryBackend()
    digests = [Digest.of(b"%d" % number) for number in range(30)]
    keys = [blob_key(digest, Generation(1, at)) for at, digest in enumerate(digests)]
    keys += [record_key(blob_key(digest, Generation(2, at))) for at, digest in enumerate(digests[::3])]
    keys += ["blobs/sha256/README", "commits/sha256/zz/top"]
    for key in keys:
        await backend.put_new(key, b"")
    found = [info.key async for info in list_names(backend)]
    assert sorted(found) == sorted(keys)
    assert found == sorted(found, key=digest_part)


async def test_strangers_below_data_are_told() -> None:
    """A name that we never made is no generation."""
    backend = MemoryBackend()
    right = data_key(Generation(1, 2))
    elsewhere = f"data/{'00' if not right.startswith('data/00') else '01'}/{Generation(1, 2)}"
    for key in (right, elsewhere, "data/README"):
        await backend.put_new(key, b"xyz")
    strangers: list[str] = []
    listing = await list_data(backend, strangers.append)
    assert strangers == sorted([elsewhere, "data/README"])
    assert listing.size_of(Generation(1, 2)) == 3
    assert len(listing) == 1
