"""S17, S18: names and passwords are checked slowly, by few threads, and tell nobody who is known."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from blobstore.errors import ConfigInvalid
from blobstore.events import Alarm
from blobstore.names import RepositoryName
from blobstore.server.auth import passwords
from blobstore.server.auth.config import AuthConfig, FailureLimits, HtpasswdConfig
from blobstore.server.auth.htpasswd_access import make_htpasswd_access
from blobstore.server.auth.htpasswd_file import parse_users
from blobstore.server.protocol.access import ANYBODY, Forbidden, Principal, TooManyRequests, Unauthenticated
from blobstore.testing import FakeClock
from tests.server.security.asking import CATALOG, DELETE, PULL, PUSH, admit, basic, bearer, need
from tests.server.security.htpasswd import COST, Htpasswd, line
from tests.tools import require_tool

ROOT = Path(__file__).resolve().parents[3]
ANYTHING = [need("a/b", PULL, PUSH)]


class Checks:
    """Counts what bcrypt is asked, and lets it answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.costs: list[int] = []
        self.at_once = self.at_once_max = 0
        self._lock, self._check = threading.Lock(), bcrypt.checkpw
        monkeypatch.setattr(passwords.bcrypt, "checkpw", self)

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        with self._lock:
            self.costs.append(int(hashed[4:6]))
            self.at_once += 1
            self.at_once_max = max(self.at_once, self.at_once_max)
        try:
            return self._check(password, hashed)
        finally:
            with self._lock:
                self.at_once -= 1


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    return Checks(monkeypatch)


async def test_the_right_password_opens(htpasswd: Htpasswd) -> None:
    """And the ping, which needs nothing else."""
    assert await admit(htpasswd.access, ANYTHING, basic("alice", "wonder")) == Principal("alice")
    assert await admit(htpasswd.access, [], basic("alice", "wonder")) == Principal("alice")
    assert await admit(htpasswd.access, [CATALOG], basic("alice", "wonder")) == Principal("alice")


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [basic("alice", "builder")],
        [basic("alice", "")],
        [basic("", "wonder")],
        [basic("Alice", "wonder")],
        [basic("nobody", "wonder")],
        [basic("", "")],
        [bearer("abc")],
        [("Authorization", "Basic !")],
        [basic("alice", "wonder"), basic("alice", "wonder")],
    ],
    ids=str,
)
async def test_all_else_is_asked_for_a_password(htpasswd: Htpasswd, fields: list[tuple[str, str]]) -> None:
    """401, never 403: it says nothing of what is there."""
    for needs in (ANYTHING, [], [CATALOG]):
        with pytest.raises(Unauthenticated) as caught:
            await admit(htpasswd.access, needs, *fields)
        assert caught.value.challenge == 'Basic realm="blobstore", charset="UTF-8"'
        assert "wonder" not in str(caught.value)


async def test_an_unknown_user_costs_what_a_known_one_does(tmp_path: Path, clock: FakeClock, checks: Checks) -> None:
    """Also where costs differ: unknown ones are spread over them, each always at the same."""
    (tmp_path / "htpasswd").write_text("\n".join([line("alice", "wonder", cost=4), line("bob", "builder", cost=5)]))
    found = Htpasswd(tmp_path, clock)
    try:
        for user in ("alice", "bob", *(f"user{number}" for number in range(12))):
            for password in ("one", "two"):
                with pytest.raises(Unauthenticated, match="the user name or the password is wrong"):
                    await admit(found.access, ANYTHING, basic(user, password), peer=user)
    finally:
        await found.access.aclose()
    each = [checks.costs[at : at + 2] for at in range(0, len(checks.costs), 2)]
    assert len(each) == 14
    assert each[:2] == [[4, 4], [5, 5]]
    assert {cost for pair in each[2:] for cost in pair} == {4, 5}
    assert all(one == other for one, other in each)


def test_whose_time_an_unknown_user_takes_is_a_secret_of_the_file() -> None:
    """Otherwise anybody could work out beforehand which cost a made-up name has, and see that a known one differs."""
    drawn = set()
    for password in "abcdefgh":
        users = parse_users("\n".join([line("alice", password, cost=4), line("bob", password, cost=5)]).encode())
        assert users.entry("mallory") == users.entry("mallory")
        drawn.add(tuple(users.entry(f"user{number}").cost for number in range(16)))
    assert len(drawn) > 1


