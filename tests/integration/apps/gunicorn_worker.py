"""A worker class for gunicorn whose uvicorn runs on the loop under test."""

from __future__ import annotations

import os

from uvicorn_worker import UvicornWorker


class Worker(UvicornWorker):
    CONFIG_KWARGS = {"loop": f"{os.environ['HYBRIDLOOP_TEST_LOOP']}:new_event_loop"}
