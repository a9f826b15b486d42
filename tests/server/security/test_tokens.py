"""S16: a token is good if a key of ours signed it with its algorithm, for us, for now, and for just this."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobstore.names import RepositoryName
from blobstore.server.auth.config import AuthConfig, TokenConfig
from blobstore.server.auth.credentials import token_max_bytes
from blobstore.server.auth.token_access import TokenAccess, make_token_access
from blobstore.server.protocol.access import ANYBODY, Principal, Unauthenticated
from blobstore.server.protocol.registry import Registry
from blobstore.store import Store
from blobstore.testing import FakeClock
from blobstore.testing.fakes import START_MS
from tests.server.security.asking import CATALOG, DELETE, PULL, PUSH, admit, basic, bearer, need
from tests.server.security.issuer import (
    ISSUER,
    REALM,
    SERVICE,
    access,
    claims,
    jwk,
    jwks,
    private_key,
    public_pem,
    scopes,
    sign,
)
from tests.spec.client import Client

NOW_S = START_MS // 1000
PULL_A = access("team/a", "pull")


def make(folder: Path, clock: FakeClock, keys: bytes, **others: Any) -> TokenAccess:
    """Access control over a file of keys."""
    path = folder / "keys"
    path.write_bytes(keys)
    token = TokenConfig(realm=REALM, service=SERVICE, issuer=ISSUER, keys=str(path))
    return make_token_access(AuthConfig(method="token", token=token, **others), clock=clock)


@pytest.fixture
def tokens(tmp_path: Path, clock: FakeClock) -> TokenAccess:
    """With one key of each algorithm, called `one`, `two` and `three`."""
    return make(tmp_path, clock, jwks(jwk("RS256", "one"), jwk("ES256", "two"), jwk("EdDSA", "three")))


async def refusal(tokens: TokenAccess, token: str, *needs: Any) -> Unauthenticated:
    """How a token is refused."""
    with pytest.raises(Unauthenticated) as caught:
        await admit(tokens, needs or [need("team/a", PULL)], bearer(token))
    return caught.value


@pytest.mark.parametrize(("algorithm", "kid"), [("RS256", "one"), ("ES256", "two"), ("EdDSA", "three")])
async def test_a_token_of_each_algorithm_opens(tokens: TokenAccess, algorithm: str, kid: str) -> None:
    """RS256, ES256 and EdDSA; its subject is who asks."""
    token = sign(claims(NOW_S, PULL_A), algorithm, kid=kid)
    found = await admit(tokens, [need("team/a", PULL)], bearer(token))
    assert found.name == "alice"
    assert (await admit(tokens, [], bearer(token))).name == "alice"


@pytest.mark.parametrize(
    ("what", "claimed"),
    [
        ("issuer", {"iss": "other"}),
        ("issuer", {"iss": ISSUER + "/"}),
        ("service", {"aud": "other"}),
        ("service", {"aud": ["other", "another"]}),
        ("service", {"aud": []}),
        ("expired", {"exp": NOW_S - 60}),
        ("expired", {"exp": 0}),
        ("not valid yet", {"nbf": NOW_S + 61}),
        ("claims", {"iss": None}),
        ("claims", {"aud": None}),
        ("claims", {"exp": None}),
        ("claims", {"exp": "9999999999"}),
        ("claims", {"exp": True}),
        ("claims", {"access": {"type": "repository"}}),
        ("claims", {"access": [{"type": "repository", "name": "team/a"}, 1]}),
        ("claims", {"aud": {"registry.example": 1}}),
        ("subject", {"sub": "a\nb"}),
        ("subject", {"sub": "a" * 300}),
    ],
)
async def test_a_token_that_is_not_for_us_or_not_for_now(
    tokens: TokenAccess, what: str, claimed: dict[str, Any]
) -> None:
    """Issuer, audience and times are looked at, and must be there."""
    found = await refusal(tokens, sign(claims(NOW_S, PULL_A, **claimed)))
    assert what in str(found)
    assert 'error="invalid_token"' in found.challenge


@pytest.mark.parametrize(
    "claimed",
    [
        {"exp": NOW_S - 59},
        {"nbf": NOW_S + 60},
        {"nbf": None},
        {"aud": ["other", SERVICE]},
        {"exp": NOW_S + 0.5},
        {"iat": NOW_S + 10_000},
        {"unknown": {"a": 1}},
    ],
)
async def test_clocks_may_differ_by_a_minute(tokens: TokenAccess, claimed: dict[str, Any]) -> None:
    """And what isn't asked for may be missing."""
    assert (await admit(tokens, [need("team/a", PULL)], bearer(sign(claims(NOW_S, PULL_A, **claimed))))).name == "alice"


