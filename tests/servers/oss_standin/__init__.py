"""A server that speaks the API of Aliyun OSS and believes nothing: for tests and benches, as there is none to install.

What it knows was learned from public documents and SDKs, not from the service; docs/backends/oss.md says what follows.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
REGION = "cn-hangzhou"
KEY_ID = "LTAI5tStandInKeyId"
SECRET = "StandInSecretNobodyMaySee"
_END_S = 10


class OssStandin:
    """The process, and what tests may ask of it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"

    def ask(self, verb: str, **fields: Any) -> Any:
        """Ask the stand-in itself, behind the back of its customers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", f"/-/{verb}", json.dumps(fields), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)

    def new_bucket(self, versioning: str = "") -> str:
        """The name of a new bucket."""
        name = f"bucket-{uuid.uuid4().hex[:16]}"
        self.ask("bucket", name=name, versioning=versioning)
        return name

    def add_account(self, key_id: str, secret: str = SECRET, *, denied: tuple[str, ...] = (), **fields: Any) -> None:
        """Let somebody sign."""
        self.ask("account", key_id=key_id, secret=secret, denied=denied, **fields)

    def fault(self, operation: str, kind: str, **fields: Any) -> None:
        """Let the next request of an operation fail; see `faults`."""
        self.ask("fault", operation=operation, kind=kind, **fields)


@contextlib.contextmanager
def running_standin() -> Iterator[OssStandin]:
    """A process of its own, gone at the end, and also when this process dies."""
    command = [sys.executable, "-m", "tests.servers.oss_standin", REGION]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the stand-in for OSS did not start"
        standin = OssStandin(int(line))
        standin.add_account(KEY_ID)
        yield standin
    finally:
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def oss_process() -> Iterator[OssStandin]:
    """The process, started once."""
    with running_standin() as standin:
        yield standin


@pytest.fixture
def oss_server(oss_process: OssStandin) -> OssStandin:
    """The stand-in without faults."""
    oss_process.ask("clear")
    return oss_process