async def test_an_unknown_user_is_not_let_in_by_anothers_password(tmp_path: Path, clock: FakeClock) -> None:
    """The hash it is compared with may well be a match."""
    (tmp_path / "htpasswd").write_text(line("alice", "wonder"))
    found = Htpasswd(tmp_path, clock)
    with pytest.raises(Unauthenticated):
        await admit(found.access, ANYTHING, basic("mallory", "wonder"))
    await found.access.aclose()


async def test_a_password_beyond_72_bytes_is_refused_clearly(tmp_path: Path, clock: FakeClock) -> None:
    """Not taken for its beginning, whoever it is of."""
    (tmp_path / "htpasswd").write_text(line("alice", "a" * 72))
    found = Htpasswd(tmp_path, clock)
    assert await admit(found.access, ANYTHING, basic("alice", "a" * 72)) == Principal("alice")
    for user, password in (("alice", "a" * 73), ("alice", "é" * 37), ("mallory", "a" * 73)):
        with pytest.raises(Unauthenticated, match="at most 72 bytes"):
            await admit(found.access, ANYTHING, basic(user, password))
    await found.access.aclose()


async def test_a_right_password_is_computed_once_for_a_while(
    htpasswd: Htpasswd, clock: FakeClock, checks: Checks
) -> None:
    """Every request of a push comes with it."""
    for _ in range(5):
        await admit(htpasswd.access, ANYTHING, basic("alice", "wonder"))
    assert len(checks.costs) == 1
    clock.advance(60_000)
    await admit(htpasswd.access, ANYTHING, basic("alice", "wonder"))
    assert len(checks.costs) == 2


async def test_a_wrong_password_is_computed_each_time(htpasswd: Htpasswd, checks: Checks) -> None:
    """Only good news is remembered."""
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await admit(htpasswd.access, ANYTHING, basic("alice", "wrong"))
    assert len(checks.costs) == 2


async def test_the_cache_holds_no_password(htpasswd: Htpasswd) -> None:
    """A key under a random one of this process alone."""
    await admit(htpasswd.access, ANYTHING, basic("alice", "wonder"))
    remembered: dict[bytes, Any] = htpasswd.access._passwords._good_until_ms
    assert [len(mark) for mark in remembered] == [32]
    assert not any(b"wonder" in mark or b"alice" in mark for mark in remembered)


async def test_a_name_and_a_password_are_remembered_apart(tmp_path: Path, clock: FakeClock) -> None:
    """Not as one text, whose border could be moved."""
    (tmp_path / "htpasswd").write_text(line("alice", "wonder"))
    found = Htpasswd(tmp_path, clock)
    await admit(found.access, ANYTHING, basic("alice", "wonder"))
    for user, password in (("alic", "ewonder"), ("alicew", "onder")):
        with pytest.raises(Unauthenticated):
            await admit(found.access, ANYTHING, basic(user, password))
    await found.access.aclose()


async def test_one_password_from_many_connections_is_computed_once(htpasswd: Htpasswd, checks: Checks) -> None:
    """A client opens several at once."""
    found = await asyncio.gather(*(admit(htpasswd.access, ANYTHING, basic("bob", "builder")) for _ in range(8)))
    assert found == [Principal("bob")] * 8
    assert len(checks.costs) == 1


async def test_passwords_have_few_threads(htpasswd: Htpasswd, checks: Checks) -> None:
    """However many come at once, nothing but passwords waits for them."""
    coming = [admit(htpasswd.access, ANYTHING, basic("alice", str(n)), peer=f"192.0.2.{n}") for n in range(30)]
    found = await asyncio.gather(*coming, return_exceptions=True)
    assert all(isinstance(each, Unauthenticated) for each in found)
    assert 1 <= checks.at_once_max <= 2


async def test_too_many_waiting_passwords_are_sent_away(tmp_path: Path, clock: FakeClock, checks: Checks) -> None:
    """Unbounded waiting would be memory for whoever asks."""
    path = tmp_path / "htpasswd"
    limits = FailureLimits(per_user=10_000)
    config = AuthConfig(method="htpasswd", htpasswd=HtpasswdConfig(file=str(path)), limits=limits)
    found = Htpasswd(tmp_path, clock, config) if path.exists() else _with_file(tmp_path, clock, config)
    many = passwords.pending_max + 20
    coming = [admit(found.access, ANYTHING, basic("alice", str(n)), peer=f"10.0.{n}.1") for n in range(many)]
    answers = await asyncio.gather(*coming, return_exceptions=True)
    assert sum(isinstance(each, TooManyRequests) for each in answers) == 20
    assert len(checks.costs) == passwords.pending_max
    await found.access.aclose()