async def test_a_token_ends_while_it_is_in_use(tokens: TokenAccess, clock: FakeClock) -> None:
    """Every request is asked for its token anew."""
    token = sign(claims(NOW_S, PULL_A))
    await admit(tokens, [need("team/a", PULL)], bearer(token))
    clock.advance(360_000)
    assert "expired" in str(await refusal(tokens, token))


def unsigned(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    """Three parts, put together by hand."""
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "HS256", "RS512", "PS256", "ES384", "rs256", "EdDSA"]
)
async def test_no_other_algorithm_than_the_keys_own(tokens: TokenAccess, algorithm: str) -> None:
    """What a token says of its algorithm chooses nothing."""
    found = await refusal(tokens, unsigned({"alg": algorithm, "kid": "one"}, claims(NOW_S, PULL_A), b"x" * 256))
    assert "not that of its key" in str(found)


@pytest.mark.parametrize(
    "secret", [public_pem("RS256"), public_pem("RS256").strip(), json.dumps(jwk("RS256")).encode()]
)
async def test_a_public_key_is_no_shared_secret(tokens: TokenAccess, secret: bytes) -> None:
    """CVE-2022-29217: everybody has the public key, and could sign with it as HS256's secret."""
    import hashlib
    import hmac

    head = unsigned({"alg": "HS256", "kid": "one"}, claims(NOW_S, PULL_A)).rpartition(".")[0]
    signature = base64.urlsafe_b64encode(hmac.digest(secret, head.encode(), hashlib.sha256)).rstrip(b"=").decode()
    assert "not that of its key" in str(await refusal(tokens, f"{head}.{signature}"))


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "crit", "b64", "enc", "zip"])
async def test_a_token_brings_no_key_and_no_rules_along(tokens: TokenAccess, name: str) -> None:
    """Not even with a good signature: who signs such tokens means something else than we would understand."""
    values: dict[str, Any] = {"jwk": jwk("RS256"), "crit": ["b64"], "b64": True}
    named = {"alg": "RS256", "kid": "one", name: values.get(name, "https://evil.example/keys")}
    if name == "crit":
        named["b64"] = True
    head = unsigned(named, claims(NOW_S, PULL_A)).rpartition(".")[0]
    raw = private_key("RS256").sign(head.encode(), padding.PKCS1v15(), hashes.SHA256())
    signature = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert "are not accepted" in str(await refusal(tokens, f"{head}.{signature}"))


@pytest.mark.parametrize(
    ("kind", "is_good"), [("JWT", True), ("jwt", True), ("at+jwt", False), ("JWE", False), ("", False)]
)
async def test_a_token_is_of_the_kind_that_is_meant(tokens: TokenAccess, kind: str, *, is_good: bool) -> None:
    """An issuer may sign other things with the same key (RFC 8725, 3.11)."""
    token = (
        sign(claims(NOW_S, PULL_A), headers={"typ": kind})
        if kind
        else unsigned({"alg": "RS256", "kid": "one", "typ": ""}, {}, b"x")
    )
    if is_good:
        await admit(tokens, [need("team/a", PULL)], bearer(token))
    else:
        assert "type of the token is not JWT" in str(await refusal(tokens, token))


