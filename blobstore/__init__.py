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
    BlobDamaged,
    BlobstoreError,
    BlobUnknown,
    CollectionRefused,
    ContentMismatch,
    Damaged,
    DigestInvalid,
    DigestMismatch,
    ForeignStore,
    FormatUnsupported,
    IndexDamaged,
    IndexMissing,
    IndexPoisoned,
    InvalidInput,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NotFound,
    Refused,
    RepositoryUnknown,
    SizeMismatch,
    StillReferenced,
    StorageFailed,
    StorageFull,
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
    "BlobDamaged",
    "BlobReader",
    "BlobUnknown",
    "BlobstoreError",
    "CollectionRefused",
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
    "IndexPoisoned",
    "InvalidInput",
    "Manifest",
    "ManifestBlobUnknown",
    "ManifestInvalid",
    "ManifestUnknown",
    "NameInvalid",
    "NotFound",
    "Platform",
    "Refused",
    "Repository",
    "RepositoryUnknown",
    "SizeMismatch",
    "StillReferenced",
    "StorageFailed",
    "StorageFull",
    "Store",
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
