"""Archives that are broken or made to hurt: each is refused by name, and nothing of it becomes visible."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import blobstore
from blobstore.digest import Digest
from blobstore.errors import ArchiveInvalid
from blobstore.importers import _tar, import_image
from blobstore.importers._plan import image_index_nesting_max
from tests.importers.making import OCI_MANIFEST, LayoutMaker, docker_files, write_tar

Write = Callable[[LayoutMaker], str]


def tar_bytes(*members: tuple[tarfile.TarInfo, bytes], end: bool = True) -> bytes:
    """A tar file of raw members, so that headers can lie."""
    parts = []
    for header, data in members:
        parts += [header.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % 512)]
    return b"".join(parts) + (bytes(1024) if end else b"")


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname = len(data), kind, target
    return header, data


def resized(block: bytes, field: bytes) -> bytes:
    """A header with another size field and a right checksum."""
    changed = bytearray(block)
    changed[124:136] = field.ljust(12, b"\x00")
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\x00 " % sum(changed[:512])
    return bytes(changed)


async def refused(store: blobstore.Store, source: str, message: str) -> None:
    with pytest.raises(ArchiveInvalid, match=message):
        await import_image(store, source, "app")
    totals = await store.totals()
    assert (totals.manifests, totals.uploads) == (0, 0)


async def refused_tar(store: blobstore.Store, tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "hostile.tar"
    path.write_bytes(data)
    await refused(store, str(path), message)


# Tar files


async def test_a_tar_cut_anywhere_is_refused(store: blobstore.Store, maker: LayoutMaker, tmp_path: Path) -> None:
    """A tar file that ends at any block before its end mark is refused before a byte is imported."""
    maker.enter(maker.image(maker.blob(b"x" * 1000)), "1")
    whole = Path(maker.write_tar(tmp_path / "whole.tar")).read_bytes()
    end = len(whole.rstrip(b"\x00")) // 512 * 512 + 512
    for length in [*range(0, end + 1, 512), 700, end - 1]:
        await refused_tar(store, tmp_path, whole[:length], "truncated|checksum")
    assert (await store.totals()).present_blobs == 0


@pytest.mark.parametrize("name", ["../oci-layout", "a/../../b", "/etc/passwd", "blobs/.."])
async def test_a_name_that_leads_outside_is_refused(store: blobstore.Store, tmp_path: Path, name: str) -> None:
    """A member with an absolute name or a `..` in it spoils the whole archive."""
    await refused_tar(store, tmp_path, tar_bytes(member(name, b"x")), "leads outside")


async def test_a_leading_dot_is_fine(store: blobstore.Store, maker: LayoutMaker, tmp_path: Path) -> None:
    """Names as `tar -C layout .` writes them are understood, directories among them."""
    maker.enter(maker.image(), "1")
    path = tmp_path / "x.tar"
    files = [member(f"./{name}", data) for name, data in maker.all_files().items()]
    path.write_bytes(tar_bytes(member("./", kind=tarfile.DIRTYPE), member("./blobs/", kind=tarfile.DIRTYPE), *files))
    assert (await import_image(store, str(path), "app")).manifests_put == 1


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
async def test_a_blob_must_be_a_file(store: blobstore.Store, maker: LayoutMaker, tmp_path: Path, kind: bytes) -> None:
    """A link, pipe, device or directory in the place of a blob is refused, even a link to the right bytes."""
    layer = maker.blob(b"layer")
    maker.enter(maker.image(layer), "1")
    path = "blobs/sha256/" + layer["digest"].partition(":")[2]
    data = maker.files.pop(path)
    files = [member(name, content) for name, content in maker.all_files().items()]
    spoilt = tar_bytes(member("real", data), *files, member(path, kind=kind, target="real"))
    await refused_tar(store, tmp_path, spoilt, "where a file is expected")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
async def test_a_huge_extended_header_is_not_read(store: blobstore.Store, tmp_path: Path, kind: bytes) -> None:
    """A pax or GNU header larger than the limit is refused, whether or not its bytes are there."""
    size = _tar.tar_extended_header_max_bytes + 1
    await refused_tar(store, tmp_path, tar_bytes(member("x", bytes(size), kind)), f"extended header of {size} bytes")
    announced = resized(member("x", b"", kind)[0].tobuf(), b"77777777777") + bytes(1024)
    await refused_tar(store, tmp_path, announced, "extended header of 8589934591 bytes")


@pytest.mark.parametrize(
    "records",
    [
        b"999999 path=x\n",
        b"0 path=x\n",
        b"path=x\n",
        b"10 path=xyz",
        b"9 noequal\n",
        b"-9 path=x\n",
        b"12 size=-12\n",
        b"12 size=1e3\n",
        b"30 size=99999999999999999999\n",
        b"23 GNU.sparse.major=1\n\n",
    ],
)
async def test_a_malformed_pax_header_is_refused(store: blobstore.Store, tmp_path: Path, records: bytes) -> None:
    """Lengths that don't fit, missing signs, sizes that are no numbers and sparse files are refused."""
    await refused_tar(store, tmp_path, tar_bytes(member("x", records, tarfile.XHDTYPE), member("y")), "hostile.tar")


