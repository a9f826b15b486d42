"""The roles of clients in a scene: pushers, pullers, deleters, retaggers and those who leave uploads behind."""

from __future__ import annotations

import random  # noqa: TID251 - from a printed seed
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from blobstore.digest import Digest
from blobstore.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    NotFound,
    Refused,
    StorageFailed,
    UploadInterrupted,
)
from blobstore.index import _references
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.simulation.interleaving_oracle import Oracle

TRIES_MAX = 6
LARGE_BYTES = 256 * 1024
"""From this size on, an upload's bytes go to the backend before its commit."""

Role = Callable[[Store], Awaitable[None]]


class PromiseBroken(AssertionError):
    """A client was told "unknown" of what it had been promised."""


class ImageLost(AssertionError):
    """A manifest that can be read refers to what can't."""


class Image(msgspec.Struct, frozen=True):
    """What a pusher pushes: blobs, the manifests below, the manifest itself; each manifest after what it refers to."""

    blobs: tuple[bytes, ...]
    manifests: tuple[Manifest, ...]

    @property
    def digest(self) -> Digest:
        """Its name."""
        return self.manifests[-1].digest


class Cast(msgspec.Struct):
    """What the roles share, beside the store."""

    chance: random.Random
    clock: FakeClock
    oracle: Oracle
    images: Sequence[Image]
    doomed: Sequence[Image]
    """Those that deleters and retaggers may touch."""
    open_uploads: list[tuple[str, str, bytes]] = []
    figures: dict[str, int] = {}

    def count(self, name: str) -> None:
        """Add one to a figure."""
        self.figures[name] = self.figures.get(name, 0) + 1


def pusher(cast: Cast, image: Image, repository: str, habit: str, tags: Sequence[str], *, is_kept: bool) -> Role:
    """Pushes an image. By habit it uploads whatever is there, asks and skips, or mounts from another repository first."""

    async def push(store: Store) -> None:
        for _ in range(TRIES_MAX):
            try:
                await _push_once(cast, store, image, repository, habit, tags, is_kept=is_kept)
            except (UploadInterrupted, StorageFailed, ManifestBlobUnknown):
                cast.count("pushes_tried_again")
                continue
            cast.count("pushes")
            return

    return push


async def _push_once(
    cast: Cast, store: Store, image: Image, repository: str, habit: str, tags: Sequence[str], *, is_kept: bool
) -> None:
    target = store.repository(repository)
    for data in image.blobs:
        if habit == "mount" and await _mounted(cast, store, data, repository):
            continue
        if habit == "ask" and await _is_there(cast, store, data, repository):
            continue
        await _upload(cast, store, data, repository)
    for manifest in image.manifests:
        named = tags if manifest is image.manifests[-1] else ()
        questions = [cast.oracle.ask(repository, reference.digest) for reference in manifest.references]
        try:
            await target.put_manifest(manifest.body, manifest.media_type, tags=named)
        except ManifestBlobUnknown as error:
            for question in questions:
                digest = question.key[1]
                if digest in error.missing and cast.oracle.breaks_promise(question):
                    raise PromiseBroken(f"{repository} was promised {digest}; its manifest was refused") from error
            raise
    if is_kept:
        for tag in tags:
            cast.oracle.keep(repository, tag, image.digest)


async def _upload(cast: Cast, store: Store, data: bytes, repository: str) -> None:
    async with store.repository(repository).open_upload() as upload:
        await upload.write(data)
        question = cast.oracle.ask(repository, Digest.of(data))
        await upload.commit()
    cast.oracle.promise(question)


async def _is_there(cast: Cast, store: Store, data: bytes, repository: str) -> bool:
    digest = Digest.of(data)
    question = cast.oracle.ask(repository, digest)
    try:
        await store.repository(repository).stat_blob(digest)
    except BlobUnknown as error:
        if cast.oracle.breaks_promise(question):
            raise PromiseBroken(f"{repository} was promised {digest}, and was told that it is unknown") from error
        return False
    cast.oracle.promise(question)
    return True


async def _mounted(cast: Cast, store: Store, data: bytes, repository: str) -> bool:
    digest = Digest.of(data)
    source = "beta" if repository == "alpha" else "alpha"
    wanted, given = cast.oracle.ask(repository, digest), cast.oracle.ask(source, digest)
    try:
        await store.repository(repository).mount_blob(digest, source)
    except BlobUnknown as error:
        if cast.oracle.breaks_promise(given):
            raise PromiseBroken(f"{source} was promised {digest}; it could not be mounted") from error
        return False
    cast.oracle.promise(wanted)
    return True


