"""S3, S4: an upload belongs to who began it, in its repository, whoever else may push there (CVE-2026-32589)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from blobstore.backends.memory import MemoryBackend
from blobstore.index.memory import MemoryIndex
from blobstore.server.auth.config import AuthConfig, TokenConfig
from blobstore.server.auth.token_access import make_token_access
from blobstore.server.protocol.registry import Registry
from blobstore.store import Store
from blobstore.testing import FakeClock
from blobstore.testing.fakes import START_MS
from tests.server.security.asking import bearer
from tests.server.security.guest import Guest, House
from tests.server.security.issuer import ISSUER, REALM, SERVICE, access, claims, public_pem, sign
from tests.spec.client import Answer, Body, chunk, digest

DATA = b"a layer of alice's"
ROOT = Path(__file__).resolve().parents[3]


async def attack(intruder: Guest, location: str) -> list[tuple[Answer, Body]]:
    """All that can be done to an upload."""
    made = []
    for method in ("GET", "HEAD", "PATCH", "PUT", "DELETE"):
        body = Body(b"evil")
        parameters = {"digest": digest(DATA)} if method == "PUT" else {}
        made.append(
            (await intruder.ask(method, location, body if method in ("PATCH", "PUT") else None, **parameters), body)
        )
    return made


async def is_untouched(owner: Guest, location: str, data: bytes = DATA) -> bool:
    """Whether the upload goes on where its owner left it."""
    status = await owner.get(location)
    assert (status.status, status["Range"]) == (204, f"0-{len(data) - 1}")
    done = await owner.put(location, digest=digest(data))
    return done.status == 201


async def test_who_may_push_there_may_not_touch_anothers_upload(house: House) -> None:
    """Neither read, nor write, nor end it; it is as if it weren't there, and no body is read."""
    location = await house.alice.begin("shared/x")
    assert (await house.alice.patch(location, DATA, headers=chunk(0, DATA))).status == 202
    for intruder in (house.bob, house.root):
        for answer, body in await attack(intruder, location):
            assert answer.status == 404
            assert answer.body == b"" or answer.code == "BLOB_UPLOAD_UNKNOWN"
            assert not body.was_read
    for answer, body in await attack(house.stranger, location):
        assert answer.status == 401
        assert not body.was_read
    for answer, body in await attack(house.reader, location):
        assert answer.status == 403
        assert not body.was_read
    assert await is_untouched(house.alice, location)


async def test_an_upload_does_not_move_to_another_repository(house: House) -> None:
    """Not even by its owner, who may push to both."""
    location = await house.alice.begin("shared/x")
    await house.alice.patch(location, DATA)
    elsewhere = location.replace("/shared/x/", "/team-a/x/")
    assert elsewhere != location
    for answer, body in await attack(house.alice, elsewhere):
        assert answer.status == 404
        assert not body.was_read
    assert await is_untouched(house.alice, location)


@pytest.mark.parametrize(
    "how", ["other seal", "no seal", "seal of another", "upper case", "longer", "newline", "bare", "traversal"]
)
async def test_an_upload_id_can_not_be_made(house: House, how: str) -> None:
    """It is sealed: whoever sees the index's own id can't use it."""
    location = await house.alice.begin("shared/x")
    another = await house.alice.begin("shared/x")
    await house.alice.patch(location, DATA)
    base, _, public = location.rpartition("/")
    upload, _, seal = public.partition(".")
    forged = {
        "other seal": f"{upload}.{'0' * len(seal)}",
        "no seal": f"{upload}.",
        "seal of another": f"{upload}.{another.rpartition('.')[2]}",
        "upper case": f"{upload}.{seal.upper()}",
        "longer": f"{public}0",
        "newline": f"{public}%0a",
        "bare": upload,
        "traversal": f"..%2f{public}",
    }[how]
    if forged == public:
        pytest.skip("this seal has digits alone")
    for answer, _ in await attack(house.alice, f"{base}/{forged}"):
        assert answer.status in (400, 404)
    assert await is_untouched(house.alice, location)


async def test_ids_are_long_and_never_alike(house: House) -> None:
    """128 random bits, and as many of the seal."""
    found = {(await house.alice.begin("shared/x")).rpartition("/")[2] for _ in range(20)}
    assert len(found) == 20
    assert all(len(each.partition(".")[0]) == 32 and len(each.partition(".")[2]) == 32 for each in found)
    assert len({each[:8] for each in found}) == 20


async def test_an_upload_of_another_store_is_unknown(house: House, tenants: object) -> None:
    """The seal's key is the index's."""
    del tenants
    other = Store(MemoryBackend(), MemoryIndex(), clock=FakeClock())
    await other.open(create=True)
    location = await Guest(Registry(other)).begin("shared/x")
    await other.aclose()
    assert {answer.status for answer, _ in await attack(house.alice, location)} == {404}


async def test_a_new_token_of_the_same_user_goes_on(store: Store, clock: FakeClock, tmp_path: Path) -> None:
    """Tokens end in the middle of a push; an upload is bound to who asks, not to how. Another user's token does not go on."""
    (tmp_path / "keys").write_bytes(public_pem("ES256"))
    token = TokenConfig(realm=REALM, service=SERVICE, issuer=ISSUER, keys=str(tmp_path / "keys"))
    registry = Registry(store, access=make_token_access(AuthConfig(method="token", token=token), clock=clock))

    def guest(subject: str, jti: str) -> Guest:
        payload = claims(START_MS // 1000, access("shared/x", "pull", "push"), sub=subject, jti=jti)
        return Guest(registry, bearer(sign(payload, "ES256", kid=None)))

    location = await guest("alice", "1").begin("shared/x")
    await guest("alice", "2").patch(location, DATA)
    for subject in ("bob", "", "nobody", "=alice"):
        assert {answer.status for answer, _ in await attack(guest(subject, "3"), location)} == {404}
    assert await is_untouched(guest("alice", "4"), location)


def test_nothing_is_unpickled() -> None:
    """S4: what an upload saves of its hash is plain bytes; no module that runs what it reads is imported anywhere."""
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
    seen = 0
    for folder in ("blobstore", "gc"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                seen += 1
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names.append(node.module)
                assert not {name.partition(".")[0] for name in names} & forbidden, path
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("eval", "exec"), path
    assert seen > 10_000
