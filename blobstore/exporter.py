"""Exporting images: a manifest with all it leads to, as an OCI image layout (image-spec, image-layout.md)."""

from __future__ import annotations

import abc
import contextlib
import errno
import io
import json
import os
import secrets
import shutil
import tarfile
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import msgspec

from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown, Refused, StorageFailed, StorageFull
from blobstore.events import EventSink, Progress, discard
from blobstore.manifest import OCI_INDEX, Manifest
from blobstore.names import TagName
from blobstore.pool import WorkerPool
from blobstore.repository import Repository
from blobstore.store import Store

LAYOUT_BODY = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"

_PHASE = "export"
_WRITE_THREADS = 2


class ExportReport(msgspec.Struct, frozen=True):
    """What an export wrote. `foreign_left_out` are layers that the store does not hold and need not."""

    destination: str
    digest: Digest
    manifests: int
    referrers: int
    blobs: int
    bytes_written: int
    foreign_left_out: tuple[Digest, ...] = ()


async def export_image(
    store: Store, repository: str, reference: str, destination: str, *, progress: EventSink = discard
) -> ExportReport:
    """Write what a tag or digest names, with its children and the referrers of all of them, as an OCI image layout.

    The same image gives the same bytes. Everything is verified while it is read; the destination gets its name only when all of
    it is durably there.

    Args:
        store: an open store.
        repository: where the image is.
        reference: its tag, or its digest; only a tag is noted in the layout.
        destination: a file, if it ends in `.tar`, that must not exist; else a directory that is absent or empty.
        progress: is told files done and in all.

    Raises:
        ManifestUnknown, BlobUnknown: it isn't there, or was deleted meanwhile.
        BlobDamaged: its bytes are missing or wrong.
        Refused: the destination exists.
        StorageFull, StorageFailed: it can't be written; nothing is left under its name.
    """
    source = store.repository(repository)
    pool = WorkerPool("export", _WRITE_THREADS)
    writer = _writer(destination)
    try:
        await pool.finish(writer.begin)
        contents = await _collect(source, reference)
        export = _Export(source, contents, writer, pool, progress)
        await export.run()
        await pool.finish(writer.publish)
        return export.report(writer.final)
    except BaseException:
        await pool.finish(writer.discard)
        raise
    finally:
        await pool.aclose()


class _Contents(msgspec.Struct):
    """What belongs to an image, under the digests by which it is named; of a blob, whether only as a foreign layer."""

    entries: list[Descriptor]
    manifests: set[Digest]
    blobs: dict[Digest, bool]

    def index_body(self) -> bytes:
        """`index.json`."""
        listed = [entry.to_json() for entry in self.entries]
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


async def _collect(repository: Repository, reference: str) -> _Contents:
    is_digest = ":" in reference
    root = await repository.get_manifest(reference)
    # A digest of another algorithm is how its user knows the manifest, so the layout names it so too.
    name = Digest.parse(reference) if is_digest else root.digest
    annotations = {} if is_digest else {REF_NAME: str(TagName.parse(reference))}
    contents = _Contents([_entry(root, name, annotations)], set(), {})
    subjects = await _collect_below(repository, root, name, contents)
    while subjects:
        # Of referrers too: an SBOM may be signed.
        async for referrer in repository.referrers(subjects.pop()):
            if referrer.digest not in contents.manifests:
                manifest = await repository.get_manifest(referrer.digest)
                contents.entries.append(_entry(manifest, manifest.digest, {}))
                subjects += await _collect_below(repository, manifest, manifest.digest, contents)
    return contents


