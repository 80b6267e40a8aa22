"""The application behind a real server on loopback, in a thread: for clients that are not ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
from litestar import Litestar

from api.app import create_app
from core.settings import load
from tests.integration.api.conftest import CHEAP, environment

_START_S = 20.0


@contextmanager
def serving(app: Litestar | Any) -> Iterator[str]:
    """Base URL of an ASGI application, with its lifespan, until the block ends."""
    config = uvicorn.Config(
        cast(Any, app),
        host="127.0.0.1",
        port=0,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on" if isinstance(app, Litestar) else "off",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="served", daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_S
    try:
        while not server.started:
            assert thread.is_alive(), "the server ended while it started"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive(), "the server did not end"


@contextmanager
def api_served(database_url: str, redis_url: str | None, **more: str) -> Iterator[str]:
    """Base URL of our API on these stores."""
    with serving(create_app(load(environment(database_url, redis_url, **more)), hasher=CHEAP)) as base_url:
        yield base_url