async def test_a_key_of_another_issuer_signs_nothing_here(tokens: TokenAccess) -> None:
    """Whatever it calls itself."""
    payload = claims(NOW_S, PULL_A)
    assert "signature is wrong" in str(await refusal(tokens, sign(payload, number=1)))
    assert "not known" in str(await refusal(tokens, sign(payload, number=1, kid="other")))
    assert "not known" in str(await refusal(tokens, sign(payload, kid=None)))
    assert "not that of its key" in str(await refusal(tokens, sign(payload, "RS256", kid="two")))
    assert "not that of its key" in str(await refusal(tokens, sign(payload, "ES256", kid="one")))


async def test_a_chain_is_ignored_without_roots(tokens: TokenAccess) -> None:
    """x5c: the key with the name is asked, and no other."""
    payload = claims(NOW_S, PULL_A)
    chained = {"x5c": ["bm8gY2VydGlmaWNhdGU="]}
    assert await admit(tokens, [need("team/a", PULL)], bearer(sign(payload, headers=chained)))
    assert "not known" in str(await refusal(tokens, sign(payload, number=1, kid="other", headers=chained)))


def _flipped(token: str, part: int) -> str:
    parts = token.split(".")
    parts[part] = parts[part][:-2] + ("A" if parts[part][-2] != "A" else "B") + parts[part][-1]
    return ".".join(parts)


@pytest.mark.parametrize(
    "change",
    [
        lambda token: _flipped(token, 1),
        lambda token: _flipped(token, 2),
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: token.rpartition(".")[0],
        lambda token: token + ".x",
        lambda token: "." + token,
        lambda token: token + "=",
        lambda token: token[:-20],
    ],
    ids=["payload", "signature", "none", "two parts", "four parts", "empty header", "padding", "short"],
)
async def test_a_changed_token_is_no_token(tokens: TokenAccess, change: Callable[[str], str]) -> None:
    """Every bit of it is signed."""
    await refusal(tokens, change(sign(claims(NOW_S, PULL_A))))


async def test_a_long_token_is_refused_unread(tokens: TokenAccess) -> None:
    """16 KiB are enough for some hundred repositories."""
    token = sign(claims(NOW_S, *(access(f"team/repository-{number}", "pull") for number in range(400))))
    assert len(token) > token_max_bytes
    assert "longer than" in str(await refusal(tokens, token))


@given(
    st.text(st.characters(codec="ascii", exclude_characters=" "), max_size=200)
    | st.binary(max_size=90).map(lambda raw: ".".join([base64.urlsafe_b64encode(raw).decode()] * 3))
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_text_is_refused_and_nothing_else_raised(tokens: TokenAccess, text: str) -> None:
    """Whatever is sent in place of a token."""
    await refusal(tokens, text)


HEADER = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "x5c", "cty"]),
    st.none()
    | st.integers()
    | st.text(max_size=9)
    | st.sampled_from(["one", "RS256"])
    | st.lists(st.text(max_size=9), max_size=3),
)


@given(
    HEADER,
    st.recursive(
        st.none() | st.text(max_size=5) | st.integers(),
        lambda each: st.lists(each) | st.dictionaries(st.text(max_size=5), each),
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_header_and_claims_are_refused(tokens: TokenAccess, header: dict[str, Any], payload: Any) -> None:
    """Parts that are JSON, and make no sense."""
    await refusal(tokens, unsigned(header, payload, b"x" * 256))


CLAIM = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.lists(st.none() | st.text(max_size=4), max_size=2)
)


@given(st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "sub", "access", "iat", "jti"]), CLAIM))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_signed_claims_are_understood_or_refused(tokens: TokenAccess, claimed: dict[str, Any]) -> None:
    """An issuer with a fault of its own makes no fault of ours; without an entry of access nothing is allowed."""
    await refusal(tokens, sign(claims(NOW_S) | claimed, "EdDSA", kid="three"))


