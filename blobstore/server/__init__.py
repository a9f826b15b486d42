"""The OCI distribution API over a `Store`: protocol, access and the daemon around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp.web import Application

    from blobstore.server.protocol.access import Access
    from blobstore.server.protocol.observing import Observer
    from blobstore.server.protocol.room import Room
    from blobstore.server.protocol.settings import RegistrySettings
    from blobstore.server.web.application import WebSettings
    from blobstore.store import Store

__all__ = ["create_app"]


def create_app(
    store: Store,
    settings: RegistrySettings | None = None,
    access: Access | None = None,
    *,
    observer: Observer | None = None,
    room: Room | None = None,
    web: WebSettings | None = None,
) -> Application:
    """The registry as an application of aiohttp: to run, or to mount where clients look for it, with
    `application.add_subapp("/v2", create_app(store))`.

    The store stays the caller's: it is open while the application runs, on the same loop. Without `access` everybody may do
    everything. Limits of connections (their number, how long a header may take) are those of whoever runs the application; the
    daemon of `blobstore serve` has its own.

    Args:
        store: an open store.
        settings: limits and switches of the protocol.
        access: who may do what; closed with the application.
        observer: is told what happens.
        room: whether there is room for new bytes.
        web: slow clients, and the proxies that are believed.
    """
    from blobstore.server.protocol.observing import unobserved
    from blobstore.server.protocol.registry import Registry
    from blobstore.server.web.application import create_application

    registry = Registry(store, settings, access, observer=observer or unobserved, room=room)
    application = create_application(registry.answer, web)
    if access is not None:

        async def close(_: Application) -> None:
            await access.aclose()

        application.on_cleanup.append(close)
    return application
