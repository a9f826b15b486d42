"""The public keys of whoever issues tokens, each for one algorithm, and the names that tokens call them by.

Sources: RFC 7517 (JWK sets), RFC 7638 (thumbprints), RFC 7515, 4.1.6 (x5c); libtrust's key ids, which older issuers use.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from blobstore.errors import ConfigInvalid

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

rsa_min_bits = 2048
chain_max_certificates = 8
"""Of a key that comes with a token."""
_PRIVATE_PARTS = frozenset({"d", "p", "q", "k"})
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)
_READERS: Mapping[str, Callable[[dict[str, Any]], object]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}
_NO_KEYS = "it holds no RSA key, no key on the curve P-256 and no Ed25519 key for signatures"


class TokenKey(msgspec.Struct, frozen=True):
    """A key and the only algorithm that it is good for."""

    public: PublicKey
    algorithm: str


class TokenKeys:
    """Keys by their names."""

    def __init__(self, keys: Mapping[str, TokenKey], only: TokenKey | None) -> None:
        self._keys, self._only = dict(keys), only

    def find(self, kid: str | None) -> TokenKey | None:
        """The key that a token names; where there is but one, a token need not."""
        return self._only if kid is None else self._keys.get(kid)


def parse_keys(data: bytes) -> TokenKeys:
    """The keys of a file: a JWK set, a single JWK, or PEM blocks of public keys and certificates.

    Raises:
        ConfigInvalid: it is none of these, has a secret among them, or no key that can be used.
    """
    keys: dict[str, TokenKey] = {}
    distinct: dict[str, TokenKey] = {}
    for kid, key in _read_jwks(data) if data.lstrip().startswith(b"{") else _read_pem(data):
        thumbprint = _thumbprint(key.public)
        distinct[thumbprint] = key
        for name in (thumbprint, _libtrust_id(key.public), *([kid] if kid else [])):
            if name in keys and _thumbprint(keys[name].public) != thumbprint:
                raise ConfigInvalid(f"two keys are called {name!r}")
            keys[name] = key
    if not keys:
        raise ConfigInvalid(_NO_KEYS)
    return TokenKeys(keys, next(iter(distinct.values())) if len(distinct) == 1 else None)


class Roots:
    """Certificates that vouch for others."""

    def __init__(self, certificates: list[x509.Certificate]) -> None:
        self._certificates = certificates

    def key_of(self, chain: list[str], now_ms: int) -> TokenKey | None:
        """The key of a chain's first certificate (base64 of DER each), if a root vouches for it, or it is one of them."""
        if not 0 < len(chain) <= chain_max_certificates:
            return None
        try:
            leaf, *between = [x509.load_der_x509_certificate(base64.b64decode(each, validate=True)) for each in chain]
        except (ValueError, TypeError):
            return None
        return _token_key(leaf.public_key()) if self._vouch(leaf, between, now_ms) else None

    def _vouch(self, leaf: x509.Certificate, between: list[x509.Certificate], now_ms: int) -> bool:
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        if leaf in self._certificates:
            return leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc
        verifier = (
            PolicyBuilder()
            .store(Store(self._certificates))
            .time(now)
            .extension_policies(ee_policy=_LEAF_POLICY, ca_policy=_AUTHORITY_POLICY)
            .build_client_verifier()
        )
        try:
            verifier.verify(leaf, between)
        except (VerificationError, ValueError, UnsupportedAlgorithm):
            return False
        return True


def parse_roots(data: bytes) -> Roots:
    """The certificates of a PEM file.

    Raises:
        ConfigInvalid: it holds something else, or none.
    """
    try:
        return Roots(x509.load_pem_x509_certificates(data))
    except ValueError as error:
        raise ConfigInvalid(f"it is not a list of certificates in PEM: {error}") from error


def _may_sign(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    del policy, certificate
    if usage is not None and not usage.digital_signature:
        raise ValueError("its key may not sign")


def _is_authority(policy: Policy, certificate: x509.Certificate, basic: x509.BasicConstraints) -> None:
    del policy, certificate
    if not basic.ca:
        raise ValueError("it is not an authority's")


def _may_certify(policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    del policy, certificate
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("its key may not sign certificates")


# Not those of web servers, whose names and purposes have no sense here.
_LEAF_POLICY = ExtensionPolicy.permit_all().may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
_AUTHORITY_POLICY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_certify)
)


def _read_jwks(data: bytes) -> Iterator[tuple[str | None, TokenKey]]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"it is not JSON: {error}") from error
    listed = document.get("keys", [document])
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ConfigInvalid("it is not a JWK set: an object whose `keys` are objects")
    for jwk in listed:
        if _PRIVATE_PARTS & jwk.keys():
            raise ConfigInvalid(
                f"the key {jwk.get('kid')!r} in it is secret; leave secrets to the issuer, its public key is enough"
            )
        key = _jwk_key(jwk)
        if key is not None:
            kid = jwk.get("kid")
            if kid is not None and not isinstance(kid, str):
                raise ConfigInvalid(f"the `kid` {kid!r} of a key in it is not text")
            yield kid, key


def _jwk_key(jwk: dict[str, Any]) -> TokenKey | None:
    """None for what is for something else: sets of identity providers have keys for encryption, and of other algorithms."""
    if jwk.get("use", "sig") != "sig" or "verify" not in str(jwk.get("key_ops", "verify")):
        return None
    read = _READERS.get(str(jwk.get("kty")))
    if read is None:
        return None
    try:
        key = _token_key(read(jwk))
    except (PyJWTError, ValueError, TypeError, KeyError, binascii.Error) as error:
        raise ConfigInvalid(f"the key {jwk.get('kid')!r} in it can't be read: {error}") from error
    return key if key is not None and jwk.get("alg", key.algorithm) == key.algorithm else None


def _read_pem(data: bytes) -> Iterator[tuple[str | None, TokenKey]]:
    for block in _PEM.finditer(data):
        label = block[1].decode()
        try:
            if label == "CERTIFICATE":
                public: object = x509.load_pem_x509_certificate(block[0]).public_key()
            elif label in ("PUBLIC KEY", "RSA PUBLIC KEY"):
                public = serialization.load_pem_public_key(block[0])
            elif "PRIVATE KEY" in label:
                raise ConfigInvalid(
                    "there is a private key in it; leave secrets to the issuer, its public key is enough"
                )
            else:
                continue
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigInvalid(f"a {label.lower()} in it can't be read: {error}") from error
        key = _token_key(public)
        if key is not None:
            yield None, key


def _token_key(public: object) -> TokenKey | None:
    if isinstance(public, RSAPublicKey) and public.key_size >= rsa_min_bits:
        return TokenKey(public, "RS256")
    if isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return TokenKey(public, "ES256")
    if isinstance(public, Ed25519PublicKey):
        return TokenKey(public, "EdDSA")
    return None


def _thumbprint(public: PublicKey) -> str:
    members: tuple[str, ...]
    if isinstance(public, RSAPublicKey):
        jwk, members = RSAAlgorithm.to_jwk(public, as_dict=True), ("e", "kty", "n")
    elif isinstance(public, EllipticCurvePublicKey):
        jwk, members = ECAlgorithm.to_jwk(public, as_dict=True), ("crv", "kty", "x", "y")
    else:
        jwk, members = OKPAlgorithm.to_jwk(public, as_dict=True), ("crv", "kty", "x")
    text = json.dumps({name: jwk[name] for name in members}, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _libtrust_id(public: PublicKey) -> str:
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[at : at + 4] for at in range(0, len(text), 4))
