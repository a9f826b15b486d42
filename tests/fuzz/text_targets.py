"""Short texts that strangers hand in: digests, names, references, units, URLs, configuration files, names on a backend."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from urllib.parse import unquote_to_bytes

from blobstore.app import policy_of
from blobstore.backends._keys import checked_key
from blobstore.cli._errors import UsageInvalid
from blobstore.cli._references import parse_reference
from blobstore.config import load_config
from blobstore.digest import Algorithm, Digest
from blobstore.errors import ConfigInvalid, DigestInvalid, InvalidInput, NameInvalid, TagInvalid, UploadUnknown
from blobstore.generation import Generation
from blobstore.importers.oci_layout import blob_path
from blobstore.index import _records as records
from blobstore.layout import (
    BlobName,
    blob_key,
    checkpoint_key,
    data_key,
    journal_key,
    parse_blob_key,
    parse_checkpoint_key,
    parse_data_key,
    parse_journal_key,
    parse_record_key,
    parse_upload_key,
    record_key,
    upload_key,
)
from blobstore.locations import (
    DEFAULT_STORE,
    FilesystemLocation,
    NasLocation,
    OssLocation,
    S3Location,
    parse_index_url,
    parse_store_url,
)
from blobstore.names import RepositoryName, TagName, UploadId
from blobstore.units import format_age, format_duration, format_size, parse_duration_s, parse_size_bytes
from tests.fuzz.attempts import HeldFile, check_stays_inside, taken, text_of

GENERATION = Generation(0x0123456789ABCDEF, 0x42)

# As distribution-spec has them, each in one piece.
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)

_STORE_KINDS = {"file": FilesystemLocation, "nas": NasLocation, "s3": S3Location, "oss": OssLocation}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"TiB": 1024**4, "GiB": 1024**3, "MiB": 1024**2, "KiB": 1024, "B": 1, "": 1}
_SEQUENCE_MAX = 2**63 - 1

_configuration = HeldFile()


def fuzz_digest(data: bytes) -> None:
    """What is taken is written the same again, has the length of its algorithm, and makes names that stay where they belong."""
    text = text_of(data)
    digest = taken(Digest.parse, text, raises=DigestInvalid)
    if digest is None:
        return
    assert str(digest) == text
    assert len(digest.value) == digest.algorithm.size_bytes
    assert records.digest_from_key(records.digest_key(digest)) == digest
    check_stays_inside(blob_path(digest))
    if digest.algorithm is Algorithm.SHA256:
        key = blob_key(digest, GENERATION)
        check_stays_inside(key)
        assert parse_blob_key(checked_key(key)) == BlobName(digest, GENERATION)


def fuzz_names(data: bytes) -> None:
    """Taken is exactly what the specification's grammar takes, unchanged; and a reference is written as it was read."""
    text = text_of(data)
    repository = taken(RepositoryName.parse, text, raises=NameInvalid)
    assert (repository is not None) == (len(text) <= 255 and _REPOSITORY.fullmatch(text) is not None)
    tag = taken(TagName.parse, text, raises=TagInvalid)
    assert (tag is not None) == (_TAG.fullmatch(text) is not None)
    upload = taken(UploadId.parse, text, raises=UploadUnknown)
    for name in (repository, tag, upload):
        if name is not None:
            assert name == text
            check_stays_inside(name)
    try:
        reference = parse_reference(text)
    except (InvalidInput, UsageInvalid):
        return
    assert str(reference) == text
    assert reference.tag is None or reference.digest is None


def fuzz_units(data: bytes) -> None:
    """Durations and sizes are exact, and what is shown of them is read back as the same."""
    text = text_of(data)
    seconds = taken(parse_duration_s, text, raises=ConfigInvalid)
    if seconds is not None:
        assert seconds == float(Fraction(text[:-1]) * _UNITS[text[-1]])
        assert format_age(seconds)
        shown = format_duration(seconds)
        if seconds < 10**9:
            assert abs(parse_duration_s(shown) - seconds) < 0.001, shown
    size = taken(parse_size_bytes, text, raises=ConfigInvalid)
    if size is not None:
        unit = next(unit for unit in _SIZES if text.endswith(unit))
        assert size == Fraction(text.removesuffix(unit)) * _SIZES[unit]
        number, shown_unit = format_size(size).split(" ")
        assert (
            abs(Fraction(number) * _SIZES[shown_unit] - size) <= Fraction(51, 1000) * _SIZES[shown_unit] + size * 2**-50
        )


def fuzz_locations(data: bytes) -> None:
    """A URL is the one place it says, or refused; no other kind of store is taken for a path, no part of one is dropped."""
    text = text_of(data)
    named, is_url, rest = text.partition("://")
    store = taken(parse_store_url, text, raises=ConfigInvalid)
    index = taken(parse_index_url, text, raises=ConfigInvalid)
    if store is not None:
        kind = _STORE_KINDS[named.lower() if is_url else "file"]
        assert isinstance(store, kind)
    if isinstance(store, (S3Location, OssLocation)):
        assert is_url
        assert rest in {
            store.bucket,
            f"{store.bucket}/",
            f"{store.bucket}/{store.prefix}",
            f"{store.bucket}/{store.prefix}/",
        }
        assert checked_key(f"{store.prefix}/x" if store.prefix else "x")
        store = None
    if index is not None and is_url:
        assert named.lower() == "lmdb"
    for location in (store, index):
        if location is not None:
            _check_path(text, location.path)


