"""The storage engine under a container registry: blobs by digest, stored once, and a collector that is safe while people push.

async with blobstore.open("file:///srv/registry", create=True) as store:
    repository = store.repository("library/nginx")
    async with repository.open_upload() as upload:
        await upload.write(b"…")
        descriptor = await upload.commit()
"""

from blobstore.app import open_store as open  # noqa: A004 - the name the library is known by
from blobstore.descriptor import Descriptor, Platform
from blobstore.digest import Algorithm, Digest
from blobstore.errors import (
    ArchiveInvalid,
    BlobDamaged,
    BlobstoreError,
    BlobUnknown,
    CollectionRefused,
    ConfigInvalid,
    ContentMismatch,
    Damaged,
    DigestInvalid,
    DigestMismatch,
    ForeignStore,
    FormatUnsupported,
    IndexDamaged,
    IndexMissing,
    IndexOnNetwork,
    IndexPoisoned,
    InvalidInput,
    JournalDamaged,
    KeyUnknown,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    NameInvalid,
    NotFound,
    RangeInvalid,
    Refused,
    RepositoryUnknown,
    RunUnknown,
    SizeMismatch,
    StillReferenced,
    StorageFailed,
    StorageFull,
    StoreBusy,
    StoreFrozen,
    StoreMismatch,
    StoreUnknown,
    TagInvalid,
    TagUnknown,
    TransientError,
    UploadBusy,
    UploadInterrupted,
    UploadUnknown,
)
from blobstore.manifest import Manifest
from blobstore.promises import HoldTerms
from blobstore.readers import BlobReader
from blobstore.repository import Repository
from blobstore.store import Store
from blobstore.uploads import Upload

__version__ = "0.1.0"
__all__ = [
    "Algorithm",
    "ArchiveInvalid",
    "BlobDamaged",
    "BlobReader",
    "BlobUnknown",
    "BlobstoreError",
    "CollectionRefused",
    "ConfigInvalid",
    "ContentMismatch",
    "Damaged",
    "Descriptor",
    "Digest",
    "DigestInvalid",
    "DigestMismatch",
    "ForeignStore",
    "FormatUnsupported",
    "HoldTerms",
    "IndexDamaged",
    "IndexMissing",
    "IndexOnNetwork",
    "IndexPoisoned",
    "InvalidInput",
    "JournalDamaged",
    "KeyUnknown",
    "Manifest",
    "ManifestBlobUnknown",
    "ManifestInvalid",
    "ManifestTooLarge",
    "ManifestUnknown",
    "NameInvalid",
    "NotFound",
    "Platform",
    "RangeInvalid",
    "Refused",
    "Repository",
    "RepositoryUnknown",
    "RunUnknown",
    "SizeMismatch",
    "StillReferenced",
    "StorageFailed",
    "StorageFull",
    "Store",
    "StoreBusy",
    "StoreFrozen",
    "StoreMismatch",
    "StoreUnknown",
    "TagInvalid",
    "TagUnknown",
    "TransientError",
    "Upload",
    "UploadBusy",
    "UploadInterrupted",
    "UploadUnknown",
    "open",
]
