# ruff: noqa: E501 - golden bytes stay in one piece
"""Index rows and keys, byte for byte: what was written once is read by every later version of this format."""

import msgpack
import msgspec
import pytest

from blobstore.digest import Algorithm, Digest
from blobstore.errors import FormatUnsupported
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.index._tables import Table
from blobstore.index.memory import MemoryIndex
from blobstore.layout import blob_key
from blobstore.manifest import OCI_MANIFEST
from blobstore.testing._index_scene import ALPHA, IDENTITY, LATEST, Scene
from blobstore.testing.fakes import CONFIG_TYPE, START_MS

G = bytes(range(16))
H = b"\x11" * 32
T = 1_700_000_000_000

# fmt: off
ROWS = [
    (records.BLOB, records.BlobRow(records.STATE_PRESENT, G, 5, None, [], []), "970100c410000102030405060708090a0b0c0d0e0f05c09090"),
    (records.BLOB, records.BlobRow(records.STATE_CONDEMNED, G, 2**40, H, ["blobs/x"], [b"\x02" + H + H]), "970101c410000102030405060708090a0b0c0d0e0fcf0000010000000000c420111111111111111111111111111111111111111111111111111111111111111191a7626c6f62732f7891c4410211111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111"),
    (records.BLOB, records.BlobRow(records.STATE_SUSPECT, G, 0, None, [], []), "970102c410000102030405060708090a0b0c0d0e0f00c09090"),
    (records.REPOSITORY, records.RepositoryRow(7, T, T + 1), "940107cf0000018bcfe56800cf0000018bcfe56801"),
    (records.MANIFEST, records.ManifestRow("type", None, None, 9, T, T, 0, 1, False), "9a01a474797065c0c009cf0000018bcfe56800cf0000018bcfe568000001c2"),
    (records.MANIFEST, records.ManifestRow("type", "artifact", b"\x01" + H, 9, T, T, T, 0, True), "9a01a474797065a86172746966616374c42101111111111111111111111111111111111111111111111111111111111111111109cf0000018bcfe56800cf0000018bcfe56800cf0000018bcfe5680000c3"),
    (records.TAG, records.TagRow(H, T), "9301c4201111111111111111111111111111111111111111111111111111111111111111cf0000018bcfe56800"),
    (records.HOLD, records.HoldRow(T, None), "9301cf0000018bcfe56800c0"),
    (records.HOLD, records.HoldRow(2**63 - 1, b"\0\0\0\x07" + H), "9301cf7fffffffffffffffc424000000071111111111111111111111111111111111111111111111111111111111111111"),
    (records.INTENT, records.IntentRow(G, "a/b", ["uploads/x"], 0, None, "boot", T), "9801c410000102030405060708090a0b0c0d0e0fa3612f6291a975706c6f6164732f7800c0a4626f6f74cf0000018bcfe56800"),
    (records.INTENT, records.IntentRow(G, None, ["uploads/x", "blobs/x"], 4096, b"state", "boot", T), "9801c410000102030405060708090a0b0c0d0e0fc092a975706c6f6164732f78a7626c6f62732f78cd1000c4057374617465a4626f6f74cf0000018bcfe56800"),
    (records.TRASH, records.TrashRow(None, ["x"], 3, T, records.TRASH_RETIRING, "cancelled upload", None), "9801c091a17803cf0000018bcfe5680001b063616e63656c6c65642075706c6f6164c0"),
    (records.TRASH, records.TrashRow(H, ["x", "y"], 3, T, records.TRASH_WAITING, "unreferenced", "run-1"), "9801c420111111111111111111111111111111111111111111111111111111111111111192a178a17903cf0000018bcfe5680000ac756e7265666572656e636564a572756e2d31"),
    (records.RUN, records.RunRow("run-1", T, T + 5, b"{}"), "9501a572756e2d31cf0000018bcfe56800cf0000018bcfe56805c4027b7d"),
    (records.DROPPED, records.DroppedRow("a/b", "type", "untagged"), "9401a3612f62a474797065a8756e746167676564"),
    (records.IDENTITY, records.IdentityRow("store", "index"), "9301a573746f7265a5696e646578"),
    (records.TOTALS, records.TotalsRow(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), "9b010102030405060708090a"),
    (records.TOTALS, records.TotalsRow.zero(), "9b0100000000000000000000"),
]
# fmt: on


@pytest.mark.parametrize(("decoder", "row", "golden"), ROWS, ids=lambda value: type(value).__name__)
def test_rows(decoder: records.RowDecoder[msgspec.Struct], row: msgspec.Struct, golden: str) -> None:
    """A MessagePack array, first its version, then its fields in order."""
    assert records.encode(row).hex() == golden
    assert decoder.decode(bytes.fromhex(golden)) == row
    fields = [getattr(row, name) for name in row.__struct_fields__]
    assert msgpack.unpackb(bytes.fromhex(golden)) == [1, *fields]


@pytest.mark.parametrize(("decoder", "row", "golden"), ROWS, ids=lambda value: type(value).__name__)
def test_other_versions_and_shapes_are_refused(
    decoder: records.RowDecoder[msgspec.Struct], row: msgspec.Struct, golden: str
) -> None:
    """Another version, no version, a cut row, a row of another kind: never guessed at."""
    fields = [getattr(row, name) for name in row.__struct_fields__]
    data = bytes.fromhex(golden)
    for wrong in (
        msgpack.packb([2, *fields]),
        msgpack.packb([]),
        data[:-1],
        b"",
        b"\xc0",
        msgpack.packb({"a": 1}),
        data + b"\0",
    ):
        with pytest.raises(FormatUnsupported):
            decoder.decode(wrong)


