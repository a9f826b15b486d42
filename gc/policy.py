"""What a collection may let go, and after how long. Every delay and limit is a field here."""

from __future__ import annotations

import msgspec

from blobstore.errors import ConfigInvalid
from blobstore.promises import GRACE_S_DEFAULT, QUARANTINE_S_DEFAULT, RENEW_S, HoldTerms


class GcPolicy(msgspec.Struct, frozen=True):
    """How a collection decides; all times are counted by the collector's clock."""

    grace_s: float = GRACE_S_DEFAULT
    """How long a blob must have been unreferenced, an untagged manifest loose. 0: owes no promise, and such a run may make
    pushes under way fail; it breaks no image."""
    quarantine_s: float = QUARANTINE_S_DEFAULT
    """How long condemned bytes are kept for `undo` and for readers under way."""
    delete_untagged: bool = False
    """Whether manifests go that have no tag, no live parent and no live subject."""
    max_share: float = 0.5
    """A run that would let go of more than this share of the blobs is refused, in stores of over `max_share_floor_blobs`."""
    max_share_floor_blobs: int = 1000
    upload_idle_s: float = 24 * 3600
    """How long nothing may arrive for an upload before it is expired."""
    orphan_scan_every_s: float = 7 * 24 * 3600
    """How often a full run lists the backend for what no row knows, when nothing else asks for it."""
    renew_s: float = RENEW_S
    clock_jump_max_s: float = 300
    """How far the wall clock may run away from the monotonic one, or go back between runs, before nothing is condemned for a
    grace."""
    batch_max: int = 1000
    """How many blobs, manifests or trash rows one transaction takes."""
    slice_max: int = 20_000
    """How many rows one slice of a scan reads."""

    def __post_init__(self) -> None:
        for name in ("grace_s", "quarantine_s", "upload_idle_s", "orphan_scan_every_s", "renew_s", "clock_jump_max_s"):
            if not 0 <= getattr(self, name) <= 100 * 365 * 24 * 3600:
                raise ConfigInvalid(f"{name} must be between 0 seconds and 100 years, not {getattr(self, name)}")
        for name, least in (("batch_max", 1), ("slice_max", 1), ("max_share_floor_blobs", 0)):
            if not least <= getattr(self, name) < 2**31:
                raise ConfigInvalid(f"{name} must be at least {least} and below 2^31, not {getattr(self, name)}")
        if not 0 <= self.max_share <= 1:
            raise ConfigInvalid(f"max_share must be between 0 and 1, not {self.max_share}")

    @property
    def terms(self) -> HoldTerms:
        """When holds lapse for this policy."""
        return HoldTerms(grace_s=self.grace_s, renew_s=self.renew_s)

    @property
    def quarantine_ms(self) -> int:
        """`quarantine_s` in milliseconds."""
        return int(self.quarantine_s * 1000)
