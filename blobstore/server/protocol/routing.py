"""What a path and a method ask for: the table of endpoints, and the rights each of their methods needs.

Paths are read from the right, as the words of the specification (`blobs`, `tags`, `uploads` …) are also names of repositories;
what is in no table is refused. Source: distribution-spec, Endpoints; Docker's `_catalog`; the extensions document.
"""

from __future__ import annotations

import enum
from functools import lru_cache

import msgspec

from blobstore.names import RepositoryName
from blobstore.server.protocol.access import Action

PULL = frozenset({Action.PULL})
# What clients ask a token for when they push; a challenge that names less would send them twice.
PUSH = frozenset({Action.PULL, Action.PUSH})
DELETE = frozenset({Action.DELETE})
NO_RIGHT: frozenset[Action] = frozenset()


class Endpoint(enum.StrEnum):
    """Few names, fit for a label of a metric."""

    BASE = "base"
    CATALOG = "catalog"
    EXTENSIONS = "extensions"
    REPOSITORY_EXTENSIONS = "repository-extensions"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    MANIFEST = "manifest"
    TAGS = "tags"
    REFERRERS = "referrers"
    NONE = "none"


class Rule(msgspec.Struct, frozen=True):
    """What one method of an endpoint needs, and whether it changes anything."""

    actions: frozenset[Action]
    is_write: bool = False


_READ = {"GET": Rule(PULL), "HEAD": Rule(PULL)}
RULES: dict[Endpoint, dict[str, Rule]] = {
    Endpoint.BASE: {"GET": Rule(NO_RIGHT), "HEAD": Rule(NO_RIGHT)},
    Endpoint.CATALOG: _READ,
    Endpoint.EXTENSIONS: {"GET": Rule(NO_RIGHT), "HEAD": Rule(NO_RIGHT)},
    Endpoint.REPOSITORY_EXTENSIONS: _READ,
    Endpoint.BLOB: _READ | {"DELETE": Rule(DELETE, is_write=True)},
    Endpoint.UPLOADS: {"POST": Rule(PUSH, is_write=True)},
    # To cancel one's own upload is part of pushing; who may is in its id.
    Endpoint.UPLOAD: {method: Rule(PUSH, is_write=True) for method in ("PATCH", "PUT", "DELETE")}
    | {"GET": Rule(PUSH), "HEAD": Rule(PUSH)},
    Endpoint.MANIFEST: _READ | {"PUT": Rule(PUSH, is_write=True), "DELETE": Rule(DELETE, is_write=True)},
    Endpoint.TAGS: _READ,
    Endpoint.REFERRERS: _READ,
}
ALLOWED = {endpoint: ", ".join(sorted(rules)) for endpoint, rules in RULES.items()}
ALLOWED_READ_ONLY = {
    endpoint: ", ".join(sorted(method for method, rule in rules.items() if not rule.is_write))
    for endpoint, rules in RULES.items()
}


class Route(msgspec.Struct, frozen=True):
    """What a path names. `name` is the text where a repository stands, not checked yet; `reference` the last part: a tag, a
    digest, the id of an upload."""

    endpoint: Endpoint
    name: str | None = None
    reference: str = ""


_NOWHERE = Route(Endpoint.NONE)
_FIXED = {
    "/v2/": Route(Endpoint.BASE),
    "/v2": Route(Endpoint.BASE),
    "/v2/_catalog": Route(Endpoint.CATALOG),
    "/v2/_oci/ext/discover": Route(Endpoint.EXTENSIONS),
}
_BY_KIND = {"blobs": Endpoint.BLOB, "manifests": Endpoint.MANIFEST, "referrers": Endpoint.REFERRERS}


def find_route(path: str) -> Route:
    """The route of a path; `Endpoint.NONE` for what is no path of this API."""
    fixed = _FIXED.get(path)
    if fixed is not None:
        return fixed
    if not path.startswith("/v2/"):
        return _NOWHERE
    head, _, reference = path[4:].rpartition("/")
    name, _, kind = head.rpartition("/")
    endpoint = _BY_KIND.get(kind)
    if endpoint is None:
        return _find_rare(name, kind, reference)
    if endpoint is Endpoint.BLOB and reference == "uploads":
        # Without its last slash; a redirect would turn POST into GET in many clients.
        return Route(Endpoint.UPLOADS, name)
    return Route(endpoint, name, reference)


def _find_rare(name: str, kind: str, reference: str) -> Route:
    if kind == "uploads" and name.endswith("/blobs"):
        name = name.removesuffix("/blobs")
        return Route(Endpoint.UPLOAD, name, reference) if reference else Route(Endpoint.UPLOADS, name)
    if kind == "tags" and reference == "list":
        return Route(Endpoint.TAGS, name)
    if kind == "ext" and reference == "discover" and name.endswith("/_oci"):
        return Route(Endpoint.REPOSITORY_EXTENSIONS, name.removesuffix("/_oci"))
    return _NOWHERE


parse_name = lru_cache(maxsize=4096)(RepositoryName.parse)
"""`RepositoryName.parse`, remembering the names of late: only good ones, so at most a MiB."""
