"""The bytes of manifests that were asked for of late, by digest: bytes of a digest can't change, so none can be stale."""

from __future__ import annotations

from collections import OrderedDict

from blobstore.digest import Digest

_SHARE_MAX = 16
"""One manifest may take a sixteenth of the room."""


class ManifestCache:
    """Verified bytes, the latest used ones. Says nothing of who may see them: that is asked of the index each time."""

    def __init__(self, size_bytes_max: int) -> None:
        self._size_bytes_max = size_bytes_max
        self._size_bytes = 0
        self._bodies: OrderedDict[Digest, bytes] = OrderedDict()

    def get(self, digest: Digest) -> bytes | None:
        """The bytes of a sha256 digest, if they are here."""
        body = self._bodies.get(digest)
        if body is not None:
            self._bodies.move_to_end(digest)
        return body

    def add(self, digest: Digest, body: bytes) -> None:
        """Remember bytes that were hashed."""
        if len(body) > self._size_bytes_max // _SHARE_MAX or digest in self._bodies:
            return
        self._bodies[digest] = body
        self._size_bytes += len(body)
        while self._size_bytes > self._size_bytes_max:
            _, oldest = self._bodies.popitem(last=False)
            self._size_bytes -= len(oldest)
