"""The document of the operator's API is complete and exact: examples made from it are answered as it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from blobstore.server.operations._operator_document import make_document
from tests.server.operations.serving import ServedOperator

EXAMPLES = 25
SEED = 20261121
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
SCHEMA = schemathesis.openapi.from_dict(make_document("1.0"))


@pytest.fixture(scope="module")
def served() -> Iterator[ServedOperator]:
    """The API over HTTP, with a store that holds something, in a thread of its own."""
    with ServedOperator.running() as server:
        yield server


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@seed(SEED)
def test_every_answer_is_as_the_document_says(case: schemathesis.Case, served: ServedOperator) -> None:
    """Of every operation: statuses, fields and types; and what the document forbids is refused."""
    served.offer(case)
    response = case.call(base_url=served.url)
    case.validate_response(response, checks=CHECKS)


def test_the_document_names_every_path(served: ServedOperator) -> None:
    """And the thread is there that answers."""
    assert threading.active_count() > 1
    assert set(make_document("1")["paths"]) == {
        "/api/v1/stats",
        "/api/v1/runs",
        "/api/v1/runs/{run}",
        "/api/v1/runs/{run}/progress",
        "/api/v1/runs/{run}/undo",
        "/api/v1/progress",
        "/api/v1/explain/{digest}",
        "/api/v1/openapi.json",
    }
    assert served.url.startswith("http://127.0.0.1:")
