"""The table `[server.auth]`: what can't be meant is refused at the start, with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from blobstore.errors import ConfigInvalid
from blobstore.server.auth.authentication import make_access
from blobstore.server.auth.config import AuthConfig
from blobstore.server.auth.htpasswd_access import HtpasswdAccess
from blobstore.server.auth.token_access import TokenAccess
from blobstore.server.daemon.config import load_server_config
from blobstore.server.protocol.access import OpenAccess
from tests.server.security.htpasswd import line
from tests.server.security.issuer import public_pem

TOKEN = """
[server.auth]
method = "token"
[server.auth.token]
realm = "https://issuer.example/token"
service = "registry.example"
issuer = "issuer.example"
keys = "keys.pem"
"""
HTPASSWD = """
[server.auth]
method = "htpasswd"
anonymous_pull = ["public/**"]
[server.auth.htpasswd]
file = "users"
realm = "ours"
cache = "10s"
[server.auth.limits]
per_source = 5
per_user = 10
recover = "1m"
[server.auth.rights]
"team/**" = { alice = ["pull", "push", "delete"], "*" = ["pull"] }
"""


def read(folder: Path, text: str) -> AuthConfig:
    """The table of a file."""
    (folder / "blobstore.toml").write_text(text)
    return load_server_config(str(folder / "blobstore.toml")).auth


async def test_each_method_is_made(tmp_path: Path) -> None:
    """Files are named beside the configuration; nothing is asked of a network."""
    (tmp_path / "users").write_text(line("alice", "wonder"))
    (tmp_path / "keys.pem").write_bytes(public_pem("RS256"))
    assert isinstance(make_access(AuthConfig()), OpenAccess)
    for text, kind in ((HTPASSWD, HtpasswdAccess), (TOKEN, TokenAccess)):
        access = make_access(read(tmp_path, text))
        assert isinstance(access, kind)
        await access.aclose()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[server.auth]\nmethod = "ldap"', "server.auth.method"),
        ('[server.auth]\nmethods = "token"', "server.auth.methods is unknown"),
        ('[server.auth]\nmethod = "htpasswd"', "server.auth.htpasswd.file must name"),
        ('[server.auth]\nanonymous_pull = ["**"]', "anonymous_pull needs a server.auth.method"),
        ('[server.auth.htpasswd]\nfile = "x"', "no use while server.auth.method is 'none'"),
        ('[server.auth.token]\nrealm = "x"', "no use while server.auth.method is 'none'"),
        ('[server.auth.rights]\n"**" = { "*" = ["pull"] }', "everybody may do everything"),
        (HTPASSWD.partition("[server.auth.rights]")[0] + "[server.auth.rights]\n", "is empty"),
        (TOKEN + '[server.auth.rights]\n"**" = { "*" = ["pull"] }', "the issuer of the tokens decides"),
        (TOKEN.replace("keys =", "roots ="), "server.auth.token.keys is needed"),
        (TOKEN.replace('issuer = "issuer.example"', ""), "server.auth.token.issuer is needed"),
        (TOKEN.replace('"registry.example"', '"a\\"b"'), "server.auth.token.service must be printable"),
        (HTPASSWD.replace("ours", "o\\nurs"), "server.auth.htpasswd.realm must be printable"),
        (HTPASSWD.replace('"10s"', '"10"'), "server.auth.htpasswd.cache can't be used"),
        (HTPASSWD.replace('"10s"', '"2h"'), "server.auth.htpasswd.cache must be at most 1h"),
        (HTPASSWD.replace("per_user = 10", "per_user = 0"), "per_user must be between 1 and"),
        (HTPASSWD.replace('"1m"', '"0s"'), "server.auth.limits.recover must be more than 0s"),
        (HTPASSWD.replace("public/**", "Public/**"), "'Public/**' is not a glob"),
        (HTPASSWD.replace("team/**", "team/"), "'team/' is not a glob"),
        (HTPASSWD.replace('"delete"', '"remove"'), "server.auth.rights"),
        (HTPASSWD.replace('"*" = ["pull"]', '"*" = []'), "has no actions"),
        (HTPASSWD.replace('"*" = ["pull"]', '"a*" = ["pull"]'), "'a*' is not a user"),
        (HTPASSWD.replace('"*" = ["pull"]', '"a:b" = ["pull"]'), "'a:b' is not a user"),
        (HTPASSWD.replace('realm = "ours"', 'password = "x"'), "server.auth.htpasswd.password is unknown"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Not ignored: whoever wrote it believes in it."""
    with pytest.raises(ConfigInvalid) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert "blobstore.toml" in str(caught.value)


def test_files_that_cannot_be_used_are_found_at_the_start(tmp_path: Path) -> None:
    """With their path."""
    for text, name in ((HTPASSWD, "users"), (TOKEN, "keys.pem")):
        with pytest.raises(ConfigInvalid, match=f"{tmp_path}/{name} can't be read"):
            make_access(read(tmp_path, text))
        (tmp_path / name).write_text("junk")
        with pytest.raises(ConfigInvalid, match=f"{tmp_path}/{name}: "):
            make_access(read(tmp_path, text))
