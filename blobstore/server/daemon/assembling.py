"""What the configuration says, as the values that the parts of a daemon take. Pure, but for files that are named in it."""

from __future__ import annotations

import os

from blobstore.locations import FilesystemLocation, NasLocation, parse_store_url
from blobstore.server.daemon.config import ServerConfig
from blobstore.server.daemon.plan import StorePlan
from blobstore.server.protocol.room import DiskRoom, EndlessRoom, Room
from blobstore.server.protocol.settings import Delivery, RegistrySettings
from blobstore.server.web.application import WebSettings
from blobstore.server.web.connections import ConnectionLimits
from blobstore.server.web.patience import RateLimits
from blobstore.server.web.proxies import TrustedProxies
from blobstore.units import parse_duration_s, parse_size_bytes

FILES_PER_CONNECTION = 3
"""Its socket, once more while the kernel sends, and a file of the store."""
FILES_APART = 100
"""What a process has open beside its connections."""
FREE_SPACE_MIN_BYTES = 1024**3
"""With less, or with less than `FREE_SPACE_MIN_SHARE` of a small disk, uploads are refused, unless `server.free_space_min` says
something else."""
FREE_SPACE_MIN_SHARE = 0.05


def registry_settings(config: ServerConfig) -> RegistrySettings:
    """Limits and switches of the protocol."""
    usual = RegistrySettings()
    return RegistrySettings(
        read_only=bool(config.read_only),
        absolute_locations=config.locations == "absolute",
        delivery=Delivery(config.delivery) if config.delivery else usual.delivery,
        redirect_valid_s=int(parse_duration_s(config.redirect_valid))
        if config.redirect_valid
        else usual.redirect_valid_s,
        accel_prefix=config.accel_prefix or usual.accel_prefix,
    )


def web_settings(config: ServerConfig) -> WebSettings:
    """What is asked of clients, and which proxies are believed."""
    usual = RateLimits()
    rate = parse_size_bytes(config.rate_min) if config.rate_min else usual.rate_min_bytes_s
    return WebSettings(rates=RateLimits(rate_min_bytes_s=rate), proxies=TrustedProxies(config.trusted_proxies or ()))


def connection_limits(config: ServerConfig, files_max: int) -> ConnectionLimits:
    """How many, and for how long. No more than a process that may have `files_max` files open can serve."""
    usual = ConnectionLimits()
    most = max(1, (files_max - FILES_APART) // FILES_PER_CONNECTION)

    def seconds(text: str | None, default_s: float) -> float:
        return parse_duration_s(text) if text else default_s

    return ConnectionLimits(
        connections_max=min(config.connections or usual.connections_max, most),
        connections_per_address_max=config.connections_per_address or usual.connections_per_address_max,
        header_size_max_bytes=parse_size_bytes(config.header_size)
        if config.header_size
        else usual.header_size_max_bytes,
        header_timeout_s=seconds(config.header_timeout, usual.header_timeout_s),
        idle_timeout_s=seconds(config.idle_timeout, usual.idle_timeout_s),
    )


def room(config: ServerConfig, store: StorePlan, index_path: str | None = None) -> Room:
    """Whether new bytes can be taken: of the disks that they, and what the index says of them, go to, where there are some."""
    location = parse_store_url(store.url)
    paths = [os.path.abspath(location.path)] if isinstance(location, (FilesystemLocation, NasLocation)) else []
    if index_path is not None:
        paths.append(index_path)
    if not paths:
        return EndlessRoom()
    if config.free_space_min:
        return DiskRoom(paths, parse_size_bytes(config.free_space_min))
    return DiskRoom(paths, FREE_SPACE_MIN_BYTES, share_max=FREE_SPACE_MIN_SHARE)