async def test_a_global_pax_path_is_refused(store: blobstore.Store, tmp_path: Path) -> None:
    """A header that would name all members alike is refused; a comment, as git writes it, is not what stops the import."""
    await refused_tar(store, tmp_path, tar_bytes(member("x", b"9 path=x\n", tarfile.XGLTYPE)), "global pax header sets")
    await refused_tar(store, tmp_path, tar_bytes(member("x", b"13 comment=x\n", tarfile.XGLTYPE)), "no image archive")


@pytest.mark.parametrize(
    "field", [b"-0000000001", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"9", b"0x10", b"1_0", b"\x81"]
)
async def test_a_size_that_is_none_is_refused(store: blobstore.Store, tmp_path: Path, field: bytes) -> None:
    """Negative, overflowing and malformed sizes are refused."""
    await refused_tar(store, tmp_path, resized(member("x")[0].tobuf(), field) + bytes(1024), "size")


async def test_a_size_beyond_the_file_is_refused(store: blobstore.Store, tmp_path: Path) -> None:
    """A member that says to be larger than the rest of the file is a truncated one."""
    await refused_tar(store, tmp_path, resized(member("x")[0].tobuf(), b"77777777777") + bytes(1024), "truncated")


async def test_content_behind_a_link_is_refused(store: blobstore.Store, tmp_path: Path) -> None:
    """A link with a size would be stepped over by some readers and not by others."""
    await refused_tar(store, tmp_path, tar_bytes(member("x", b"hidden", tarfile.SYMTYPE)), "with 6 bytes of content")


async def test_an_unknown_member_type_is_refused(store: blobstore.Store, tmp_path: Path) -> None:
    """GNU's old sparse files and types of vendors are refused."""
    await refused_tar(store, tmp_path, tar_bytes(member("x", b"", b"S")), "type b'S'")


