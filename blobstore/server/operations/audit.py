"""Audit: a line for each push, delete, change of a tag and collected blob: who, from where, what."""

from __future__ import annotations

from typing import Any

from blobstore.server.operations.logs import Log
from blobstore.server.protocol.observing import (
    BlobDeleted,
    BlobMounted,
    BlobPushed,
    ManifestDeleted,
    ManifestPushed,
    Observation,
    TagDeleted,
)

_ACTIONS: dict[type[Any], tuple[str, str]] = {
    BlobPushed: ("push", "blob"),
    BlobMounted: ("mount", "blob"),
    BlobDeleted: ("delete", "blob"),
    ManifestPushed: ("push", "manifest"),
    ManifestDeleted: ("delete", "manifest"),
    TagDeleted: ("delete", "tag"),
}
_FIELDS = ("digest", "size_bytes", "media_type", "source", "tag")


class AuditObserver:
    """An observer that writes what was changed. Pulls change nothing and are in the access lines."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self, observation: Observation, /) -> None:
        """One observation."""
        action, kind = _ACTIONS.get(type(observation), ("", ""))
        if not action:
            return
        who = _who(observation)
        found = {field: getattr(observation, field) for field in _FIELDS if hasattr(observation, field)}
        self._log.info("audit", action=action, kind=kind, **who, **found)
        if isinstance(observation, ManifestPushed):
            for tag in observation.tags:
                self._log.info("audit", action="push", kind="tag", **who, tag=tag, digest=observation.digest)


def _who(observation: Any) -> dict[str, Any]:
    return {
        "user": observation.principal.name,
        "peer": observation.request.peer,
        "request_id": observation.request.request_id,
        "repository": observation.repository,
    }
