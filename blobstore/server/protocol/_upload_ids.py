"""The names under which clients know their uploads: of no use to anybody else, in no other repository."""

from __future__ import annotations

import hashlib
import hmac

from blobstore.abc.records import IndexIdentity
from blobstore.errors import UploadUnknown
from blobstore.names import RepositoryName, UploadId
from blobstore.server.protocol.access import Principal

_SEAL_CHARS = 32
_ID_CHARS = 32


class UploadIds:
    """Public ids: the index's own, and a seal over it, the repository and who began it. Only `[a-zA-Z0-9.]`, in the path, as
    proxies expect it there. The key is the index's: all processes of a store have it, another store's ids are strangers."""

    def __init__(self, identity: IndexIdentity) -> None:
        self._key = hashlib.sha256(f"upload ids of {identity.store_id} {identity.index_id}".encode()).digest()

    def public(self, upload: UploadId, repository: RepositoryName, principal: Principal) -> str:
        """What a client is told."""
        return f"{upload}.{self._seal(upload, repository, principal)}"

    def parse(self, text: str, repository: RepositoryName, principal: Principal) -> UploadId:
        """The index's id of what a client said.

        Raises:
            UploadUnknown: it was never given out, or to somebody else, or for another repository.
        """
        upload, _, seal = text.partition(".")
        if len(upload) != _ID_CHARS or len(seal) != _SEAL_CHARS or not text.isascii():
            raise UploadUnknown("no such upload here")
        if not hmac.compare_digest(seal, self._seal(upload, repository, principal)):
            # As if it had never been: who guesses learns nothing.
            raise UploadUnknown("no such upload here")
        return UploadId.parse(upload)

    def _seal(self, upload: str, repository: RepositoryName, principal: Principal) -> str:
        # Nobody and somebody without a name differ; neither id nor repository holds a line break.
        who = "nobody" if principal.name is None else f"={principal.name}"
        sealed = hmac.new(self._key, f"{upload}\n{repository}\n{who}".encode(), hashlib.sha256)
        return sealed.hexdigest()[:_SEAL_CHARS]
