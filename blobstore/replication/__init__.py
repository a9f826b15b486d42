"""Copying a store: every image of one store put into another, whatever kinds of storage the two are on."""

from blobstore.replication._copy import copy_store
from blobstore.replication._report import BlobFailure, CopyReport, TagDifference

__all__ = ["BlobFailure", "CopyReport", "TagDifference", "copy_store"]
