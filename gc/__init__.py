"""The collector: finds the blobs that no live manifest shares, condemns them, and frees those whose quarantine is over."""

from blobstore.gc.collector import Collector
from blobstore.gc.plan import Plan
from blobstore.gc.policy import GcPolicy
from blobstore.gc.report import RunReport

__all__ = ["Collector", "GcPolicy", "Plan", "RunReport"]
