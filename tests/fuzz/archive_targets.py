"""Image archives: raw tar files, and layouts and `docker save` archives whose digests are made right, as no mutation would."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from typing import Any

from blobstore.digest import Algorithm, Digest
from blobstore.errors import ArchiveInvalid
from blobstore.importers._images import open_source
from blobstore.importers._plan import Plan, image_index_nesting_max, make_plan
from blobstore.importers._sources import Content, Files, HeldBytes, Source, TarFiles
from blobstore.importers._tar import Kind, index_tar
from blobstore.importers.docker_archive import MANIFEST_FILE, DockerArchive
from blobstore.importers.oci_layout import INDEX_FILE, LAYOUT_FILE, OciLayout, blob_path
from blobstore.manifest import MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST, parse_manifest
from tests.fuzz.attempts import HeldFile, check_stays_inside, taken

_BLOCK = 512
_SEPARATOR = b"\x1e"
_LINK = b"->"
_PLACE = re.compile(rb"([@#])([0-9])")
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

_archive = HeldFile()


def fuzz_tar(data: bytes) -> None:
    """With the first byte odd, the checksums of all headers are made right. Every member that is indexed lies inside of the
    file, under a name inside of the archive; what an image in it needs is there."""
    if not data:
        return
    body = _with_checksums(data[1:]) if data[0] & 1 else data[1:]
    handle = _archive.hold(body)
    members = taken(index_tar, handle, "archive", raises=ArchiveInvalid)
    if members is None:
        return
    for name, member in members.items():
        # The directory itself may stand in it, as `tar -C layout .` writes it.
        if name:
            check_stays_inside(name)
        assert member.start >= 0
        assert member.size_bytes >= 0
        assert member.start + member.size_bytes <= len(body)
        assert member.kind is Kind.FILE or (member.start, member.size_bytes) == (0, 0)
    with ExitStack() as stack:
        source = taken(open_source, _archive.path, stack, raises=ArchiveInvalid)
        plan = taken(make_plan, source, None, raises=ArchiveInvalid) if source is not None else None
        if source is not None and plan is not None:
            check_plan(source, plan)


def _with_checksums(data: bytes) -> bytes:
    mended = bytearray(data)
    for at in range(0, len(data) - _BLOCK + 1, _BLOCK):
        header = data[at : at + _BLOCK]
        if header[257:262] == b"ustar":
            total = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
            mended[at + 148 : at + 156] = b"%06o\x00 " % total
    return bytes(mended)


def fuzz_oci_layout(data: bytes) -> None:
    """Pieces of the input are blobs, the last is `index.json`; `@2` and `#2` in a piece stand for digest and size of piece 2."""
    files = _HeldFiles(_pieces(data))
    source = OciLayout(files)
    plan = taken(make_plan, source, None, raises=ArchiveInvalid)
    if plan is not None:
        check_plan(source, plan)
    for name in files.opened:
        check_stays_inside(name)
        assert name in (LAYOUT_FILE, INDEX_FILE) or re.fullmatch(r"blobs/(sha256|sha512|blake3)/[0-9a-f]{64,128}", name)


def fuzz_docker_archive(data: bytes) -> None:
    """Pieces of the input are files, named by their number, the last is `manifest.json`; one that begins with `->` is a
    symbolic link."""
    pieces = _pieces(data)
    names = [*map(str, range(len(pieces) - 1)), MANIFEST_FILE]
    handle = _archive.hold(b"".join(map(_member, names, pieces)) + bytes(2 * _BLOCK))
    files = taken(TarFiles, "archive", handle, raises=ArchiveInvalid)
    if files is None:
        return
    source = DockerArchive(files)
    plan = taken(make_plan, source, None, raises=ArchiveInvalid)
    if plan is not None:
        check_plan(source, plan)


def check_plan(source: Source, plan: Plan) -> None:
    """Whatever is put comes after all it needs, each with the size it is said to have, and no tag names two images."""
    put: set[Digest] = set()
    assert len(plan.levels) <= image_index_nesting_max + 1
    for level in plan.levels:
        for descriptor in level:
            with ExitStack() as stack:
                content = source.open(descriptor.digest, stack)
                assert content is not None
                body = content.read(0, content.size_bytes)
            assert len(body) == descriptor.size_bytes
            assert Digest.of(body, descriptor.digest.algorithm) == descriptor.digest
            manifest = parse_manifest(body, descriptor.media_type)
            for reference in manifest.references:
                needed = put if reference.kind == "manifest" else plan.blobs
                assert reference.kind == "foreign" or reference.digest in needed
            for child in (*manifest.layers, *manifest.manifests, *filter(None, [manifest.config])):
                assert source.size_of(child.digest) in (child.size_bytes, None)
        put |= {descriptor.digest for descriptor in level}
    for digest, size_bytes in plan.blobs.items():
        assert source.size_of(digest) == size_bytes
    named = {(entry.descriptor.digest, tag) for entry in plan.entries for tag in entry.tags}
    assert len({tag for _, tag in named}) == len(named)
    assert all(entry.descriptor.digest in put for entry in plan.entries)
    assert not any(each.media_type in MANIFEST_TYPES for each in plan.ignored)


def _pieces(data: bytes) -> list[bytes]:
    pieces: list[bytes] = []
    for piece in data.split(_SEPARATOR)[:10]:

        def filled(place: re.Match[bytes]) -> bytes:
            at = int(place[2])
            if at >= len(pieces):
                return place[0]
            text = str(Digest.of(pieces[at])) if place[1] == b"@" else str(len(pieces[at]))
            return text.encode()

        pieces.append(_PLACE.sub(filled, piece))
    return pieces


def _member(name: str, piece: bytes) -> bytes:
    is_link = piece.startswith(_LINK)
    content = b"" if is_link else piece
    header = bytearray(_BLOCK)
    header[: len(name)] = name.encode()
    header[124:136] = b"%011o\x00" % len(content)
    header[156:157] = b"2" if is_link else b"0"
    if is_link:
        target = piece.removeprefix(_LINK)[:100]
        header[157 : 157 + len(target)] = target
    header[257:265] = b"ustar\x0000"
    return _with_checksums(bytes(header)) + content + bytes(-len(content) % _BLOCK)


class _HeldFiles(Files):
    """A layout in memory that notes what it is asked for."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.location = "layout"
        self.opened: set[str] = set()
        self._found = {LAYOUT_FILE: _LAYOUT, INDEX_FILE: pieces[-1]}
        for piece in pieces[:-1]:
            for algorithm in (Algorithm.SHA256, Algorithm.SHA512):
                self._found[blob_path(Digest.of(piece, algorithm))] = piece

    def open(self, name: str, stack: ExitStack) -> Content | None:
        del stack
        self.opened.add(name)
        return HeldBytes(self._found[name]) if name in self._found else None