@pytest.mark.parametrize(
    ("entry", "wanted", "is_allowed"),
    [
        (access("team/a", "pull"), need("team/a", PULL), True),
        (access("team/a", "pull", "push"), need("team/a", PULL, PUSH), True),
        (access("team/a", "*"), need("team/a", PULL, PUSH, DELETE), True),
        (access("team/a", "pull"), need("team/a", PULL, PUSH), False),
        (access("team/a", "pull", "push"), need("team/a", DELETE), False),
        (access("team/a", "PULL"), need("team/a", PULL), False),
        (access("team/*", "pull"), need("team/a", PULL), False),
        (access("team", "pull"), need("team/a", PULL), False),
        (access("team/a/b", "pull"), need("team/a", PULL), False),
        (access("Team/a", "pull"), need("team/a", PULL), False),
        (access("*", "*"), need("team/a", PULL), False),
        (access("team/a", "pull", kind="repository(plugin)"), need("team/a", PULL), False),
        (access("team/a", "pull", kind="Repository"), need("team/a", PULL), False),
        (access("team/a", "pull") | {"class": "image"}, need("team/a", PULL), True),
        ({"type": "repository", "name": "team/a", "actions": None}, need("team/a", PULL), False),
        (access("catalog", "*", kind="registry"), CATALOG, True),
        (access("catalog", "pull", kind="registry"), CATALOG, False),
        (access("catalog", "*", kind="repository"), CATALOG, False),
        (access("catalog", "*", kind="registry"), need("catalog", PULL), False),
    ],
)
async def test_an_entry_allows_just_what_it_says(
    tokens: TokenAccess, entry: dict[str, Any], wanted: Any, *, is_allowed: bool
) -> None:
    """Type, name and actions are compared as they are; only the action `*` stands for others."""
    token = sign(claims(NOW_S, entry))
    if is_allowed:
        await admit(tokens, [wanted], bearer(token))
    else:
        assert 'error="insufficient_scope"' in (await refusal(tokens, token, wanted)).challenge


async def test_entries_of_one_repository_add_up(tokens: TokenAccess) -> None:
    """Issuers write one for each scope that was asked for."""
    token = sign(claims(NOW_S, access("team/a", "pull"), access("team/a", "push")))
    found = await admit(tokens, [need("team/a", PULL, PUSH)], bearer(token))
    assert tokens.may(found, need("team/a", PUSH))
    assert not tokens.may(found, need("team/b", PULL))


async def test_a_mount_needs_no_more_than_the_right_to_push_and_may_use_a_pull(tokens: TokenAccess) -> None:
    """The challenge names both scopes, so that a client asks for both at once; with the first alone it uploads."""
    target, source = need("team/a", PULL, PUSH), need("other/b", PULL)
    with pytest.raises(Unauthenticated) as caught:
        await admit(tokens, [target], wishes=[source])
    assert scopes(caught.value.challenge) == ["repository:team/a:pull,push", "repository:other/b:pull"]
    lone = sign(claims(NOW_S, access("team/a", "pull", "push")))
    found = await admit(tokens, [target], bearer(lone), wishes=[source])
    assert not tokens.may(found, source)
    both = sign(claims(NOW_S, access("team/a", "pull", "push"), access("other/b", "pull")))
    assert tokens.may(await admit(tokens, [target], bearer(both), wishes=[source]), source)
    with pytest.raises(Unauthenticated) as caught:
        await admit(tokens, [target], bearer(sign(claims(NOW_S, access("other/b", "pull")))), wishes=[source])
    assert scopes(caught.value.challenge) == ["repository:team/a:pull,push", "repository:other/b:pull"]


async def test_the_registry_asks_for_both_ends_of_a_mount(store: Store, tokens: TokenAccess) -> None:
    """So that one token is enough; a source that is no name is nobody's."""
    client = Client(Registry(store, access=tokens))
    for source, wanted in (
        ("other/b", ["repository:team/a:pull,push", "repository:other/b:pull"]),
        ("BAD", ["repository:team/a:pull,push"]),
    ):
        answer = await client.post("/v2/team/a/blobs/uploads/", mount="sha256:" + "a" * 64, **{"from": source})
        assert answer.status == 401
        assert scopes(answer["WWW-Authenticate"]) == wanted


