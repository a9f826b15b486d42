"""`blobstore serve`: what it says, what it refuses, and who may reach it."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from blobstore.blocking import BlockingStore
from blobstore.cli import _serve
from blobstore.cli import run as run_here
from blobstore.config import Config
from blobstore.errors import ConfigInvalid
from blobstore.server.daemon.addresses import TcpAddress, UnixAddress, parse_address
from blobstore.server.daemon.config import load_server_config
from blobstore.server.daemon.listening import bind, notify
from blobstore.server.daemon.plan import StorePlan
from blobstore.server.daemon.serving import Overrides, Serving
from tests.server.daemon import ROOT, Daemon, wait_for
from tests.server.hosting import read_answer


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A start that is to fail."""
    command = [sys.executable, "-m", "blobstore", "serve", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


class Here:
    """A command line run in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """The exit status, and what is said on standard error."""
        self._capfd.readouterr()
        return run_here(list(arguments)), self._capfd.readouterr().err


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Here:
    return Here(capfd)


def test_a_newcomer_gets_a_store_and_an_address(tmp_path: Path):
    """Without a word about either: `./blobstore-data`, and a line that says where; Ctrl-C ends it well."""
    process = subprocess.Popen(
        [sys.executable, "-m", "blobstore", "serve", "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
        assert line.startswith("serving ./blobstore-data on http://127.0.0.1:")
        assert (tmp_path / "blobstore-data" / "blobstore.json").exists()
        with urllib.request.urlopen(line.split()[-1] + "/healthz") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "5000"], "'5000' is not an address"),
        (["--listen", "example.com:5000"], "names no address of a network card"),
        (["--listen", "127.0.0.1:70000"], "is not an address"),
        (["--listen", "unix:relative"], "is not a socket"),
        (["--listen", "203.0.113.7:0"], "everybody who can reach this machine could push and delete"),
        (["--listen", ":0"], "--insecure-open"),
        (["--listen", "203.0.113.7:0", "--insecure-open"], "can't listen on 203.0.113.7:0"),
        (["--listen", "127.0.0.1:0", "--operator-listen", "0.0.0.0:0"], "server.operator_token_file"),
        (["--workers", "0"], "at least one worker"),
        (["--workers", "many"], "workers"),
        (["--store", "nowhere://x"], "nowhere"),
        (["--config", "absent.toml"], "absent.toml can't be read"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
):
    """With status 2, before anything is made."""
    monkeypatch.chdir(tmp_path)
    status, err = here("serve", *arguments)
    assert status == 2
    assert said in err
    assert err.startswith("blobstore: error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "blobstore-data").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nlsten = '127.0.0.1:1'", "the key server.lsten is unknown; remove it, or use one of listen,"),
        ("[server]\nlisten = 5000", "the key server.listen can't be used: expected text in quotes, got `int`"),
        ("[server]\nlisten = '5000'", "the key server.listen can't be used: '5000' is not an address"),
        ("[server]\nworkers = '2'", "the key server.workers can't be used: expected a whole number, got `str`"),
        ("[server]\nworkers = 0", "the key server.workers must be between 1 and 256, not 0"),
        (
            "[server]\ntrusted_proxies = ['10/8']",
            "the key server.trusted_proxies can't be used: '10/8' is not a network",
        ),
        ("[server]\ntrusted_proxies = '10.0.0.0/8'", "expected a list of texts in quotes"),
        ("[server]\nidle_timeout = '3'", "the key server.idle_timeout can't be used: '3' is not a duration"),
        (
            "[server]\nredirect_valid = '0.5s'",
            "server.redirect_valid can't be used: '0.5s' should be between 1s and 1h",
        ),
        ("[server]\nheader_size = '1MB'", "the key server.header_size can't be used: '1MB' is not a size"),
        (
            "[server]\ndelivery = 'pigeon'",
            "the key server.delivery can't be used: invalid enum value 'pigeon'; use one of direct, redirect, accel",
        ),
        ("[server.auth]\nmethod = 'ldap'", "invalid enum value 'ldap'; use one of none, htpasswd, token"),
        (
            "[server.auth.rights]\n'a/**' = { bob = ['read'] }",
            "invalid enum value 'read'; use one of pull, push, delete, *",
        ),
        (
            "[[server.notifications.endpoints]]\nname = 'a'\nurl = 'http://a'\nignored_actions = ['look']",
            "invalid enum value 'look'; use one of push, pull, mount, delete",
        ),
        ("[server.logs]\nlevel = 'loud'", "invalid enum value 'loud'; use one of debug, info, warning, error"),
        (
            "[server]\naccel_prefix = 'x'",
            "the key server.accel_prefix can't be used: 'x' should begin and end with a slash",
        ),
        ("[server]\nredirect_valid = '2h'", "between 1s and 1h"),
        ("[server.tls]\ncert = 'x'", "the key server.tls.cert is unknown; remove it, or use one of certificate, key"),
        ("[server.tls]\ncertificate = 'x'", "[server.tls] needs server.tls.key"),
        ("[server.tls]\ncertificate = 'x'\nkey = 'y'", "can't be used: no such file or directory"),
        ("[server.tls]\ncertificate = 'c.toml'\nkey = 'c.toml'", "what is in a file of them is not in PEM"),
        (
            "[server]\nlisten = '127.0.0.1:5009'\noperator_listen = '127.0.0.1:5009'",
            "server.listen and server.operator_listen are both 127.0.0.1:5009",
        ),
        ("[server]\nrun_directory = 'x'", "server.run_directory: there is no directory"),
        ("[server]\noperator_token_file = 'x'", "x can't be read"),
        ("server = 1", "the key server can't be used: expected a table, written [server]"),
    ],
)
def test_a_configuration_that_cannot_be_used_names_the_file_the_key_and_the_value(
    here: Here, tmp_path: Path, text: str, said: str
):
    """At the start, not at the first request."""
    path = tmp_path / "c.toml"
    path.write_text(text)
    status, err = here("serve", "--config", str(path), "--store", str(tmp_path / "store"))
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    if said.startswith("the key"):
        assert str(path) in err
    assert not (tmp_path / "store").exists()


def test_files_in_the_configuration_are_relative_to_it(tmp_path: Path):
    """Not to where the daemon was started."""
    (tmp_path / "c.toml").write_text(
        "[server]\nrun_directory = 'run'\n[server.tls]\ncertificate = 'c.pem'\nkey = '/k.pem'\n"
    )
    found = load_server_config(str(tmp_path / "c.toml"))
    assert found.run_directory == str(tmp_path / "run")
    assert found.tls is not None
    assert (found.tls.certificate, found.tls.key) == (str(tmp_path / "c.pem"), "/k.pem")


def test_a_restart_opens_no_door_that_a_start_would_not(tmp_path: Path):
    """The sockets stay, whatever addresses the file names by then; so they are judged by where they are."""
    config = tmp_path / "c.toml"
    (tmp_path / "token").write_text("s3cret")
    config.write_text(
        "[server]\nlisten = '0.0.0.0:0'\nopen_to_all = true\n"
        "operator_listen = '0.0.0.0:0'\noperator_token_file = 'token'\n"
    )
    serving = Serving(lambda: StorePlan(str(tmp_path / "store"), None, Config()), str(config), Overrides())
    with serving._listening(serving._server()):
        assert serving._wanted().plan.server.open_to_all
        config.write_text(config.read_text().replace("0.0.0.0:0", "127.0.0.1:0"))
        assert serving._wanted().plan.server.open_to_all
        for text, said in (
            ("listen = '127.0.0.1:0'", "everybody who can reach this machine could push and delete"),
            ("open_to_all = true", "everybody who can reach this machine could start collections"),
        ):
            config.write_text(f"[server]\n{text}\n")
            with pytest.raises(ConfigInvalid, match=said):
                serving._wanted()


def test_other_commands_leave_the_server_alone(here: Here, tmp_path: Path):
    """One file for all of them."""
    (tmp_path / "c.toml").write_text(f"store = '{tmp_path / 'store'}'\n[server]\nworkers = 2\n")
    here("init", "--config", str(tmp_path / "c.toml"))
    assert (tmp_path / "store" / "blobstore.json").exists()


def test_without_the_extra_it_says_what_to_install(here: Here, monkeypatch: pytest.MonkeyPatch):
    """The daemon's packages are not needed by the rest."""
    monkeypatch.setattr(_serve, "_NEEDED", ("aiohttp", "no_such_package"))
    status, err = here("serve")
    assert status == 2
    assert "pip install 'blobstore[server]'" in err


def test_a_port_that_is_taken_is_named(tmp_path: Path):
    """And nothing is served twice."""
    with bind(TcpAddress("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
    assert "another process listens there" in done.stderr


def test_a_socket_that_is_a_file_is_served_and_taken_away(tmp_path: Path):
    """One that a killed process left is taken over; one in use is not."""
    path = tmp_path / "s.sock"
    dead = bind(UnixAddress(str(path)))
    dead.close()
    assert path.exists()
    with Daemon(tmp_path, "--listen", f"unix:{path}") as daemon:
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(str(path))
            made.sendall(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_answer(made)[0] == 200
        assert oct(path.stat().st_mode & 0o777) == "0o660"
        assert "another process listens there" in run(tmp_path, "--listen", f"unix:{path}").stderr
        assert daemon.stop() == 0
    assert not path.exists()


def test_tls(tmp_path: Path):
    """Only TLS 1.2 and 1.3, and only with a certificate if one is asked for."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    for name in ("server", "client"):
        files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run([*command.split(), *files], cwd=tmp_path, check=True, capture_output=True)
    config = "[server.tls]\ncertificate = 'server.pem'\nkey = 'server.key'\n"
    config = "[server]\noperator_listen = '127.0.0.1:0'\n" + config
    with Daemon(tmp_path, config=config + "client_authority = 'client.pem'\n") as daemon:
        assert daemon.said["listen"][0].startswith("https://")
        assert daemon.said["operator_listen"][0].startswith("https://")
        trusting = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
        port = daemon.address[1]
        assert _get_encrypted(trusting, port) == b""
        trusting.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        assert b" 200 " in _get_encrypted(trusting, port)
        assert b" 404 " in _get_encrypted(trusting, int(daemon.said["operator_listen"][0].rpartition(":")[2]))
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        assert b" 200 " in _get_encrypted(trusting, port)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            trusting.minimum_version = trusting.maximum_version = ssl.TLSVersion.TLSv1_1
        assert _get_encrypted(trusting, port) == b""


def test_the_operators_address_speaks_tls_too(tmp_path: Path):
    """And says so: its token would cross the network in the clear otherwise."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "server.key", "-out", "server.pem"]
    subprocess.run([*command.split(), *files], cwd=tmp_path, check=True, capture_output=True)
    config = "[server.tls]\ncertificate = 'server.pem'\nkey = 'server.key'\n"
    with Daemon(tmp_path, "--operator-listen", "127.0.0.1:0", config=config) as daemon:
        trusting = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
        with urllib.request.urlopen(f"{daemon.said['operator_listen'][0]}/metrics", context=trusting) as answer:
            assert answer.status == 200


def _get_encrypted(context: ssl.SSLContext, port: int) -> bytes:
    """What is answered; nothing if there is no connection."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as made,
        ):
            made.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return made.recv(1000)
    except OSError:
        return b""


def test_a_listening_socket_can_be_inherited(tmp_path: Path):
    """As systemd hands them over; its own address is not opened then."""
    with bind(TcpAddress("127.0.0.1", 0)) as listening:
        # What systemd does between fork and exec, done by a shell: its pid is that of what it becomes.
        script = f'exec 3<&{listening.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
        command = [sys.executable, "-m", "blobstore", "serve", "--json", "--store", str(tmp_path / "store")]
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )
        assert process.stdout is not None
        with process.stdout:
            said = b""
            while line := process.stdout.readline():
                said += line
                if line == b"}\n":
                    break
            assert json.loads(said)["listen"] == [f"http://127.0.0.1:{listening.getsockname()[1]}"]
            with urllib.request.urlopen(json.loads(said)["listen"][0] + "/v2/") as answer:
                assert answer.status == 200
            process.terminate()
            assert process.wait(30) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_systemd_is_told_how_it_goes(tmp_path: Path, workers: str):
    """Ready when it serves, reloading while workers are replaced, stopping when it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(30)
        daemon = Daemon(tmp_path, "--workers", workers)
        daemon.start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        with_daemon = told.recv(100)
        assert with_daemon == b"READY=1"
        if workers == "2":
            daemon.send(signal.SIGHUP)
            assert told.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert told.recv(100) == b"READY=1"
        assert daemon.stop() == 0
        assert told.recv(100) == b"STOPPING=1"
        daemon.__exit__()


def test_nobody_listens_to_what_systemd_would_be_told(tmp_path: Path):
    """Without systemd, or with its socket gone, nothing happens."""
    notify("READY=1", {})
    notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "absent")})


@pytest.mark.parametrize(
    ("text", "address", "is_loopback"),
    [
        ("127.0.0.1:5000", TcpAddress("127.0.0.1", 5000), True),
        ("localhost:0", TcpAddress("127.0.0.1", 0), True),
        ("[::1]:5000", TcpAddress("::1", 5000), True),
        (":5000", TcpAddress("0.0.0.0", 5000), False),
        ("[::]:5000", TcpAddress("::", 5000), False),
        ("10.0.0.1:80", TcpAddress("10.0.0.1", 80), False),
        ("unix:/run/b.sock", UnixAddress("/run/b.sock"), True),
    ],
)
def test_addresses(text: str, address: TcpAddress | UnixAddress, is_loopback: bool):
    """Written as people write them, and shown so that they can be read again."""
    assert parse_address(text) == address
    assert address.is_loopback is is_loopback
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "x", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "::1:80", "[::1:80", "host:1", "unix:", "unix:a"]
)
def test_no_addresses(text: str):
    """Nothing is guessed, and no name is looked up."""
    with pytest.raises(ConfigInvalid):
        parse_address(text)


def test_the_same_store_can_be_served_and_worked_on(tmp_path: Path):
    """The command line sees what was pushed while the daemon runs."""
    with Daemon(tmp_path) as daemon, daemon.client() as client:
        client.push_image("library/app", "1", [b"layer"])
        with BlockingStore(str(daemon.store)) as store:
            assert list(store.tags("library/app")) == ["1"]
        wait_for(lambda: client.ask("GET", "/healthz")[0] == 200, "it to be well")