def _with_file(folder: Path, clock: FakeClock, config: AuthConfig) -> Htpasswd:
    (folder / "htpasswd").write_text(line("alice", "wonder"))
    return Htpasswd(folder, clock, config)


async def test_guessing_from_one_address_is_slowed_down(htpasswd: Htpasswd, clock: FakeClock, checks: Checks) -> None:
    """Also with the right password at last; others, and whoever was let in before, go on."""
    await admit(htpasswd.access, ANYTHING, basic("bob", "builder"))
    guesses = [admit(htpasswd.access, ANYTHING, basic(f"user{n}", "guess")) for n in range(40)]
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert [type(each) for each in answers] == [Unauthenticated] * 20 + [TooManyRequests] * 20
    assert len(checks.costs) == 21
    with pytest.raises(TooManyRequests) as caught:
        await admit(htpasswd.access, ANYTHING, basic("alice", "wonder"))
    assert caught.value.retry_after_s == 6
    await admit(htpasswd.access, ANYTHING, basic("alice", "wonder"), peer="192.0.2.2")
    await admit(htpasswd.access, ANYTHING, basic("bob", "builder"))
    clock.advance(6000)
    await admit(htpasswd.access, ANYTHING, basic("alice", "wonder"))


async def test_guessing_one_name_from_everywhere_is_slowed_down(htpasswd: Htpasswd, checks: Checks) -> None:
    """A name that isn't known is slowed down alike, or the limit would tell."""
    for user in ("alice", "mallory"):
        before = len(checks.costs)
        for number in range(60):
            wanted = Unauthenticated if number < 50 else TooManyRequests
            with pytest.raises(wanted):
                await admit(htpasswd.access, ANYTHING, basic(user, str(number)), peer=f"198.51.100.{number}")
        assert len(checks.costs) - before == 50


