"""The clients that people have, each with a home, a storage and a daemon of its own below one directory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.server.daemon import wait_for
from tests.servers.processes import clean_environment, running
from tests.tools import require_tool

RUN_S = 120
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


class Program:
    """A command line tool that reads no settings of the machine or its user."""

    def __init__(self, name: str, directory: Path, *options: str, package: str | None = None) -> None:
        how = f"Debian: apt-get install {package or name}"
        self.directory = directory
        self._command = [require_tool(name, how=how), *options]
        (directory / "home").mkdir(exist_ok=True)
        (directory / "policy.json").write_text(_POLICY)
        (directory / "auth.json").write_text("{}")
        self.environment = clean_environment() | {
            "HOME": str(directory / "home"),
            "XDG_RUNTIME_DIR": str(directory / "home"),
            "REGISTRY_AUTH_FILE": str(directory / "auth.json"),
            "DOCKER_CONFIG": str(directory / "docker-config"),
            "TMPDIR": str(directory),
        }

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run it, and don't wait."""
        return subprocess.Popen(
            [*self._command, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def attempt(self, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run it, whatever comes of it."""
        return subprocess.run(
            [*self._command, *arguments],
            cwd=self.directory,
            env=self.environment,
            input=given,
            capture_output=True,
            timeout=RUN_S,
            check=False,
        )

    def __call__(self, *arguments: str, given: bytes = b"") -> bytes:
        """Run it; returns what it printed. That it fails is an error."""
        done = self.attempt(*arguments, given=given)
        assert done.returncode == 0, f"{arguments}: {done.stderr.decode(errors='replace')}"
        return done.stdout


def finish(process: subprocess.Popen[bytes], seconds: float = RUN_S) -> tuple[int, str]:
    """Exit status and output of what was started."""
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said.decode(errors="replace")


class Skopeo(Program):
    """Copies between registries and directories, without a storage."""

    def __init__(self, directory: Path) -> None:
        super().__init__("skopeo", directory, "--policy", str(directory / "policy.json"))

    def push(self, source: str, target: str, *options: str) -> None:
        """From a directory to a registry, as it is."""
        self("copy", "--preserve-digests", "--dest-tls-verify=false", *options, source, f"docker://{target}")

    def pull(self, source: str, target: str, *options: str) -> None:
        """From a registry to a directory, as it is."""
        self("copy", "--preserve-digests", "--src-tls-verify=false", *options, f"docker://{source}", target)


class Storage(Program):
    """Podman or buildah, with images as plain directories."""

    def __init__(self, name: str, directory: Path) -> None:
        places = ("--root", str(directory / "storage"), "--runroot", str(directory / "run"), "--storage-driver", "vfs")
        more = ("--cgroup-manager", "cgroupfs", "--events-backend", "none") if name == "podman" else ()
        super().__init__(name, directory, *places, *more)
        self.policy = ("--signature-policy", str(directory / "policy.json"))


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose name leaves room for those of sockets, which have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bs-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


_CONTAINERD = """version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{place}/c.sock"
[ttrpc]
address = "{place}/t.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{place}/opt"
"""


@contextlib.contextmanager
def running_containerd(directory: Path) -> Iterator[Program]:
    """A containerd, and its ctr."""
    containerd = require_tool("containerd")
    ctr = Program("ctr", directory, "--address", f"{directory}/c.sock", package="containerd")
    (directory / "containerd.toml").write_text(_CONTAINERD.format(place=directory))
    command = [containerd, "--config", str(directory / "containerd.toml")]
    with running(command, directory, name="containerd", environment=ctr.environment):
        wait_for(lambda: ctr.attempt("version").returncode == 0, "containerd")
        yield ctr


@contextlib.contextmanager
def running_docker(directory: Path) -> Iterator[Program]:
    """A dockerd without any network of its own, and its docker."""
    dockerd = require_tool("dockerd", how="Debian: apt-get install docker.io")
    socket = f"unix://{directory}/d.sock"
    docker = Program("docker", directory, "--host", socket, package="docker.io")
    command = [
        *(dockerd, "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"),
        *("--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec"),
        *("--pidfile", f"{directory}/d.pid", "--host", socket, "--max-concurrent-uploads", "2"),
    ]
    with running(command, directory, name="dockerd", environment=docker.environment) as process:
        wait_for(lambda: docker.attempt("version").returncode == 0, "dockerd")
        yield docker
        # It ends the containerd that it started, which is in a group of its own.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        _kill_by_file(directory / "exec" / "containerd" / "containerd.pid", directory)


def _kill_by_file(path: Path, directory: Path) -> None:
    """End what a file names, if it is still what was started here."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(path.read_text())
        if str(directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, 9)
