"""The OCI distribution API over a store, free of any web framework: a request in, its answer out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from blobstore.errors import BlobstoreError, NameInvalid
from blobstore.names import RepositoryName
from blobstore.server.protocol import _base, _blobs, _manifests, _referrers, _tags, _uploads
from blobstore.server.protocol._call import Call, Core
from blobstore.server.protocol.access import Access, Need, OpenAccess, Principal
from blobstore.server.protocol.messages import Request, Response
from blobstore.server.protocol.observing import Answered, Observer, unobserved
from blobstore.server.protocol.problems import Problem, problem_response
from blobstore.server.protocol.room import EndlessRoom, Room
from blobstore.server.protocol.routing import (
    ALLOWED,
    ALLOWED_READ_ONLY,
    PULL,
    RULES,
    Endpoint,
    Rule,
    find_route,
    parse_name,
)
from blobstore.server.protocol.settings import RegistrySettings
from blobstore.store import Store

API_VERSION = ("Docker-Distribution-API-Version", "registry/2.0")
"""In every answer: old clients tell a registry from a web server by it."""

Handler = Callable[[Call], Awaitable[Response]]
HANDLERS: dict[Endpoint, dict[str, Handler]] = {
    Endpoint.BASE: {"GET": _base.ping, "HEAD": _base.ping},
    Endpoint.CATALOG: {"GET": _tags.list_catalog, "HEAD": _tags.list_catalog},
    Endpoint.EXTENSIONS: {"GET": _base.discover, "HEAD": _base.discover},
    Endpoint.REPOSITORY_EXTENSIONS: {"GET": _base.discover, "HEAD": _base.discover},
    Endpoint.BLOB: {"GET": _blobs.get_blob, "HEAD": _blobs.head_blob, "DELETE": _blobs.delete_blob},
    Endpoint.UPLOADS: {"POST": _uploads.start_upload},
    Endpoint.UPLOAD: {
        "GET": _uploads.tell_status,
        "HEAD": _uploads.tell_status,
        "PATCH": _uploads.append,
        "PUT": _uploads.finish,
        "DELETE": _uploads.cancel,
    },
    Endpoint.MANIFEST: {
        "GET": _manifests.get_manifest,
        "HEAD": _manifests.get_manifest,
        "PUT": _manifests.put_manifest,
        "DELETE": _manifests.delete_manifest,
    },
    Endpoint.TAGS: {"GET": _tags.list_tags, "HEAD": _tags.list_tags},
    Endpoint.REFERRERS: {"GET": _referrers.list_referrers, "HEAD": _referrers.list_referrers},
}
_TABLE: dict[Endpoint, dict[str, tuple[Rule, Handler]]] = {
    endpoint: {method: (RULES[endpoint][method], handler) for method, handler in handlers.items()}
    for endpoint, handlers in HANDLERS.items()
}
_NO_NAME = RepositoryName("")


class Registry:
    """A registry over an open store, which stays the caller's.

    `settings` may be replaced while it serves: the next request sees the new ones.
    """

    def __init__(
        self,
        store: Store,
        settings: RegistrySettings | None = None,
        access: Access | None = None,
        *,
        observer: Observer = unobserved,
        room: Room | None = None,
    ) -> None:
        self._core = Core(
            store, settings or RegistrySettings(), access or OpenAccess(), observer, room or EndlessRoom()
        )

    @property
    def settings(self) -> RegistrySettings:
        """The limits and switches in force."""
        return self._core.settings

    @settings.setter
    def settings(self, settings: RegistrySettings) -> None:
        self._core.settings = settings

    async def answer(self, request: Request) -> Response:
        """The answer to a request. What goes wrong is answered as the specification says; only a bug is raised.

        The body isn't touched by what is refused: whoever hosts this drains it, or closes the connection.
        """
        core = self._core
        route = find_route(request.path)
        name: RepositoryName | None = None
        principal: Principal | None = None
        failed: BlobstoreError | None = None
        try:
            rule, handler = _find(route.endpoint, request.method)
            if route.name is not None:
                name = parse_name(route.name)
            principal = await core.access.admit(
                request, _needs(route.endpoint, rule, name), _wishes(route.endpoint, request)
            )
            if rule.is_write and core.settings.read_only:
                raise _refused_method(route.endpoint, ALLOWED_READ_ONLY, "this registry is read-only")
            found = await handler(Call(core, request, principal, name or _NO_NAME, route.reference))
        except BlobstoreError as error:
            failed = error
            found = problem_response(error)
        core.observer(
            Answered(
                request=request,
                endpoint=route.endpoint.value,
                repository=name,
                principal=principal,
                status=found.status,
                error=failed,
            )
        )
        if failed is not None and request.method == "HEAD":
            return _without_payload(found)
        return Response(found.status, [API_VERSION, *found.headers], found.payload)


def _find(endpoint: Endpoint, method: str) -> tuple[Rule, Handler]:
    """Rule and handler of what is asked for; whatever is not in the table is refused."""
    methods = _TABLE.get(endpoint)
    if methods is None:
        raise Problem(404, "UNSUPPORTED", "this is no path of the distribution API")
    found = methods.get(method)
    if found is None:
        raise _refused_method(endpoint, ALLOWED, "this method is not supported here")
    return found


def _needs(endpoint: Endpoint, rule: Rule, name: RepositoryName | None) -> tuple[Need, ...]:
    if name is not None or endpoint is Endpoint.CATALOG:
        return (Need(name, rule.actions),)
    return ()


def _wishes(endpoint: Endpoint, request: Request) -> tuple[Need, ...]:
    """A mount pulls from its source; where that isn't allowed it becomes an upload, as if the blob weren't there."""
    if endpoint is not Endpoint.UPLOADS:
        return ()
    sources = [value for key, value in request.query if key == "from"]
    try:
        return tuple(Need(RepositoryName.parse(source), PULL) for source in sources[:1])
    except NameInvalid:
        return ()


def _refused_method(endpoint: Endpoint, allowed: dict[Endpoint, str], text: str) -> Problem:
    return Problem(405, "UNSUPPORTED", text, headers=[("Allow", allowed[endpoint])])


def _without_payload(found: Response) -> Response:
    """An error's answer to HEAD, which has no body but says how long it would be."""
    assert isinstance(found.payload, bytes)
    return Response(found.status, [API_VERSION, *found.headers, ("Content-Length", str(len(found.payload)))])
