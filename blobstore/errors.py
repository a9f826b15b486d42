"""Every error that blobstore raises, in one tree.

    BlobstoreError
    ├── InvalidInput             what was handed in is wrong, with which value: DigestInvalid, NameInvalid, TagInvalid,
    │                            ManifestInvalid, ManifestTooLarge, RangeInvalid, ArchiveInvalid, ConfigInvalid
    ├── ContentMismatch          the bytes are not what their name or length claims: DigestMismatch, SizeMismatch
    ├── NotFound                 BlobUnknown, ManifestUnknown, RepositoryUnknown, TagUnknown, UploadUnknown, RunUnknown,
    │                            StoreUnknown, BucketUnknown, KeyUnknown
    ├── Refused                  not in this state: ManifestBlobUnknown, StillReferenced, UploadBusy, UploadInterrupted,
    │                            StoreFrozen, StoreBusy, CollectionRefused
    ├── StoreMismatch            these parts do not belong together: FormatUnsupported, ForeignStore, IndexMissing,
    │                            IndexOnNetwork
    ├── Damaged                  what lies on the disk is wrong: BlobDamaged, IndexDamaged, JournalDamaged
    └── StorageFailed            the layer below failed: StorageFull, IndexPoisoned, AccessDenied, TransientError (the only one
                                 retried) with SlowDown

Sources: distribution-spec, Error Codes; the names follow its codes where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence


class BlobstoreError(Exception):
    """Anything blobstore raises on purpose; its text is fit to be shown to a person."""


class InvalidInput(BlobstoreError):
    """What was handed in is malformed; nothing was changed."""


class DigestInvalid(InvalidInput):
    """A text is not a digest, or its algorithm is not one of ours."""


class NameInvalid(InvalidInput):
    """A text is not a repository name."""


class TagInvalid(InvalidInput):
    """A text is not a tag."""


class ManifestInvalid(InvalidInput):
    """A manifest's bytes are not a manifest of the media type they were sent as."""


class ManifestTooLarge(ManifestInvalid):
    """A manifest is larger than `manifest_size_max_bytes`."""


class RangeInvalid(InvalidInput):
    """A byte range lies outside the blob."""


class ArchiveInvalid(InvalidInput):
    """An image archive is truncated, hostile, or not what it says it is."""


class ConfigInvalid(InvalidInput):
    """A URL, an option or a configuration file can't be used."""


class ContentMismatch(BlobstoreError):
    """Bytes are not what was claimed of them; they were not made visible."""


class DigestMismatch(ContentMismatch):
    """The bytes hash to another digest than the one they were sent under."""

    def __init__(self, claimed: object, actual: object) -> None:
        super().__init__(f"the content hashes to {actual}, not to {claimed}")
        self.claimed, self.actual = claimed, actual


class SizeMismatch(ContentMismatch):
    """There are more or fewer bytes than were announced."""

    def __init__(self, what: str, expected_bytes: int, actual_bytes: int) -> None:
        super().__init__(f"{what}: {actual_bytes} bytes, expected {expected_bytes}")
        self.expected_bytes, self.actual_bytes = expected_bytes, actual_bytes


class NotFound(BlobstoreError):
    """What was asked for isn't there."""


class BlobUnknown(NotFound):
    """No blob of that digest, or none that this repository sees."""


class ManifestUnknown(NotFound):
    """No manifest under that tag or digest in this repository."""


class RepositoryUnknown(NotFound):
    """No repository of that name."""


class TagUnknown(NotFound):
    """No such tag in this repository."""


class UploadUnknown(NotFound):
    """No open upload of that id in this repository; it was finished, cancelled, or expired."""


class RunUnknown(NotFound):
    """No collection of that id is remembered."""


class StoreUnknown(NotFound):
    """There is no store at this place."""


class BucketUnknown(NotFound):
    """The object store has no bucket of that name."""


class KeyUnknown(NotFound):
    """The backend holds nothing under that key."""


class Refused(BlobstoreError):
    """Well formed, but not in the state things are in; nothing was changed."""


class ManifestBlobUnknown(Refused):
    """A manifest names blobs or manifests that its repository doesn't have; `missing` lists their digests."""

    def __init__(self, missing: Sequence[object]) -> None:
        super().__init__("the manifest refers to what this repository does not have: " + ", ".join(map(str, missing)))
        self.missing = tuple(missing)


class StillReferenced(Refused):
    """A manifest or blob can't be deleted while the `parents` refer to it."""

    def __init__(self, what: object, parents: Sequence[object]) -> None:
        super().__init__(f"{what} is referred to by " + ", ".join(map(str, parents)) + "; delete that first")
        self.what, self.parents = what, tuple(parents)


class UploadBusy(Refused):
    """Another session is writing to this upload."""


class UploadInterrupted(Refused):
    """The upload was expired, cancelled or published under its writer; its bytes are gone, start again."""


class StoreFrozen(Refused):
    """The index is older than the backend, or not alone with it; collecting is off until `index rebuild`."""


class StoreBusy(Refused):
    """Another process has this store open."""


class CollectionRefused(Refused):
    """A guard stopped a collection before it changed anything."""


class StoreMismatch(BlobstoreError):
    """A backend, an index and this version of the library do not belong together."""


class FormatUnsupported(StoreMismatch):
    """The store, or a record in it, was written by another format version."""


class ForeignStore(StoreMismatch):
    """The backend belongs to another store or index than the one opened with it."""


class IndexMissing(StoreMismatch):
    """The backend has a marker, but its index is not where it should be."""


class IndexOnNetwork(StoreMismatch):
    """The index was put on a file system on which its memory map is not safe."""


class Damaged(BlobstoreError):
    """What lies on the disk is not what was written."""


class BlobDamaged(Damaged):
    """A blob's bytes are missing or no longer hash to its digest."""


class IndexDamaged(Damaged):
    """The index contradicts itself."""


class JournalDamaged(Damaged):
    """A journal or checkpoint object can't be read back."""


class StorageFailed(BlobstoreError):
    """The operating system or the server below failed."""


class StorageFull(StorageFailed):
    """No space is left for what was asked; nothing half written is visible."""


class IndexPoisoned(StorageFailed):
    """A sync of the index failed; nothing is answered until the store is opened in a new process."""


class AccessDenied(StorageFailed):
    """The server below doesn't know the credentials, or they have no right to what was asked."""


class TransientError(StorageFailed):
    """A failure that may pass by itself; the retry wrapper alone acts on it. What was asked may have been done all the same."""


class SlowDown(TransientError):
    """The server below asks for fewer requests; nothing was done."""
