"""The example of an ASGI application with heavy routes, under uvicorn."""

import gzip
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.support.http import get, post
from tests.integration.support.uvicorn import UvicornProcess

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server():
    with UvicornProcess("examples.kernels.asgi_app:app", ["--app-dir", str(ROOT)]) as server:
        yield server


def test_compress(server):
    data = b"The same words, again and again. " * 50_000
    with server.connect() as connection:
        for level in (1, 9):
            response = connection.request(post(f"/compress?level={level}", data))
            assert response.status == 200
            assert response.headers["content-type"] == "application/gzip"
            assert len(response.body) < len(data) // 50
            assert gzip.decompress(response.body) == data


def test_hash_and_verify(server):
    with server.connect() as connection:
        hashed = connection.request(post("/hash?memory=1024", b"secret")).body.decode()
        assert hashed.startswith("$argon2id$v=19$m=1024,t=2,p=1$")
        again = connection.request(post("/hash?memory=1024", b"secret")).body.decode()
        assert again != hashed, "each has a salt of its own"
        for password, answer in ((b"secret", b"right"), (b"Secret", b"wrong")):
            path = f"/verify?hash={quote(hashed)}"
            assert connection.request(post(path, password)).body == answer


@pytest.mark.parametrize(
    "path", ["/compress?level=10", "/hash?passes=many", "/hash?memory=0", "/verify?hash=nonsense"]
)
def test_bad_requests(server, path):
    response = server.request(post(path, b"x"))
    assert response.status == 400
    assert response.body.strip()


def test_light_requests_are_answered_while_heavy_ones_run(server):
    # A loop that hashes itself answers one before and one between, at most a few. On a busy machine
    # others may have the processor for all of the time.
    assert any(answered_beside_heavy_ones(server) >= 10 for _ in range(5))


def answered_beside_heavy_ones(server):
    heavy = []

    def hash_for_long():
        heavy.append(server.request(post("/hash?memory=40960&passes=16", b"secret")))

    threads = [threading.Thread(target=hash_for_long) for _ in range(2)]
    for thread in threads:
        thread.start()
    answered = 0
    with server.connect() as connection:
        while any(thread.is_alive() for thread in threads):
            assert connection.request(get("/")).body == b"Hello, world!"
            answered += 1
    for thread in threads:
        thread.join()
    assert [response.status for response in heavy] == [200, 200]
    return answered
