"""Runs the application."""

from __future__ import annotations

import uvicorn

from api.app import create_app
from core import logging
from core.settings import Settings


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; running requests get 10 s to end.

    Raises SystemExit(1) when the port cannot be bound.
    """
    logging.configure("api")
    config = uvicorn.Config(
        create_app(settings),
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
    uvicorn.Server(config).run()
