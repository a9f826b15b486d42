"""`serve`: the registry daemon."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from blobstore.cli._common import Common
from blobstore.cli._errors import UsageInvalid
from blobstore.cli._output import Output
from blobstore.cli._owner import check_owner

if TYPE_CHECKING:
    from blobstore.server.daemon.serving import Serving

_DEFAULTS = Common()
_NEEDED = ("aiohttp", "uvloop", "bcrypt", "jwt", "cronsim", "prometheus_client", "structlog")


def serve(
    *,
    listen: Annotated[str | None, Parameter(help="Where clients connect: address:port or unix:/path.")] = None,
    operator_listen: Annotated[
        str | None, Parameter(help="Where /metrics and /api/v1/ are served, if not where clients connect.")
    ] = None,
    workers: Annotated[int | None, Parameter(help="Processes that serve.")] = None,
    insecure_open: Annotated[
        bool, Parameter(help="Serve others than this machine although nobody has to say who they are.")
    ] = False,
    common: Common = _DEFAULTS,
) -> int:
    """Serve the registry until SIGTERM or Ctrl-C. A store is made where none is. SIGHUP takes up the configuration file's
    changes and replaces the workers, without a failed request."""
    _check_installed()
    from blobstore.server.daemon.plan import StorePlan
    from blobstore.server.daemon.serving import Overrides, Serving

    def store() -> StorePlan:
        settings = common.settings()
        check_owner(settings.store)
        return StorePlan(settings.store, settings.index, settings.config)

    overrides = Overrides(listen, operator_listen, workers, insecure_open or None)
    serving = Serving(store, common.config, overrides)
    return serving.run(lambda: _say(common, store().url, serving))


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageInvalid(f"serving needs {', '.join(missing)}: pip install 'blobstore[server]'")


def _say(common: Common, store: str, serving: Serving) -> None:
    output = Output(common)
    scheme = "https" if serving.is_encrypted else "http"
    urls, operators = (
        [f"{scheme}://{each}" if ":/" not in str(each) else str(each) for each in addresses]
        for addresses in (serving.public, serving.operator)
    )
    output.document({"store": store, "listen": urls, "operator_listen": operators, "pid": os.getpid()})
    output.remark(
        f"serving {store} on {', '.join(urls)}" + (f", operators on {', '.join(operators)}" if operators else "")
    )
    # Whoever started this waits for the line, maybe at the end of a pipe.
    sys.stdout.flush()
