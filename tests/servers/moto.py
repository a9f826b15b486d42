"""moto (PyPI moto[s3]): the whole protocol in memory, for a few seconds less; it checks no signatures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tests.servers.processes as servers

# moto.server and not ThreadedMotoServer: its threads would share the interpreter with what is measured and cancelled.
_PROGRAM = "import sys; from moto.server import main; main(sys.argv[1:])"


@contextmanager
def running_moto(directory: Path) -> Iterator[servers.S3Server]:
    """A server in a process of its own."""
    (port,) = servers.free_ports(1)
    server = servers.S3Server("moto", f"http://127.0.0.1:{port}")
    command = [sys.executable, "-c", _PROGRAM, "-H", "127.0.0.1", "-p", str(port)]
    with servers.running(command, directory, name="moto") as process:
        servers.wait_until(lambda: servers.answers(server.endpoint), "moto", process, directory / "moto.log")
        servers.make_bucket(server)
        yield server
