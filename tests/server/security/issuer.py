"""A small issuer of tokens, as Docker's token authentication describes it; not shipped, and no more than tests need.

Keys are drawn by OpenSSL, which takes no seed: no outcome depends on which they are.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "issuer.example"
SERVICE = "registry.example"
REALM = "https://issuer.example/token"
_KINDS = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def private_key(algorithm: str, number: int = 0) -> Any:
    """The private key of one algorithm; another one for each number."""
    return _draw(algorithm, number)


@functools.cache
def _draw(algorithm: str, number: int) -> Any:
    del number
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    raise AssertionError(algorithm)


def public_pem(algorithm: str, number: int = 0) -> bytes:
    """Its public key as PEM."""
    return private_key(algorithm, number).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(algorithm: str, number: int = 0) -> bytes:
    """The private key itself as PEM."""
    return private_key(algorithm, number).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def jwk(algorithm: str, kid: str | None = None, number: int = 0) -> dict[str, Any]:
    """Its public key as a JWK."""
    found = _KINDS[algorithm].to_jwk(private_key(algorithm, number).public_key(), as_dict=True)
    found.pop("key_ops", None)
    return dict(found) | ({"kid": kid} if kid else {})


def jwks(*keys: Mapping[str, Any]) -> bytes:
    """A JWK set."""
    return json.dumps({"keys": list(keys)}).encode()


def access(name: str, *actions: str, kind: str = "repository") -> dict[str, Any]:
    """One entry of the claim `access`."""
    return {"type": kind, "name": name, "actions": list(actions)}


def claims(now_s: float, *entries: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """The claims of a token for the next five minutes; one that is None is left out."""
    found = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": SERVICE,
        "exp": int(now_s) + 300,
        "nbf": int(now_s),
        "iat": int(now_s),
        "jti": "1",
        "access": list(entries),
    }
    return {name: value for name, value in (found | others).items() if value is not None}


def sign(
    payload: Mapping[str, Any],
    algorithm: str = "RS256",
    *,
    kid: str | None = "one",
    number: int = 0,
    headers: Mapping[str, Any] | None = None,
    key: Any = None,
) -> str:
    """A token, signed with a private key of its algorithm unless another `key` is given."""
    named = ({"kid": kid} if kid else {}) | dict(headers or {})
    text = json.dumps(payload).encode()
    # The layer below PyJWT's own tokens, which would not sign such claims as some tests need.
    return jwt.PyJWS().encode(text, key or private_key(algorithm, number), algorithm, headers=named)


def scopes(challenge: str) -> Sequence[str]:
    """The scopes that a challenge asks for."""
    return challenge.partition('scope="')[2].partition('"')[0].split()
