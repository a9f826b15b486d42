"""Servers that tests start for themselves: on free ports of the loopback, in a directory of their own, killed by their pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

ACCESS_KEY, SECRET_KEY = "ak-for-tests", "sk-for-tests-only"
BUCKET = "blobstore-tests"
# They would send the SDKs to other certificates, credentials and servers than a test's.
FOREIGN_VARIABLES = (
    "AWS_",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)


class S3Server(msgspec.Struct, frozen=True):
    """A running server with one bucket."""

    name: str
    endpoint: str
    bucket: str = BUCKET
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY


def clean_environment() -> dict[str, str]:
    """The environment without what points to somebody's cloud."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN_VARIABLES)}


def free_ports(count: int, *, and_offset: int = 0) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, and whose neighbours at `and_offset` are free as well."""
    found: list[int] = []
    at = 20_000 + os.getpid() % 10_000
    while len(found) < count:
        at += 1
        if _is_free(at) and (not and_offset or _is_free(at + and_offset)):
            found.append(at)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def running(
    command: Sequence[str], directory: Path, *, name: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, its output in `directory`; killed at the end."""
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=clean_environment() if environment is None else dict(environment),
        )
    try:
        yield process
    finally:
        # Their ends are not what is tested, and take up to half a minute.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(
    is_up: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 60
) -> None:
    """Wait for a server. A process outside can only be asked again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        if is_up():
            return
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise RuntimeError(f"{what} did not start (exit code {process.poll()}):\n{tail}")


def answers(url: str) -> bool:
    """Whether an HTTP server answers, whatever."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def make_bucket(server: S3Server, name: str | None = None, *, seconds: float = 60) -> None:
    """Make a bucket; a server that just started may not be ready to for a while."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    end = time.monotonic() + seconds
    while True:
        try:
            client.create_bucket(Bucket=name or server.bucket)
        except (BotoCoreError, ClientError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return
        finally:
            client.close()