def _check_path(text: str, place: str) -> None:
    assert place == os.path.abspath(place)
    assert "\x00" not in place
    _, is_url, rest = text.partition("://")
    if not is_url:
        assert place == os.path.abspath(text)
        return
    host, slash, path = rest.partition("/")
    assert (host in ("", "localhost"), slash) == (True, "/")
    assert not {"?", "#"} & set(path)
    assert os.fsencode(place) == os.path.abspath(b"/" + unquote_to_bytes(os.fsencode(path)))


def fuzz_configuration(data: bytes) -> None:
    """A file is taken whole, and then every value in it can be used or is refused where it is used."""
    _configuration.hold(data)
    config = taken(load_config, _configuration.path, raises=ConfigInvalid)
    if config is None:
        return
    assert config.gc.max_share is None or 0 <= config.gc.max_share <= 1
    for text in (config.gc.grace, config.gc.quarantine, config.gc.upload_idle):
        assert text is None or parse_duration_s(text) >= 0
    policy = taken(lambda: policy_of(config.gc), raises=ConfigInvalid)
    if policy is not None and config.gc.grace is not None:
        assert policy.grace_s == parse_duration_s(config.gc.grace)
    taken(parse_store_url, config.store or DEFAULT_STORE, raises=ConfigInvalid)
    if config.index:
        taken(parse_index_url, config.index, raises=ConfigInvalid)


def fuzz_layout(data: bytes) -> None:
    """A name on a backend is ours only if we would write it again byte for byte, and then the index can count it."""
    key = text_of(data)
    blob, upload = parse_blob_key(key), parse_upload_key(key)
    waiting, record = parse_data_key(key), parse_record_key(key)
    journal, checkpoint = parse_journal_key(key), parse_checkpoint_key(key)
    ours = []
    if blob is not None:
        ours.append(blob_key(blob.digest, blob.generation))
    if upload is not None:
        ours.append(upload_key(upload))
    if waiting is not None:
        ours.append(data_key(waiting))
    if record is not None:
        ours.append(record_key(blob_key(record.digest, record.generation)))
    generation = Generation.parse(key[-32:])
    if generation is not None:
        assert Generation.from_key(generation.key) == generation
        assert str(generation) == key[-32:]
    if journal is not None:
        assert generation is not None
        assert max(journal.first, journal.last) <= _SEQUENCE_MAX
        ours.append(journal_key(journal.first, journal.last, generation))
    if checkpoint is not None:
        assert generation is not None
        assert checkpoint <= _SEQUENCE_MAX
        ours.append(checkpoint_key(checkpoint, generation))
    assert all(each == key for each in ours)
    assert len(ours) <= 1
    for each in ours:
        check_stays_inside(checked_key(each))
    if taken(checked_key, key, raises=InvalidInput) is not None:
        check_stays_inside(key)


_HEX = "0123456789abcdef" * 4
DIGEST_SEEDS = [f"sha256:{_HEX}", f"sha512:{_HEX}{_HEX}", f"blake3:{_HEX}", f"sha256:{_HEX}\n", "sha256:../..", ""]
NAME_SEEDS = [
    "library/alpine",
    "a.b_c__d---e/f",
    "v1.0-rc_1",
    "0123456789abcdef" * 2,
    "a/b:tag",
    f"a/b@sha256:{_HEX}",
    "a" * 256,
]
NAME_SEEDS += ["../x", "a//b", "a/b:c@d", "localhost:5000/a", "a:b/c"]
UNIT_SEEDS = ["90s", "15m", "24h", "7d", "1.5h", "10GiB", "512KiB", "1.5MiB", "1048576", "5B", "1024TiB", "-1s", "1e3s"]
UNIT_SEEDS += ["1234567.5s", "999999999999999999.999999TiB"]
LOCATION_SEEDS = [
    "./blobstore-data",
    "file:///srv/a%20b",
    "lmdb:///srv/index",
    "file://localhost/srv",
    "s3://bucket/path",
]
LOCATION_SEEDS += [
    "FILE:///a/../b",
    "oss://b",
    "oss://bucket/a/b-c/",
    "s3://access:secret@bucket/path",
    "nas:///mnt/share",
    "S3://bucket/../x",
    "file://host/a",
    "",
    "file:///a%00",
    "/a://b",
    "file:///a#b",
    "file://[",
]
CONFIGURATION_SEEDS = [
    'store = "./data"\nindex = "lmdb:///srv/index"\n[gc]\ngrace = "24h"\nquarantine = "1h"\ndelete_untagged = true\n',
    '[gc]\nmax_share = 0.5\nupload_idle = "90s"\n',
    "[gc]\nmax_share = nan\n",
    "gc = { grace = '''1d''', max_share = 1_0 }\n",
    'store = "a\\u0000b"\nx = [1, 2.5, 1979-05-27T07:32:00Z]\n',
]
LAYOUT_SEEDS = [
    blob_key(Digest.parse(f"sha256:{_HEX}"), GENERATION),
    upload_key(GENERATION),
    data_key(GENERATION),
    record_key(blob_key(Digest.parse(f"sha256:{_HEX}"), GENERATION)),
    journal_key(1, 23, GENERATION),
    checkpoint_key(23, GENERATION),
    "blobstore.json",
    f"journal/{'9' * 20}-{'9' * 20}.{GENERATION}",
    "blobs/../x",
]
