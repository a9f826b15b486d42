"""One request on its way through the registry: who asks for what, and the parts that answer."""

from __future__ import annotations

from blobstore.abc.index import Index
from blobstore.names import RepositoryName
from blobstore.parts import Parts
from blobstore.repository import Repository
from blobstore.server.protocol._arriving import Arriving
from blobstore.server.protocol._manifest_cache import ManifestCache
from blobstore.server.protocol._upload_ids import UploadIds
from blobstore.server.protocol.access import Access, Principal
from blobstore.server.protocol.messages import Request
from blobstore.server.protocol.observing import Observer
from blobstore.server.protocol.room import Room
from blobstore.server.protocol.settings import RegistrySettings
from blobstore.store import Store


class Core:
    """What all requests of a registry share."""

    def __init__(
        self, store: Store, settings: RegistrySettings, access: Access, observer: Observer, room: Room
    ) -> None:
        self.store, self.settings, self.access = store, settings, access
        self.observer, self.room = observer, room
        self.manifests = ManifestCache(settings.manifest_cache_bytes)
        self.arriving = Arriving()
        self._upload_ids: UploadIds | None = None

    async def upload_ids(self) -> UploadIds:
        """The names under which clients know their uploads."""
        if self._upload_ids is None:
            identity = await self.store.index.identity()
            assert identity is not None, "the store is not open"
            self._upload_ids = UploadIds(identity)
        return self._upload_ids


class Call:
    """One admitted request."""

    __slots__ = ("core", "index", "name", "parts", "principal", "reference", "request", "settings")

    def __init__(
        self, core: Core, request: Request, principal: Principal, name: RepositoryName, reference: str
    ) -> None:
        self.core, self.request, self.principal = core, request, principal
        self.name, self.reference = name, reference
        self.settings: RegistrySettings = core.settings
        self.parts: Parts = core.store.parts
        self.index: Index = self.parts.index

    @property
    def repository(self) -> Repository:
        """The repository it is about."""
        return Repository(self.parts, self.name)

    def now_ms(self) -> int:
        """The time of the store's clock."""
        return self.parts.clock.now_ms()

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter; None if it didn't come. Unknown ones are ignored (`ns` among them)."""
        for key, value in self.request.query:
            if key == name:
                return value
        return None
