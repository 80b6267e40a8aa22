"""Runs the application."""

from __future__ import annotations

from typing import Any

import uvicorn

from api.app import create_app
from core import logging
from core.settings import Settings


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; running requests get 10 s to end.

    Raises SystemExit(1) when the port cannot be bound.
    """
    logging.configure("api")
    uvicorn.Server(configured(create_app(settings), host, port)).run()


def configured(app: Any, host: str, port: int) -> uvicorn.Config:
    """How the application is served.

    What uvicorn itself refuses never reaches the application, so it is no problem document: a request line or header
    that is no HTTP is answered 400 in plain text. It has no bound for headers; the reverse proxy in front has.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        # Our own rule (api/proxies.py): uvicorn would believe whoever calls from this machine.
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=10,
        # A polling page keeps its connection between two polls.
        timeout_keep_alive=15,
    )