def deleter(cast: Cast, repository: str) -> Role:
    """Deletes manifests, and blobs that its repository holds."""

    async def delete(store: Store) -> None:
        target = store.repository(repository)
        for _ in range(cast.chance.randint(2, 8)):
            image = cast.chance.choice(cast.doomed)
            try:
                if cast.chance.random() < 0.7:
                    await target.delete_manifest(image.digest)
                else:
                    digest = Digest.of(cast.chance.choice(image.blobs))
                    with cast.oracle.letting_go(repository, digest):
                        await target.delete_blob(digest)
                cast.count("deletes")
            except (NotFound, Refused, StorageFailed):
                continue

    return delete


def retagger(cast: Cast, repository: str) -> Role:
    """Moves one tag from image to image, and takes it away now and then."""

    async def retag(store: Store) -> None:
        target = store.repository(repository)
        for _ in range(cast.chance.randint(2, 8)):
            try:
                if cast.chance.random() < 0.8:
                    await target.tag(cast.chance.choice(cast.doomed).digest, "latest")
                else:
                    await target.untag("latest")
                cast.count("tags_moved")
            except (NotFound, StorageFailed):
                continue

    return retag


def remover(cast: Cast, repository: str) -> Role:
    """Removes a repository while others push to it."""

    async def remove(store: Store) -> None:
        for _ in range(4):
            with cast.oracle.letting_go(repository):
                try:
                    await store.repository(repository).remove()
                    cast.count("repositories_removed")
                except (NotFound, StorageFailed):
                    continue

    return remove


def abandoner(cast: Cast, repository: str) -> Role:
    """Begins uploads and leaves them, or cancels them."""

    async def abandon(store: Store) -> None:
        for _ in range(2):
            data = cast.chance.choice(cast.images).blobs[0]
            if cast.chance.random() < 0.5:
                data = data.ljust(LARGE_BYTES, b".")
            try:
                async with store.repository(repository).open_upload() as upload:
                    cast.open_uploads.append((repository, str(upload.upload_id), data))
                    await upload.write(data)
                    if cast.chance.random() < 0.3:
                        await upload.cancel()
            except (StorageFailed, Refused):
                continue

    return abandon


def resumer(cast: Cast) -> Role:
    """Goes on with what others left, in its own process."""

    async def resume(store: Store) -> None:
        for _ in range(8):
            if not cast.open_uploads:
                await store.index.totals()
                continue
            repository, upload_id, data = cast.chance.choice(cast.open_uploads)
            try:
                async with store.repository(repository).resume_upload(upload_id) as upload:
                    await upload.write(data[upload.offset :])
                    await upload.commit(Digest.of(data))
                    cast.count("uploads_resumed")
            except (NotFound, Refused, StorageFailed):
                continue

    return resume


def pinner(cast: Cast) -> Role:
    """Pins a blob, and lets go of it."""

    async def pin(store: Store) -> None:
        data = cast.chance.choice(cast.images).blobs[-1]
        try:
            async with await store.open_pinned_upload() as upload:
                await upload.write(data)
                descriptor = await upload.commit()
            await store.unpin(descriptor.digest)
            cast.count("pins")
        except (NotFound, Refused, StorageFailed):
            return

    return pin


def puller(cast: Cast) -> Role:
    """Pulls images; one whose manifest it got, and that is still there, must be there whole."""

    async def pull(store: Store) -> None:
        for _ in range(8):
            repository = cast.chance.choice(["alpha", "alpha", "beta"])
            manifest: Manifest | None = None
            try:
                manifest = await store.repository(repository).get_manifest(cast.chance.choice(cast.images).digest)
                for reference in manifest.references:
                    async with store.repository(repository).open_blob(reference.digest) as blob:
                        await blob.read()
                cast.count("pulls")
            except BlobUnknown as error:
                # No turn lies between the refusal and this look: a record that stands must have had all that it names.
                if manifest is not None and _has_record(store, repository, manifest.digest):
                    raise ImageLost(f"{repository} has manifest {manifest.digest}, but: {error}") from error
            except (NotFound, StorageFailed):
                continue

    return pull


def _has_record(store: Store, repository: str, digest: Digest) -> bool:
    name = RepositoryName(repository)
    return store.index._read(_references.resolve, name, digest) is not None  # type: ignore[attr-defined]
