"""S16: keys come from files of ours alone, each good for one algorithm."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blobstore.errors import ConfigInvalid
from blobstore.server.auth.config import AuthConfig, TokenConfig
from blobstore.server.auth.token_access import make_token_access
from blobstore.server.auth.token_keys import chain_max_certificates, parse_keys, parse_roots
from blobstore.server.protocol.access import Unauthenticated
from blobstore.testing import FakeClock
from blobstore.testing.fakes import START_MS
from tests.server.security.asking import PULL, admit, bearer, need
from tests.server.security.issuer import (
    ISSUER,
    REALM,
    SERVICE,
    access,
    claims,
    jwk,
    jwks,
    private_key,
    private_pem,
    public_pem,
    sign,
)

NOW = datetime.fromtimestamp(START_MS / 1000, UTC)

# RFC 7638, 3.1: a key and its thumbprint.
RFC_KEY = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs"
    "tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n9"
    "1CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}
RFC_THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_a_key_is_found_by_each_of_its_names() -> None:
    """Its `kid`, its thumbprint (RFC 7638), and the id that older issuers of Docker's make."""
    keys = parse_keys(jwks(RFC_KEY, jwk("ES256", "other")))
    found = keys.find("2011-04-29")
    assert found is not None
    assert found.algorithm == "RS256"
    assert keys.find(RFC_THUMBPRINT) == found
    assert keys.find("2011-04-30") is None
    assert keys.find(None) is None


def test_the_id_of_older_issuers() -> None:
    """SHA-256 of the key's DER, 30 bytes of it, in groups of four: computed here by another way."""
    import hashlib

    der = private_key("RS256").public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    kid = ":".join(text[4 * group : 4 * group + 4] for group in range(12))
    assert len(kid) == 59
    assert parse_keys(public_pem("RS256") + public_pem("EdDSA")).find(kid) is not None


def test_one_key_needs_no_name() -> None:
    """Two do."""
    assert parse_keys(public_pem("ES256")).find(None) is not None
    assert parse_keys(public_pem("ES256") * 2).find(None) is not None
    assert parse_keys(public_pem("ES256") + public_pem("ES256", 1)).find(None) is None


def test_each_key_has_one_algorithm() -> None:
    """By what it is, not by what is said of it."""
    for algorithm in ("RS256", "ES256", "EdDSA"):
        found = parse_keys(public_pem(algorithm)).find(None)
        assert found is not None
        assert found.algorithm == algorithm


def test_what_is_for_something_else_is_left_out() -> None:
    """Sets of identity providers hold more: keys for encryption, other curves, other algorithms, kinds to come."""
    curve = ec.generate_private_key(ec.SECP384R1()).public_key()
    others = [
        jwk("RS256", "encryption", 1) | {"use": "enc"},
        jwk("RS256", "signing only", 2) | {"key_ops": ["sign"]},
        jwk("RS256", "another algorithm", 3) | {"alg": "RS512"},
        {"kty": "AKP", "kid": "to come", "pub": "x"},
        json.loads(_jwk_of(curve)) | {"kid": "another curve"},
    ]
    keys = parse_keys(jwks(jwk("ES256", "ours"), *others))
    assert keys.find("ours") is not None
    assert not [each["kid"] for each in others if keys.find(each["kid"])]


def _jwk_of(public: Any) -> str:
    from jwt.algorithms import ECAlgorithm

    return str(ECAlgorithm.to_jwk(public))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no RSA key"),
        (b"{}", "no RSA key"),
        (b"nothing of all that", "no RSA key"),
        (b"{", "not JSON"),
        (b'{"keys": {}}', "not a JWK set"),
        (b'{"keys": [1]}', "not a JWK set"),
        (b'{"keys":' + b"[" * 100_000, "not JSON"),
        (jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "x"}), "'x' in it is secret"),
        (jwks(jwk("RS256", "x") | {"d": "AQAB"}), "'x' in it is secret"),
        (jwks(jwk("RS256") | {"kid": 1}), "is not text"),
        (jwks(jwk("RS256", "x") | {"n": "!"}), "'x' in it can't be read"),
        (jwks(jwk("ES256", "x") | {"x": "AA"}), "'x' in it can't be read"),
        (jwks(jwk("ES256", "x"), jwk("ES256", "x", 1)), "two keys are called 'x'"),
        (private_pem("ES256"), "private key in it"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "a public key in it can't be read"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "a certificate in it can't be read"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(data: bytes, said: str) -> None:
    """Secrets among them: they would work, and lie where they should not."""
    with pytest.raises(ConfigInvalid, match=said):
        parse_keys(data)


def test_a_short_key_is_none() -> None:
    """RSA of 1024 bits can be broken."""
    short = rsa.generate_private_key(65537, 1024).public_key()
    pem = short.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ConfigInvalid, match="no RSA key"):
        parse_keys(pem)


JWK = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops"]),
    st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "", "AA"])
    | st.none()
    | st.integers()
    | st.text(max_size=9),
)


@given(
    st.lists(JWK, max_size=3).map(lambda keys: jwks(*keys))
    | st.binary(max_size=60)
    | st.binary(max_size=60).map(lambda raw: b"{" + raw)
)
@settings(deadline=None)
@example(jwks({"kty": "OKP", "crv": "Ed25519", "x": "AA"}))
@example(b"\xff{")
def test_any_file_is_read_or_refused(data: bytes) -> None:
    """Nothing else is raised, as a file is read while requests are served."""
    try:
        parse_keys(data)
    except ConfigInvalid:
        return