async def test_too_many_members_are_refused(
    store: blobstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More members than the limit are not indexed."""
    monkeypatch.setattr(_tar, "tar_members_max", 10)
    await refused_tar(
        store, tmp_path, tar_bytes(*(member(f"m{number}") for number in range(11))), "more than 10 members"
    )


async def test_an_endless_name_is_refused(store: blobstore.Store, tmp_path: Path) -> None:
    """A member name longer than the limit is refused."""
    name = b"n" * (_tar.tar_member_name_max_bytes + 1)
    await refused_tar(
        store, tmp_path, tar_bytes(member("x", name, tarfile.GNUTYPE_LONGNAME), member("y")), "1025 characters"
    )


async def test_a_name_twice_over_different_content_is_refused(
    store: blobstore.Store, maker: LayoutMaker, tmp_path: Path
) -> None:
    """Two `index.json` that differ, if only in one byte, are refused; two equal ones are fine."""
    maker.enter(maker.image(), "1")
    files = maker.all_files()
    members = [member(name, data) for name, data in files.items()]
    index = files["index.json"]
    other = index.replace(b'"1"', b'"2"')
    assert len(other) == len(index)
    await refused_tar(store, tmp_path, tar_bytes(*members, member("index.json", other)), "'index.json' stands twice")
    await refused_tar(store, tmp_path, tar_bytes(*members, member("./index.json", b"{}")), "stands twice")
    path = tmp_path / "same.tar"
    path.write_bytes(tar_bytes(*members, member("index.json", index)))
    assert (await import_image(store, str(path), "app")).manifests_put == 1


async def test_a_compressed_tar_is_refused_with_advice(
    store: blobstore.Store, maker: LayoutMaker, tmp_path: Path
) -> None:
    """A gzip'd archive is refused, and the error says to decompress it."""
    maker.enter(maker.image(), "1")
    data = Path(maker.write_tar(tmp_path / "x.tar")).read_bytes()
    await refused_tar(store, tmp_path, gzip.compress(data), "gunzip")


@pytest.mark.parametrize("data", [b"", b"text", os.urandom(512), b"x" * 5000, bytes(1024)])
async def test_what_is_no_archive_is_refused(store: blobstore.Store, tmp_path: Path, data: bytes) -> None:
    """An empty file, text, noise and an empty archive are each refused."""
    await refused_tar(store, tmp_path, data, "truncated|checksum|no image archive")


async def test_any_flipped_byte_is_refused_or_harmless(
    store: blobstore.Store, maker: LayoutMaker, tmp_path: Path
) -> None:
    """Whatever byte of the headers and documents is changed, the import is refused by an error of ours or is the same image."""
    image = maker.image(maker.blob(b"layer"))
    maker.enter(image, "1")
    whole = Path(maker.write_tar(tmp_path / "whole.tar")).read_bytes()
    path = tmp_path / "flipped.tar"
    for at in range(0, len(whole.rstrip(b"\x00")), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            report = await import_image(store, str(path), "app")
        except ArchiveInvalid:
            continue
        assert str(report.manifests[0].digest) == image["digest"]


# Layouts, in both forms


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"imageLayoutVersion":"1.0.1"}', "version '1.0.1'"),
        (b'{"imageLayoutVersion":1}', "can't be read"),
        (b"{}", "can't be read"),
        (b"\xff\xfe", "can't be read"),
        (b"", "can't be read"),
    ],
)
async def test_another_layout_version_is_refused(
    store: blobstore.Store, maker: LayoutMaker, write: Write, header: bytes, message: str
) -> None:
    """Only version 1.0.0 is known."""
    maker.enter(maker.image(), "1")
    maker.files["oci-layout"] = header
    await refused(store, write(maker), message)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "index.json"),
        (b"[]", "index.json"),
        (b"{" * 100_000, "index.json"),
        (b'{"a":' * 100_000, "index.json"),
        (b'{"schemaVersion":2,"manifests":[],"manifests":[]}', "stands twice"),
        (b'{"schemaVersion":2}', "needs `manifests`"),
        (b'{"schemaVersion":2,"manifests":[]}', "no image"),
        (b'{"schemaVersion":2,"manifests":[],"layers":[]}', "layers"),
        (b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":-1,"digest":"x"}]}', "size"),
        (b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":99999999999999999999,"digest":"x"}]}', "size"),
        (b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":1,"digest":"sha256:../../x"}]}', "not a digest"),
        (b" " * (4 * 1024 * 1024 + 1), "at most 4194304"),
    ],
)
async def test_a_broken_list_is_refused(
    store: blobstore.Store, maker: LayoutMaker, write: Write, index: bytes, message: str
) -> None:
    """An `index.json` that is no image index, lies, or is too large is refused."""
    maker.files["index.json"] = index
    await refused(store, write(maker), message)


async def test_an_absent_list_is_refused(store: blobstore.Store, tmp_path: Path) -> None:
    """A layout without `index.json` says so; so does a directory that is no layout."""
    source = write_tar(tmp_path / "x.tar", {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'})
    await refused(store, source, "has no index.json")
    await refused(store, str(tmp_path), "has no oci-layout")


async def test_absent_content_is_refused(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """A list that names an absent manifest, and a manifest that names an absent layer, are refused by digest."""
    layer = maker.blob(b"gone")
    image = maker.image(layer)
    del maker.files["blobs/sha256/" + layer["digest"].partition(":")[2]]
    maker.enter(image, "1")
    await refused(store, write(maker), layer["digest"])
    del maker.files["blobs/sha256/" + image["digest"].partition(":")[2]]
    await refused(store, write(maker), image["digest"])


@pytest.mark.parametrize("which", ["layer", "config", "manifest"])
@pytest.mark.parametrize("data", [b"", b"changed", b"y" * 100_000])
async def test_changed_content_is_refused(
    store: blobstore.Store, maker: LayoutMaker, write: Write, which: str, data: bytes
) -> None:
    """Content that has another size or other bytes than its descriptor says is refused by digest."""
    layer, config = maker.blob(b"x" * 100_000), maker.blob(b"{}")
    image = maker.image(layer)
    spoilt = {"layer": layer, "config": config, "manifest": image}[which]["digest"]
    maker.enter(image, "1")
    maker.files["blobs/sha256/" + spoilt.partition(":")[2]] = data
    await refused(store, write(maker), spoilt)


async def test_a_manifest_must_be_what_it_is_listed_as(
    store: blobstore.Store, maker: LayoutMaker, write: Write
) -> None:
    """A document that is image and image index at once, or not JSON, or larger than a manifest may be, is refused."""
    both = json.dumps({"schemaVersion": 2, "config": maker.blob(b"{}"), "layers": [], "manifests": []}).encode()
    for body in (both, b"\x00", b"{" * 50_000, b"[]", b" " * (4 * 1024 * 1024 + 1)):
        maker.entries.clear()
        maker.enter(maker.blob(body, OCI_MANIFEST), "1")
        await refused(store, write(maker), str(Digest.of(body)))


async def test_deep_nesting_is_refused(store: blobstore.Store, maker: LayoutMaker, write: Write) -> None:
    """Image indexes nested deeper than the limit are refused; nested as deep as it, they are imported."""
    nested = maker.image()
    for _ in range(image_index_nesting_max):
        nested = maker.image_index(nested)
    maker.enter(maker.image_index(nested), "deep")
    await refused(store, write(maker), "nested more than")
    maker.entries.clear()
    maker.enter(nested, "deep")
    assert (await import_image(store, write(maker), "app")).manifests_put == image_index_nesting_max + 1


# Directories


@pytest.mark.parametrize("place", ["blob", "algorithm", "blobs", "index"])
async def test_a_symbolic_link_in_a_directory_is_refused(
    store: blobstore.Store, maker: LayoutMaker, tmp_path: Path, place: str
) -> None:
    """No component of a path inside a layout may be a link, even one to the right bytes."""
    layer = maker.blob(b"layer")
    maker.enter(maker.image(layer), "1")
    source = Path(maker.write_directory(tmp_path / "layout"))
    target = {
        "blob": source / "blobs" / "sha256" / layer["digest"].partition(":")[2],
        "algorithm": source / "blobs" / "sha256",
        "blobs": source / "blobs",
        "index": source / "index.json",
    }[place]
    target.rename(tmp_path / "outside")
    target.symlink_to(tmp_path / "outside")
    await refused(store, str(source), "symbolic link")


async def test_a_pipe_or_socket_in_a_directory_is_refused(
    store: blobstore.Store, maker: LayoutMaker, tmp_path: Path
) -> None:
    """What is no regular file is refused, and opening it does not wait."""
    layer = maker.blob(b"layer")
    maker.enter(maker.image(layer), "1")
    source = Path(maker.write_directory(tmp_path / "layout"))
    place = source / "blobs" / "sha256" / layer["digest"].partition(":")[2]
    place.unlink()
    os.mkfifo(place)
    await refused(store, str(source), "not a regular file")
    place.unlink()
    place.mkdir()
    await refused(store, str(source), "not a regular file")


async def test_a_source_that_is_no_file_is_refused(store: blobstore.Store, tmp_path: Path) -> None:
    """An absent path, a pipe and a socket are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    await refused(store, str(tmp_path / "absent"), "can't be opened")
    await refused(store, str(tmp_path / "pipe"), "neither a directory nor a file")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        await refused(store, str(tmp_path / "socket"), "can't be opened")


async def test_long_names_are_understood(store: blobstore.Store, tmp_path: Path) -> None:
    """Names over 100 characters are read in pax, in GNU and in ustar form."""
    layers = {f"{'d' * 90}/{'e' * 60}/layer.tar": b"long"}
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as archive:
            for name, data in docker_files(layers, ["app:1"]).items():
                header = tarfile.TarInfo(name)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
        assert (await import_image(store, str(path), f"app{form}")).blobs_imported == 2


def test_a_binary_size_is_understood(tmp_path: Path) -> None:
    """A file over 8 GiB, whose size GNU writes in binary and pax in a record of its own, is indexed without being read."""
    size = 2**33 + 5
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        header = tarfile.TarInfo("big")
        header.size = size
        path = tmp_path / "big.tar"
        with path.open("wb") as file:
            file.write(header.tobuf(form))
            start = file.tell()
            file.truncate(start + -(-size // 512) * 512 + 1024)
        handle = os.open(path, os.O_RDONLY)
        try:
            assert _tar.index_tar(handle, "big.tar")["big"] == _tar.Member(_tar.Kind.FILE, start, size)
        finally:
            os.close(handle)