async def _collect_below(repository: Repository, top: Manifest, name: Digest, contents: _Contents) -> list[Digest]:
    """Take in a manifest and what it leads to; returns the sha256 digests of the manifests found."""
    found, waiting = [top.digest], [top]
    contents.manifests.add(name)
    while waiting:
        for reference in waiting.pop().references:
            if reference.kind != "manifest":
                is_foreign = reference.kind == "foreign"
                contents.blobs[reference.digest] = contents.blobs.get(reference.digest, True) and is_foreign
            elif reference.digest not in contents.manifests:
                child = await repository.get_manifest(reference.digest)
                contents.manifests.add(reference.digest)
                found.append(child.digest)
                waiting.append(child)
    return found


def _entry(manifest: Manifest, name: Digest, annotations: dict[str, str]) -> Descriptor:
    artifact_type = manifest.listed_artifact_type if manifest.subject is not None else None
    return Descriptor(
        manifest.media_type, name, manifest.size_bytes, annotations=annotations, artifact_type=artifact_type
    )


class _Export:
    """One export under way: files one after the other, in a fixed order."""

    def __init__(
        self, repository: Repository, contents: _Contents, writer: _Writer, pool: WorkerPool, progress: EventSink
    ) -> None:
        self._repository, self._contents = repository, contents
        self._writer, self._pool, self._progress = writer, pool, progress
        self._left_out: list[Digest] = []
        self._blobs = self._bytes = 0

    async def run(self) -> None:
        """Write all files."""
        names = sorted(self._contents.manifests | self._contents.blobs.keys())
        await self._write("oci-layout", LAYOUT_BODY)
        await self._write("index.json", self._contents.index_body())
        for directory in ("blobs", *sorted({f"blobs/{name.algorithm.value}" for name in names})):
            await self._pool.finish(self._writer.add_directory, directory)
        for done, name in enumerate(names):
            self._progress(Progress(_PHASE, done, len(names)))
            if name in self._contents.manifests:
                await self._write(_path(name), (await self._repository.get_manifest(name)).body)
            else:
                await self._copy_blob(name, is_foreign=self._contents.blobs[name])
        self._progress(Progress(_PHASE, len(names), len(names)))

    def report(self, destination: str) -> ExportReport:
        """What was written."""
        return ExportReport(
            destination=destination,
            digest=self._contents.entries[0].digest,
            manifests=len(self._contents.manifests),
            referrers=len(self._contents.entries) - 1,
            blobs=self._blobs,
            bytes_written=self._bytes,
            foreign_left_out=tuple(self._left_out),
        )

    async def _copy_blob(self, digest: Digest, *, is_foreign: bool) -> None:
        try:
            async with self._repository.open_blob(digest) as blob:
                await self._write_chunks(_path(digest), blob.size_bytes, aiter(blob))
        except BlobUnknown:
            if not is_foreign:
                raise
            self._left_out.append(digest)
        else:
            self._blobs += 1

    async def _write(self, path: str, body: bytes) -> None:
        await self._pool.finish(self._writer.add_file, path, len(body))
        await self._pool.finish(self._writer.write, body)
        await self._pool.finish(self._writer.end_file)
        self._bytes += len(body)

    async def _write_chunks(self, path: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        await self._pool.finish(self._writer.add_file, path, size_bytes)
        async for chunk in chunks:
            await self._pool.finish(self._writer.write, chunk)
            self._bytes += len(chunk)
        await self._pool.finish(self._writer.end_file)


def _writer(destination: str) -> _Writer:
    final = os.path.abspath(destination)
    return _TarWriter(final) if final.endswith(".tar") else _DirectoryWriter(final)


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm.value}/{digest.hex}"