class Authority:
    """Issues certificates."""

    def __init__(
        self, name: str, *, is_authority: bool = True, may_certify: bool = True, parent: Authority | None = None
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (parent or self).issue(
            self.name, self.key.public_key(), is_authority=is_authority, may_certify=is_authority and may_certify
        )
        self.unlimited = (parent or self).issue(self.name, self.key.public_key(), has_usage=False)

    def issue(
        self,
        name: x509.Name,
        public: Any,
        *,
        is_authority: bool = False,
        days: int = 10,
        may_sign: bool = True,
        may_certify: bool = False,
        has_usage: bool = True,
    ) -> x509.Certificate:
        """A certificate for a key, from a day ago."""
        usage = x509.KeyUsage(may_sign, False, False, False, False, may_certify, may_certify, False, False)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        return (made.add_extension(usage, critical=True) if has_usage else made).sign(self.key, hashes.SHA256())


def leaf(authority: Authority, **others: Any) -> x509.Certificate:
    """A certificate for the issuer's RSA key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    return authority.issue(name, private_key("RS256").public_key(), **others)


def chain(*certificates: x509.Certificate) -> list[str]:
    """As `x5c` has them."""
    return [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in certificates]


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def test_a_root_vouches_for_the_keys_below_it() -> None:
    """Directly, through another authority, or as the key's own certificate."""
    root = Authority("root")
    between = Authority("between", parent=root)
    roots = parse_roots(pem(root.certificate))
    own = leaf(between)
    for certificates in ([leaf(root)], [own, between.certificate]):
        found = roots.key_of(chain(*certificates), START_MS)
        assert found is not None
        assert found.algorithm == "RS256"
    assert roots.key_of(chain(own), START_MS) is None
    assert parse_roots(pem(own)).key_of(chain(own), START_MS) is not None


def test_a_root_vouches_for_nothing_else() -> None:
    """Not for a stranger's key, an expired one, one that may not sign, nor for what a mere key has signed."""
    root, stranger = Authority("root"), Authority("root")
    pretender = Authority("pretender", is_authority=False, parent=root)
    roots = parse_roots(pem(root.certificate))
    # Without a word on what its key is for, it still is no authority; nor is one whose key may not certify.
    assert roots.key_of(chain(leaf(pretender), pretender.unlimited), START_MS) is None
    unable = Authority("unable", may_certify=False, parent=root)
    assert roots.key_of(chain(leaf(unable), unable.certificate), START_MS) is None
    day_ms = 24 * 3600 * 1000
    assert roots.key_of(chain(leaf(stranger)), START_MS) is None
    assert roots.key_of(chain(leaf(stranger), stranger.certificate), START_MS) is None
    assert roots.key_of(chain(leaf(pretender), pretender.certificate), START_MS) is None
    assert roots.key_of(chain(leaf(root, may_sign=False)), START_MS) is None
    assert roots.key_of(chain(leaf(root)), START_MS + 11 * day_ms) is None
    assert roots.key_of(chain(leaf(root)), START_MS - 2 * day_ms) is None
    own = leaf(root)
    assert parse_roots(pem(own)).key_of(chain(own), START_MS + 11 * day_ms) is None


@given(
    st.lists(st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode()) | st.text(max_size=9), max_size=4)
)
@settings(deadline=None)
def test_any_chain_is_refused(texts: list[str]) -> None:
    """Nothing else is raised."""
    assert ROOTS.key_of(texts, START_MS) is None


ROOTS = parse_roots(pem(Authority("root").certificate))


def test_a_long_chain_is_refused() -> None:
    """Each link is work, and none needs so many."""
    root = Authority("root")
    roots = parse_roots(pem(root.certificate))
    many = [leaf(root), *[root.certificate] * (chain_max_certificates - 1)]
    assert roots.key_of(chain(*many), START_MS) is not None
    assert roots.key_of(chain(*many, root.certificate), START_MS) is None


async def test_a_chain_opens_where_roots_are_configured(tmp_path: Path, clock: FakeClock) -> None:
    """And only for who has the key of the certificate."""
    root = Authority("root")
    (tmp_path / "keys").write_bytes(public_pem("EdDSA"))
    (tmp_path / "roots").write_bytes(pem(root.certificate))
    token = TokenConfig(
        realm=REALM, service=SERVICE, issuer=ISSUER, keys=str(tmp_path / "keys"), roots=str(tmp_path / "roots")
    )
    tokens = make_token_access(AuthConfig(method="token", token=token), clock=clock)
    payload, needs = claims(START_MS / 1000, access("a", "pull")), [need("a", PULL)]
    headers = {"x5c": chain(leaf(root))}
    await admit(tokens, needs, bearer(sign(payload, kid="unknown", headers=headers)))
    await admit(tokens, needs, bearer(sign(payload, "EdDSA", kid=None, headers={"x5c": ["junk"]})))
    for signed in (
        sign(payload, number=1, kid="unknown", headers=headers),
        sign(payload, "ES256", kid="unknown", headers=headers),
        sign(payload, kid="unknown", headers={"x5c": chain(leaf(Authority("root")))}),
        sign(payload, kid="unknown", headers={"x5c": "text"}),
        sign(payload, kid="unknown", headers={"x5c": [1]}),
    ):
        with pytest.raises(Unauthenticated):
            await admit(tokens, needs, bearer(signed))


@pytest.mark.parametrize("data", [b"", b"nothing", public_pem("RS256")])
def test_roots_that_are_none(data: bytes) -> None:
    """A file of certificates, and at least one."""
    with pytest.raises(ConfigInvalid, match="not a list of certificates"):
        parse_roots(data)