def _joined(*pieces: bytes | dict[str, Any] | list[Any]) -> bytes:
    written = [piece if isinstance(piece, bytes) else json.dumps(piece).encode() for piece in pieces]
    return re.sub(rb'"(#[0-9])"', rb"\1", _SEPARATOR.join(written))


def _described(media_type: str, number: int, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"@{number}", "size": f"#{number}", **more}


def _image(config: int, *layers: int, **more: Any) -> dict[str, Any]:
    described = [_described("application/vnd.oci.image.layer.v1.tar", each) for each in layers]
    return {"schemaVersion": 2, "config": _described("config", config), "layers": described, **more}


def _listed(*children: dict[str, Any]) -> dict[str, Any]:
    return {"schemaVersion": 2, "manifests": list(children)}


_NAMED = {"annotations": {"org.opencontainers.image.ref.name": "1.0", "io.containerd.image.name": "a.example:5000/b:1"}}
_ARM = {"platform": {"os": "linux", "architecture": "arm"}}
_UNKNOWN = {"platform": {"os": "unknown", "architecture": "unknown"}}
_ABSENT = {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 2}
OCI_LAYOUT_SEEDS = [
    _joined(b"{}", b"layer", _image(0, 1), _listed(_described(OCI_MANIFEST, 2, **_NAMED))),
    _joined(
        b"{}", _image(0), _image(0, 0), _listed(_described(OCI_MANIFEST, 1, **_ARM), _described(OCI_MANIFEST, 2, **_UNKNOWN)),
        _listed(_described(OCI_INDEX, 3, **_NAMED), _described("other", 0)),
    ),
    _joined(b"{}", b"layer", _image(0, 1), _listed(_described(OCI_MANIFEST, 2, size="#1"))),
    _joined(b"{}", b"layer", _image(0, 1) | {"config": _described("c", 0, size="#1")}, _listed(_described(OCI_MANIFEST, 2))),
    _joined(b"{}", _image(0), _listed(_described(OCI_MANIFEST, 1), _ABSENT), _listed(_described(OCI_INDEX, 2))),
    _joined(
        b"{}", _image(0), _image(0, subject=_described(OCI_MANIFEST, 1)),
        _listed(_described(OCI_MANIFEST, 1, **_NAMED), _described(OCI_MANIFEST, 2)),
    ),
]  # fmt: skip
_DOCKER_CONFIG = {"rootfs": {"type": "layers", "diff_ids": ["@0", "@1"]}}
DOCKER_ARCHIVE_SEEDS = [
    _joined(b"one", b"two", _DOCKER_CONFIG, [{"Config": "2", "RepoTags": ["a:1", "b/c:2"], "Layers": ["0", "./1"]}]),
    _joined(b"one", b"->0", _DOCKER_CONFIG, [{"Config": "2", "RepoTags": None, "Layers": ["0", "1"]}]),
    _joined(b"one", b"two", _DOCKER_CONFIG, [{"Config": "2", "Layers": ["0"]}]),
    _joined(b"->1", b"->0", _DOCKER_CONFIG, [{"Config": "2", "Layers": ["../0", "1"]}]),
    _joined(b"\x1f\x8b", b"->/etc/passwd", _DOCKER_CONFIG, [{"Config": "2", "Layers": ["0", "1"]}] * 2),
]