class _Writer(abc.ABC):
    """A destination, built under a name of its own beside the final one. Every method blocks."""

    def __init__(self, final: str) -> None:
        self.final = final
        self._staged = f"{final}.partial-{secrets.token_hex(8)}"
        self._file: io.BufferedWriter | None = None

    @abc.abstractmethod
    def begin(self) -> None:
        """Begin, if the final name is free."""

    @abc.abstractmethod
    def add_directory(self, path: str) -> None:
        """Make a directory; its parent was made before."""

    @abc.abstractmethod
    def add_file(self, path: str, size_bytes: int) -> None:
        """Begin a file; exactly so many bytes are written next, then `end_file`."""

    def write(self, data: bytes) -> None:
        """Append to the file begun last."""
        assert self._file is not None
        with _translated(self.final):
            self._file.write(data)

    @abc.abstractmethod
    def end_file(self) -> None:
        """End the file begun last."""

    @abc.abstractmethod
    def publish(self) -> None:
        """Make all of it durable, then visible."""

    def discard(self) -> None:
        """Remove what is not published. Repeatable; raises nothing, as it is called while something else is told."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            if os.path.isdir(self._staged):
                shutil.rmtree(self._staged)
            else:
                os.unlink(self._staged)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _refuse(self) -> Refused:
        return Refused(f"{self.final} exists already; name another destination, or remove it first")


class _DirectoryWriter(_Writer):
    """Files below a directory."""

    def begin(self) -> None:
        """See `_Writer.begin`."""
        with _translated(self.final):
            is_empty = os.path.isdir(self.final) and not os.path.islink(self.final) and not os.listdir(self.final)
            if os.path.lexists(self.final) and not is_empty:
                raise self._refuse()
            os.mkdir(self._staged)

    def add_directory(self, path: str) -> None:
        """See `_Writer.add_directory`."""
        with _translated(self.final):
            os.mkdir(os.path.join(self._staged, path))

    def add_file(self, path: str, size_bytes: int) -> None:
        """See `_Writer.add_file`."""
        del size_bytes
        with _translated(self.final):
            self._file = open(os.path.join(self._staged, path), "xb")  # noqa: SIM115 - closed by end_file or discard

    def end_file(self) -> None:
        """See `_Writer.end_file`."""
        with _translated(self.final):
            self._close()

    def publish(self) -> None:
        """See `_Writer.publish`. An empty directory of the final name is replaced."""
        with _translated(self.final):
            # All at the end: the first sync writes the journal for all of them, so that the others cost little.
            for directory, _, files in os.walk(self._staged):
                _sync(os.path.join(directory, name) for name in files)
                _sync([directory])
            os.rename(self._staged, self.final)
            _sync([os.path.dirname(self.final)])


class _TarWriter(_Writer):
    """Members of a tar file, with nothing of this machine or moment in their headers."""

    def begin(self) -> None:
        """See `_Writer.begin`."""
        with _translated(self.final):
            if os.path.lexists(self.final):
                raise self._refuse()
            self._file = open(self._staged, "xb")  # noqa: SIM115 - closed by publish or discard

    def add_directory(self, path: str) -> None:
        """See `_Writer.add_directory`."""
        header = tarfile.TarInfo(f"{path}/")
        header.type, header.mode = tarfile.DIRTYPE, 0o755
        self.write(header.tobuf(tarfile.PAX_FORMAT))

    def add_file(self, path: str, size_bytes: int) -> None:
        """See `_Writer.add_file`."""
        header = tarfile.TarInfo(path)
        header.size, header.mode = size_bytes, 0o644
        self.write(header.tobuf(tarfile.PAX_FORMAT))

    def end_file(self) -> None:
        """See `_Writer.end_file`."""
        assert self._file is not None
        self.write(bytes(-self._file.tell() % tarfile.BLOCKSIZE))

    def publish(self) -> None:
        """See `_Writer.publish`."""
        self.write(bytes(2 * tarfile.BLOCKSIZE))
        with _translated(self.final):
            self._close()
            _sync([self._staged])
            if os.path.lexists(self.final):
                raise self._refuse()
            os.rename(self._staged, self.final)
            _sync([os.path.dirname(self.final)])


def _sync(paths: Iterable[str]) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _translated(destination: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space for {destination}; nothing of it was kept") from error
        raise StorageFailed(f"{destination} can't be written: {error.strerror}") from error
