"""uvicorn as its users start it: `python -m uvicorn app:app --loop <loop>:new_event_loop`."""

from __future__ import annotations

import inspect
import json
import ssl
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import uvicorn

from .http import RawConnection, Response, get
from .loops import LOOP_FACTORY_PATH, wait_until
from .processes import ServerProcess

# A busy machine may keep connections idle, and workers from their answers.
PATIENT = ["--timeout-keep-alive", "300"]
if "timeout_worker_healthcheck" in inspect.signature(uvicorn.Config).parameters:
    PATIENT += ["--timeout-worker-healthcheck", "60"]


class UvicornProcess(ServerProcess):
    def __init__(
        self,
        app: str = "asgi_app:app",
        options: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls
        address = ["--host", "127.0.0.1", "--port", "0"]
        arguments = ["-m", "uvicorn", app, "--loop", LOOP_FACTORY_PATH, *address, *options]
        super().__init__([*arguments, *PATIENT, "--no-access-log", "--no-use-colors"])
        self.port = self.wait_for_port(r"Uvicorn running on https?://[\d.]+:(\d+)")

    def __enter__(self) -> UvicornProcess:
        return self

    def connect(self) -> RawConnection:
        return RawConnection(self.port, self.tls)

    def request(self, data: bytes) -> Response:
        with self.connect() as connection:
            return connection.request(data)

    def get_json(self, path: str) -> Any:
        return json.loads(self.request(get(path, close=True)).body)

    def events(self, token: str) -> list[str]:
        """What the application has recorded under `token`."""
        recorded: list[str] = self.get_json(f"/events/{token}")
        return recorded

    def wait_for_event(self, token: str, event: str) -> None:
        wait_until(lambda: event in self.events(token), what=f"event {event!r} of {token}")


def new_token() -> str:
    return uuid4().hex
