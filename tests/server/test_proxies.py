"""What proxies say of a client is believed only from those that the operator named."""

from __future__ import annotations

import pytest

from blobstore.server.protocol.messages import Headers
from blobstore.server.web.proxies import Client, TrustedProxies, is_host

DIRECT = Client("http", "registry:5000", "10.0.0.1")


def client(trusted: list[str], *fields: tuple[str, str], direct: Client = DIRECT) -> Client:
    return TrustedProxies(trusted).client(direct, Headers(fields))


FORWARDED = (("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "r.example.com"))


def test_a_stranger_is_not_believed():
    """Neither field of any kind."""
    assert client([], *FORWARDED) == DIRECT
    assert client(["192.168.0.0/16"], *FORWARDED) == DIRECT
    assert client(["192.168.0.0/16"], ("Forwarded", "for=203.0.113.9;proto=https;host=x")) == DIRECT


@pytest.mark.parametrize("direct", ["10.0.0.1", "::ffff:10.0.0.1"])
def test_a_trusted_proxy_tells_scheme_host_and_address(direct: str):
    """Also when its address comes as one of IPv6."""
    found = client(["10.0.0.0/8"], *FORWARDED, direct=Client("http", "registry:5000", direct))
    assert found == Client("https", "r.example.com", "203.0.113.9")


def test_a_socket_that_is_a_file_is_trusted_by_name():
    """Whoever may connect to it is decided by its directory."""
    direct = Client("http", "registry", "unix")
    assert client(["unix"], *FORWARDED, direct=direct).peer == "203.0.113.9"
    assert client(["10.0.0.0/8"], *FORWARDED, direct=direct) == direct


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("for=203.0.113.9;proto=https;host=r.example.com", Client("https", "r.example.com", "203.0.113.9")),
        ('For="[2001:db8::1]:4711";Proto=HTTPS', Client("https", "registry:5000", "2001:db8::1")),
        ('for="203.0.113.9:4711"', Client("http", "registry:5000", "203.0.113.9")),
        ("for=_hidden;proto=https", Client("https", "registry:5000", "10.0.0.1")),
        ("for=unknown;proto=gopher", DIRECT),
        ('host="evil/path"', DIRECT),
        ("nonsense", DIRECT),
    ],
)
def test_forwarded_is_read(text: str, seen: Client):
    """RFC 7239; what isn't an address, a scheme or a host changes nothing."""
    assert client(["10.0.0.0/8"], ("Forwarded", text)) == seen


def test_what_a_client_made_up_in_front_of_the_proxies_is_not_believed():
    """From the nearest outwards, no further than the first that isn't a proxy of ours."""
    found = client(
        ["10.0.0.0/8"], ("X-Forwarded-For", "127.0.0.1, 203.0.113.9, 10.0.0.2"), ("X-Forwarded-Proto", "https")
    )
    assert (found.peer, found.scheme) == ("203.0.113.9", "https")
    hops = "for=127.0.0.1;host=evil.example.com, for=203.0.113.9;host=r.example.com"
    assert client(["10.0.0.0/8"], ("Forwarded", hops)).host == "r.example.com"


def test_two_addresses_are_none():
    """A proxy that knows one kind of field passes the other on from the client, who may have made it up."""
    both = (("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=198.51.100.7;proto=https;host=evil.example.com"))
    assert client(["10.0.0.0/8"], *both) == DIRECT
    agreed = (("X-Forwarded-For", "203.0.113.9"), ("Forwarded", 'for="203.0.113.9:4711";proto=https'))
    assert client(["10.0.0.0/8"], *agreed) == Client("https", "registry:5000", "203.0.113.9")
    only_scheme = (("X-Forwarded-Proto", "https"), ("Forwarded", "for=203.0.113.9"))
    assert client(["10.0.0.0/8"], *only_scheme).peer == "203.0.113.9"


def test_a_port_is_added_where_it_is_not_the_usual_one():
    """Locations lead back through the proxy."""
    base = (("X-Forwarded-Host", "r.example.com"), ("X-Forwarded-Proto", "https"))
    assert client(["10.0.0.0/8"], *base, ("X-Forwarded-Port", "443")).host == "r.example.com"
    assert client(["10.0.0.0/8"], *base, ("X-Forwarded-Port", "8443")).host == "r.example.com:8443"
    assert client(["10.0.0.0/8"], *base, ("X-Forwarded-Port", "x")).host == "r.example.com"


@pytest.mark.parametrize("host", ["a", "a.b-c_d:5000", "[::1]:5000", "127.0.0.1", "registry.example.com:443"])
def test_hosts(host: str):
    """What may stand in a URL."""
    assert is_host(host)


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "a:b", "a:123456", "[::1", "a\r\nX: 1", "a?b", "-a", "a#"])
def test_no_hosts(host: str):
    """What may not: it would lead elsewhere, or split a header."""
    assert not is_host(host)
