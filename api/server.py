"""Runs the application."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from litestar import Litestar

from api.app import create_app
from core import heap, logging
from core.settings import Settings


class ApiServer(uvicorn.Server):
    """Ends streams with the process: they last for minutes, and each would hold up the end for as long as requests get."""

    def __init__(self, config: uvicorn.Config, app: Litestar) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        heap.settle()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.services.streams.end_all()
        await super().shutdown(sockets)


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
        # Nobody has to tell us anything over a socket.
        ws_max_size=4096,
        ws_per_message_deflate=False,
    )


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; running requests get 10 s to end.

    Raises SystemExit(1) when the port cannot be bound.
    """
    logging.configure("api")
    app = create_app(settings)
    ApiServer(configured(app, host, port), app).run()
