"""Images from outside: OCI image layouts and `docker save` archives, verified and put into a repository."""

from blobstore.importers._images import ImportedManifest, ImportReport, import_image

__all__ = ["ImportReport", "ImportedManifest", "import_image"]