async def test_the_catalog_shows_its_reader_all_names_and_opens_none(tokens: TokenAccess) -> None:
    """`registry:catalog:*` is a right to names; without it no name is seen."""
    reader = await admit(tokens, [CATALOG], bearer(sign(claims(NOW_S, access("catalog", "*", kind="registry")))))
    assert tokens.sees(reader, RepositoryName("team/a"))
    assert not tokens.may(reader, need("team/a", PULL))
    assert not tokens.sees(ANYBODY, RepositoryName("team/a"))


@pytest.mark.parametrize(
    ("needs", "challenge"),
    [
        ([], f'Bearer realm="{REALM}",service="{SERVICE}"'),
        ([need("a/b", PULL)], f'Bearer realm="{REALM}",service="{SERVICE}",scope="repository:a/b:pull"'),
        ([need("a/b", DELETE)], f'Bearer realm="{REALM}",service="{SERVICE}",scope="repository:a/b:delete"'),
        ([CATALOG], f'Bearer realm="{REALM}",service="{SERVICE}",scope="registry:catalog:*"'),
        (
            [need("a", PUSH), need("b", PULL), need("a", PULL)],
            f'Bearer realm="{REALM}",service="{SERVICE}",scope="repository:a:pull,push repository:b:pull"',
        ),
    ],
)
async def test_a_challenge_names_what_to_ask_for(tokens: TokenAccess, needs: list[Any], challenge: str) -> None:
    """As clients of Docker's token authentication read it; without an error where there was no token."""
    for fields in ([], [basic("alice", "wonder")]):
        with pytest.raises(Unauthenticated) as caught:
            await admit(tokens, needs, *fields)
        assert caught.value.challenge == challenge


async def test_a_token_of_nobody_is_nobodys(tokens: TokenAccess) -> None:
    """Issuers give tokens for public repositories to anybody, with an empty subject."""
    token = sign(claims(NOW_S, PULL_A, sub=""))
    assert (await admit(tokens, [need("team/a", PULL)], bearer(token))).name is None


async def test_anonymous_pulls_need_no_token(tmp_path: Path, clock: FakeClock) -> None:
    """And a token for something else is no obstacle to them; a bad one is."""
    tokens = make(tmp_path, clock, public_pem("RS256"), anonymous_pull=("public/*",))
    assert await admit(tokens, [need("public/a", PULL)]) == ANYBODY
    found = await admit(tokens, [need("public/a", PULL)], bearer(sign(claims(NOW_S), kid=None)))
    assert found.name == "alice"
    assert tokens.may(ANYBODY, need("public/a", PULL))
    with pytest.raises(Unauthenticated):
        await admit(tokens, [need("public/a", PULL)], bearer("abc"))
    for needs in ([], [CATALOG], [need("public/a", PULL, PUSH)], [need("private/a", PULL)]):
        with pytest.raises(Unauthenticated):
            await admit(tokens, needs)


async def test_keys_are_replaced_under_way(tmp_path: Path, clock: FakeClock) -> None:
    """A key that was withdrawn signs nothing any more; a broken file changes nothing."""
    tokens = make(tmp_path, clock, jwks(jwk("ES256", "old")))
    old = bearer(sign(claims(NOW_S, PULL_A), "ES256", kid="old"))
    new = bearer(sign(claims(NOW_S, PULL_A), "ES256", kid="new", number=1))
    await admit(tokens, [need("team/a", PULL)], old)
    (tmp_path / "keys").write_bytes(b"{")
    clock.advance(1000)
    await admit(tokens, [need("team/a", PULL)], old)
    (tmp_path / "keys").write_bytes(jwks(jwk("ES256", "new", number=1)))
    clock.advance(1000)
    await admit(tokens, [need("team/a", PULL)], new)
    with pytest.raises(Unauthenticated):
        await admit(tokens, [need("team/a", PULL)], old)


def test_a_principal_without_grants_may_nothing(tokens: TokenAccess) -> None:
    """Nobody comes in by being made elsewhere."""
    assert not tokens.may(Principal("alice"), need("team/a", PULL))
    assert not tokens.may(Principal("alice", {"team/a"}), need("team/a", PULL))
    assert private_key("RS256").key_size == 2048