async def test_who_gives_up_waiting_leaves_the_others_waiting(htpasswd: Htpasswd) -> None:
    """A client that hangs up does not end what another one's connection waits for."""
    first, second = (asyncio.create_task(admit(htpasswd.access, ANYTHING, basic("alice", "wonder"))) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == Principal("alice")
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_rights_are_by_user(tmp_path: Path, clock: FakeClock) -> None:
    """403 for one who is known: another password won't help."""
    path = str(tmp_path / "htpasswd")
    rights: dict[str, dict[str, tuple[Any, ...]]] = {"team/*": {"alice": ("pull", "push"), "*": ("pull",)}}
    (tmp_path / "htpasswd").write_text("\n".join([line("alice", "wonder"), line("bob", "builder")]))
    found = Htpasswd(tmp_path, clock, AuthConfig(method="htpasswd", htpasswd=HtpasswdConfig(file=path), rights=rights))
    await admit(found.access, [need("team/a", PULL, PUSH)], basic("alice", "wonder"))
    await admit(found.access, [need("team/a", PULL)], basic("bob", "builder"))
    for field, wanted in (
        (basic("bob", "builder"), need("team/a", PUSH)),
        (basic("alice", "wonder"), need("team/a", DELETE)),
    ):
        with pytest.raises(Forbidden):
            await admit(found.access, [wanted], field)
    assert found.access.sees(Principal("bob"), RepositoryName("team/a"))
    assert not found.access.may(Principal("bob"), need("other", PULL))
    # What one would only like to do besides is no reason to be sent away.
    assert await admit(
        found.access, [need("team/a", PULL, PUSH)], basic("alice", "wonder"), wishes=[need("other", PULL)]
    )
    await found.access.aclose()


async def test_anonymous_pulls_are_as_wide_as_their_globs(tmp_path: Path, clock: FakeClock) -> None:
    """The ping still asks for a password: told there that none is needed, docker and skopeo would never show one.
    Without one containers/image sends an empty name and password, which are nobody's."""
    (tmp_path / "htpasswd").write_text(line("alice", "wonder"))
    config = AuthConfig(
        method="htpasswd", htpasswd=HtpasswdConfig(file=str(tmp_path / "htpasswd")), anonymous_pull=("public/**",)
    )
    found = Htpasswd(tmp_path, clock, config)
    assert await admit(found.access, [need("public/a", PULL)]) == ANYBODY
    assert await admit(found.access, [need("public/a", PULL)], basic("", "")) == ANYBODY
    for needs in (
        [],
        [CATALOG],
        [need("public/a", PULL, PUSH)],
        [need("private", PULL)],
        [need("public/a", PULL), need("b", PULL)],
    ):
        with pytest.raises(Unauthenticated):
            await admit(found.access, needs)
    # Wrong credentials are told so, not taken for none: whoever mistypes a password finds out.
    with pytest.raises(Unauthenticated):
        await admit(found.access, [need("public/a", PULL)], basic("alice", "wrong"))
    assert found.access.may(ANYBODY, need("public/a", PULL))
    assert not found.access.may(ANYBODY, need("private", PULL))
    await found.access.aclose()


@pytest.mark.parametrize("prefix", ["2a", "2b", "2y"])
async def test_the_kinds_of_bcrypt_are_known(tmp_path: Path, clock: FakeClock, prefix: str) -> None:
    """As each program writes them."""
    (tmp_path / "htpasswd").write_text("# users\n\n" + line("alice", "wonder", prefix=prefix) + "\r\n")
    found = Htpasswd(tmp_path, clock)
    assert await admit(found.access, ANYTHING, basic("alice", "wonder")) == Principal("alice")
    await found.access.aclose()


async def test_the_file_that_htpasswd_makes(tmp_path: Path, clock: FakeClock) -> None:
    """The program of Debian's apache2-utils."""
    program = require_tool("htpasswd", how="Debian: apt-get install apache2-utils")
    subprocess.run(
        [program, "-B", "-C", "4", "-i", "-c", tmp_path / "htpasswd", "alice"],
        input=b"wonder",
        check=True,
        capture_output=True,
    )
    found = Htpasswd(tmp_path, clock)
    assert await admit(found.access, ANYTHING, basic("alice", "wonder")) == Principal("alice")
    await found.access.aclose()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no user"),
        ("# nothing\n", "names no user"),
        ("alice", "line 1 is not a user, a colon and a hash"),
        (":x", "line 1 is not a user"),
        ("*:x", "line 1 is not a user"),
        ("alice:$apr1$TRMs2Cbs$WLPy8RLnDhZBPFqvAyCuW/", "line 1: the password of 'alice' is not a bcrypt hash"),
        ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "not a bcrypt hash"),
        ("alice:wonder", "not a bcrypt hash"),
        (line("alice", "wonder")[:-1], "not a bcrypt hash"),
        (line("alice", "wonder", prefix="2x"), "not a bcrypt hash"),
        (line("alice", "wonder").replace("$04$", "$31$"), "the cost of 'alice' must be between 4 and 16, not 31"),
        (line("alice", "a") + "\n" + line("alice", "b"), "line 2 names 'alice' for the second time"),
        ("\udcff:x", "line 1 is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(text: str, said: str) -> None:
    """No hash is in the message."""
    with pytest.raises(ConfigInvalid) as caught:
        parse_users(text.encode("utf-8", "surrogateescape"))
    assert said in str(caught.value)
    assert "WLPy8" not in str(caught.value)
    assert "wonder" not in str(caught.value)


@pytest.mark.parametrize(("user", "password"), sorted(passwords.PUBLISHED)[:2])
async def test_the_password_of_a_manual_opens_nothing(
    tmp_path: Path, clock: FakeClock, user: str, password: str
) -> None:
    """S18: it is refused at start, and where it was put into the file later."""
    path = tmp_path / "htpasswd"
    path.write_text(line(user, password) + "\n" + line("alice", "wonder"))
    with pytest.raises(ConfigInvalid, match="stands in a registry's manual"):
        Htpasswd(tmp_path, clock)
    path.write_text(line("alice", "wonder"))
    found = Htpasswd(tmp_path, clock)
    found.write(line(user, password))
    clock.advance(1000)
    with pytest.raises(Unauthenticated):
        await admit(found.access, ANYTHING, basic(user, password))
    await found.access.aclose()


async def test_weak_hashes_and_unknown_names_are_told(tmp_path: Path, clock: FakeClock) -> None:
    """They work; an operator should know."""
    (tmp_path / "htpasswd").write_text(line("alice", "wonder", cost=COST))
    told: list[object] = []
    config = AuthConfig(
        method="htpasswd",
        htpasswd=HtpasswdConfig(file=str(tmp_path / "htpasswd")),
        rights={"**": {"alice": ("*",), "alise": ("pull",)}},
    )
    access = make_htpasswd_access(config, clock=clock, events=told.append)
    await access.aclose()
    texts = [each.text for each in told if isinstance(each, Alarm)]
    assert len(texts) == 2
    assert "faster than advised: alice" in texts[0]
    assert "names 'alise', who is not in" in texts[1]


def test_nothing_is_shipped_with_a_password() -> None:
    """S18: no file of the package holds a hash or a default user."""
    assert not [path for path in (ROOT / "blobstore").rglob("*") if path.suffix in {".htpasswd", ".pem", ".key"}]
    assert AuthConfig().htpasswd.file is None