def _tar(*members: tuple[str, bytes], magic: bytes = b"ustar\x0000", flags: bytes = b"") -> bytes:
    blocks = []
    for at, (name, content) in enumerate(members):
        made = bytearray(_member(name, content))
        made[257:265] = magic
        made[156:157] = flags[at : at + 1] or made[156:157]
        blocks.append(bytes(made))
    return b"\x01" + b"".join(blocks) + bytes(2 * _BLOCK)


def _layout_members() -> list[tuple[str, bytes]]:
    *blobs, index = _pieces(OCI_LAYOUT_SEEDS[0])
    return [(LAYOUT_FILE, _LAYOUT), (INDEX_FILE, index), *((blob_path(Digest.of(blob)), blob) for blob in blobs)]


_PAX = b"".join([b"12 path=a/b\n", b"9 size=3\n", b"14 linkpath=x\n"])
TAR_SEEDS = [
    _tar(*_layout_members()),
    _tar(("x", _PAX), ("y", b"abc"), flags=b"x0"),
    _tar(("x", b"long/name\x00"), ("x", b"target\x00"), ("y", b""), magic=b"ustar  \x00", flags=b"LK2"),
    _tar(("d/", b""), ("./a", b"1"), ("a", b"1"), ("a", b"2"), flags=b"5"),
    _tar(("../e", b"")),
    _tar(("/e", b"")),
    _tar((MANIFEST_FILE, b'[{"Config":"c","Layers":["l"]}]'), ("c", b'{"rootfs":{"diff_ids":["x"]}}'), ("l", b"->c")),
    b"\x00\x1f\x8b" + bytes(_BLOCK),
]
