"""What a proxy in front of us says of the client: believed only from those that the operator named. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

import msgspec

from blobstore.server.protocol.messages import Headers

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
_PAIR = re.compile(r'([A-Za-z]+)=(?:"([^"\\]*)"|([^";,\s]*))')
UNIX = "unix"


class Client(msgspec.Struct, frozen=True):
    """Who asks, and by which URL."""

    scheme: str
    host: str
    peer: str


def is_host(text: str) -> bool:
    """Whether a text can be the host of a URL; it is echoed in `Location`."""
    return _HOST.fullmatch(text) is not None


class TrustedProxies:
    """Networks whose word is taken. A connection over a socket that is a file has the address `unix`."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        texts = list(networks)
        self._is_unix_trusted = UNIX in texts
        self._networks = [ipaddress.ip_network(text) for text in texts if text != UNIX]

    def trusts(self, peer: str) -> bool:
        """Whether what this address says of its client is believed."""
        if peer == UNIX:
            return self._is_unix_trusted
        if not self._networks:
            return False
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)

    def client(self, direct: Client, headers: Headers) -> Client:
        """The client behind the one that is connected."""
        if not self.trusts(direct.peer):
            return direct
        hops, older = [_pairs(hop) for hop in _list(headers.every("Forwarded"))], _x_forwarded(headers)
        found = self._behind(direct, hops or older)
        if hops and any("for" in hop for hop in older) and self._behind(direct, older).peer != found.peer:
            # Most proxies write one of the two kinds, and pass on the other as the client made it up; nobody knows which.
            return direct
        return found

    def _behind(self, direct: Client, hops: Sequence[dict[str, str]]) -> Client:
        """From the nearest proxy outwards, as far as each is trusted; what lies behind may be made up."""
        client = direct
        for hop in reversed(hops):
            if not self.trusts(client.peer):
                break
            scheme, host = hop.get("proto", "").lower(), hop.get("host", "")
            client = Client(
                scheme if scheme in ("http", "https") else client.scheme,
                host if is_host(host) else client.host,
                _address(hop.get("for", "")) or client.peer,
            )
        return client


def _list(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _pairs(hop: str) -> dict[str, str]:
    return {name.lower(): quoted or plain for name, quoted, plain in _PAIR.findall(hop)}


def _x_forwarded(headers: Headers) -> list[dict[str, str]]:
    """The older fields as hops. Of scheme and host there is often one for all of them."""
    addresses = _list(headers.every("X-Forwarded-For"))
    protocols, hosts = _list(headers.every("X-Forwarded-Proto")), _list(headers.every("X-Forwarded-Host"))
    ports = _list(headers.every("X-Forwarded-Port"))
    hops: list[dict[str, str]] = [{} for _ in range(max(len(addresses), 1 if protocols or hosts or ports else 0))]
    for at, hop in enumerate(hops):
        if addresses:
            hop["for"] = addresses[at]
        for name, values in (("proto", protocols), ("host", hosts)):
            if values:
                hop[name] = values[at] if len(values) == len(hops) else values[0]
        port = ports[at] if len(ports) == len(hops) else "".join(ports[:1])
        if hop.get("host") and ":" not in hop["host"].rpartition("]")[2] and port.isdigit():
            is_usual = (hop.get("proto"), port) in (("https", "443"), ("http", "80"))
            hop["host"] += "" if is_usual else f":{port}"
    return hops


def _address(text: str) -> str:
    """An address without its port; nothing if it is none (`unknown`, a made-up name)."""
    bare = text.removeprefix("[").partition("]")[0] if text.startswith("[") else text
    if bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return ""