def test_names_are_written_as_text() -> None:
    """A repository name is a string of its own type, and is stored like any other."""
    assert records.encode(records.DroppedRow(ALPHA, "t", "r")) == records.encode(
        records.DroppedRow("alpha/app", "t", "r")
    )


def test_keys() -> None:
    """Big-endian, so that they sort as what they say; a digest begins with its algorithm."""
    assert records.u32(0x01020304).hex() == "01020304"
    assert records.u64(0x0102030405060708).hex() == "0102030405060708"
    assert (records.from_u32(b"\1\2\3\4"), records.from_u64(b"\0" * 7 + b"\5")) == (0x01020304, 5)
    assert Generation(1, 2).key.hex() == "00000000000000010000000000000002"
    for algorithm, code in ((Algorithm.SHA256, "01"), (Algorithm.SHA512, "02"), (Algorithm.BLAKE3, "03")):
        digest = Digest.of(b"", algorithm)
        key = records.digest_key(digest)
        assert key.hex() == code + digest.hex
        assert records.digest_from_key(key) == digest


def test_table_numbers() -> None:
    """Their names are those of the databases on the disk."""
    names = [
        "META",
        "REPOSITORIES",
        "REPOSITORY_NAMES",
        "REMOVALS",
        "BLOBS",
        "ALIASES",
        "MANIFESTS",
        "EDGES_FROM",
        "EDGES_TO",
        "REFERRERS",
        "TAGS",
        "TAGS_OF",
        "HOLDS",
        "HOLDS_BY_TIME",
        "LOOSE_BY_TIME",
        "INTENTS",
        "INTENTS_BY_TIME",
        "INTENTS_BY_GENERATION",
        "TRASH",
        "TRASH_BY_TIME",
        "OUTBOX",
        "RUNS",
        "DROPPED",
        "EPOCHS",
    ]
    assert [table.name for table in Table] == names
    assert [table.value for table in Table] == list(range(24))


async def test_the_tables_after_one_push() -> None:
    """Every row that one tagged image leaves: key and value."""
    index = MemoryIndex()
    index._minter.epoch = 0xE
    await index.initialise(IDENTITY)
    scene = Scene(index)
    manifest = await scene.push_image(tags=["latest"], config=b"{}")
    config, m, t, r = Digest.of(b"{}").value, manifest.digest.value, f"{START_MS:016x}", "00000001"
    g = "000000000000000e"
    c, ch, mh = f"{g}{1:016x}", config.hex(), m.hex()
    b3 = {data: Digest.of(data, Algorithm.BLAKE3).value for data in (b"{}", manifest.body)}
    found = {
        table.name: {key.hex(): value.hex() for key, value in index._tables[table].values.items()}
        for table in Table
        if index._tables[table].values
    }

    def blob(generation: int, size: int, blake3: bytes) -> str:
        return msgpack.packb([1, 0, Generation(0xE, generation).key, size, blake3, [], []]).hex()

    record = msgpack.packb(
        [1, OCI_MANIFEST, CONFIG_TYPE, None, manifest.size_bytes, START_MS, START_MS, 0, 1, False]
    ).hex()
    size = 2 + manifest.size_bytes
    changes = [
        ["manifest", "alpha/app", str(manifest.digest), OCI_MANIFEST, START_MS],
        ["tag", "alpha/app", "latest", str(manifest.digest), START_MS],
    ]
    hexed = {
        name: name.encode().hex() for name in ("format", "identity", "next repository", "sequence", "totals", "latest")
    }
    assert found == {
        "META": {
            hexed["format"]: "00000001",
            hexed["identity"]: msgpack.packb([1, "store-1", "index-1"]).hex(),
            hexed["next repository"]: "00000002",
            hexed["sequence"]: f"{1:016x}",
            hexed["totals"]: msgpack.packb([1, 2, size, 0, 0, 0, 0, 0, 0, size, 0]).hex(),
        },
        "REPOSITORIES": {b"alpha/app".hex(): "94010100" + "00"},
        "REPOSITORY_NAMES": {r: b"alpha/app".hex()},
        "BLOBS": {ch: blob(1, 2, b3[b"{}"]), mh: blob(2, manifest.size_bytes, b3[manifest.body])},
        "MANIFESTS": {r + mh: record},
        "EDGES_FROM": {r + mh + mh: b"s".hex(), r + mh + ch: b"b".hex()},
        "EDGES_TO": {mh + r + mh: "", ch + r + mh: ""},
        "TAGS": {r + hexed["latest"]: msgpack.packb([1, m, START_MS]).hex()},
        "TAGS_OF": {r + mh + hexed["latest"]: ""},
        "HOLDS": {ch + r: msgpack.packb([1, START_MS, None]).hex()},
        "HOLDS_BY_TIME": {t + ch + r: ""},
        "OUTBOX": {f"{1:016x}": msgpack.packb(changes).hex()},
        "EPOCHS": {g: f"{2:016x}"},
    }
    assert c == Generation(0xE, 1).key.hex()
    assert (await index.resolve(ALPHA, LATEST)) is not None
    blob_row = await index.find_blob(manifest.digest)
    assert blob_row is not None
    assert blob_row.names == (blob_key(manifest.digest, Generation(0xE, 2)),)
