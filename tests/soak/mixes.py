"""The mixes of the soak: how long promises last, and what is owed in each."""

from __future__ import annotations

from tests.kills.content import Mix

NEAR_ZERO = Mix("near-zero", grace_s=0.5, renew_s=0.1, quarantine_s=0.05)
"""Nearly everything that is let go is gone a moment later; what was promised half a second ago is owed all the same."""
NORMAL = Mix("normal", grace_s=3, renew_s=0.5, quarantine_s=1)
"""Blobs are condemned, asked for again and revived as often as freed."""
NO_PROMISE = Mix("no-promise", grace_s=0, renew_s=0.1, quarantine_s=0, upload_idle_s=0)
"""`--grace 0s`, and each run expires the uploads under way: a push may be refused and start anew; no image breaks."""
MIXES = {mix.name: mix for mix in (NEAR_ZERO, NORMAL, NO_PROMISE)}

REPOSITORIES = ("soak/base", "soak/web", "soak/jobs", "soak/tools")
TAGS = 12
"""So many move about in each repository."""
