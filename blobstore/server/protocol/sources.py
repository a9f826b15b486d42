"""What counts as one source of requests."""

from __future__ import annotations

import ipaddress

_IPV6_PREFIX_BITS = 64


def source_of(peer: str) -> str:
    """What counts as one source: an IPv4 address; of IPv6 the network, as a host there has as many addresses as it likes."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), _IPV6_PREFIX_BITS), strict=False))
    return str(address)
