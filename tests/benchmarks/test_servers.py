"""The servers under test, each in a process of its own as the benchmarks start it."""

import json
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from benchmarks.servers import CERTIFICATE, ECHO_KINDS, HTTP_KINDS, KEY, SERVERS

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60
MESSAGE = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def serve(tmp_path, authority):
    """Start a server on hybridloop; gives its scheme and the rest of its address."""
    made = authority.issue_cert("127.0.0.1", "localhost")
    made.cert_chain_pems[0].write_to_path(tmp_path / CERTIFICATE)
    made.private_key_pem.write_to_path(tmp_path / KEY)

    @contextmanager
    def start(kind, loop="hybridloop"):
        command = [sys.executable, "-m", "benchmarks.servers", kind, "--loop", loop]
        command += ["--path", str(tmp_path / "socket"), "--certificate", str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            try:
                line = process.stdout.readline()
                scheme, _, rest = json.loads(line)["address"].partition(":")
                yield scheme, rest
                assert process.poll() is None
            finally:
                process.kill()

    return start


def connect(scheme, rest, authority):
    if scheme == "unix":
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(TIMEOUT)
        client.connect(rest)
        return client
    host, _, port = rest.rpartition(":")
    if scheme == "udp":
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(TIMEOUT)
        client.connect((host, int(port)))
        return client
    client = socket.create_connection((host, int(port)), timeout=TIMEOUT)
    if scheme == "tls":
        context = ssl.create_default_context()
        authority.configure_trust(context)
        client = context.wrap_socket(client, server_hostname="localhost")
        assert client.version() == "TLSv1.3"
    return client


def receive(client, size):
    received = b""
    while len(received) < size and (data := client.recv(65536)):
        received += data
    return received


@pytest.mark.parametrize("kind", ECHO_KINDS)
def test_echo(serve, authority, kind):
    with serve(kind) as (scheme, rest):
        assert scheme == SERVERS[kind].scheme
        for _ in range(2):
            with connect(scheme, rest, authority) as client:
                for _ in range(3):
                    client.sendall(MESSAGE)
                    assert receive(client, len(MESSAGE)) == MESSAGE


@pytest.mark.parametrize("kind", ["protocol", "unix", "streams", "hl-streams", "sock"])
def test_a_client_that_has_ended_gets_the_end_of_the_stream(serve, authority, kind):
    with serve(kind) as address, connect(*address, authority) as client:
        client.sendall(MESSAGE)
        assert receive(client, len(MESSAGE)) == MESSAGE
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


@pytest.mark.parametrize("kind", HTTP_KINDS)
def test_http(serve, authority, kind):
    with serve(kind) as address, connect(*address, authority) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        response = receive(client, 1 << 20)
        assert response.startswith(b"HTTP/1.1 200")
        assert response.endswith(b"Hello, world!")
