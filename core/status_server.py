"""A small HTTP server inside a part that has none: for supervisors and operators, never for the outside."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import structlog
import uvicorn

from core.settings_reader import SettingsError

_log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Leaves signals to the part that it belongs to."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextlib.asynccontextmanager
async def listening(app: Callable[..., Any], listen: str, *, setting: str) -> AsyncIterator[str | None]:
    """Serve `app` on `listen` ("host:port", port 0 takes a free one; "" = not at all) while the block runs.

    `setting`: where the address came from. Gives the address that it got. Raises SettingsError when it cannot listen
    there.
    """
    if not listen:
        yield None
        return
    bound = bind(listen, setting)
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            ws="none",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    host, port = bound.getsockname()[:2]
    serving = asyncio.create_task(server.serve(sockets=[bound]), name="health")
    _log.info("health_listening", address=f"{host}:{port}")
    try:
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await serving
        bound.close()


def bind(listen: str, setting: str) -> socket.socket:
    """A bound TCP socket. Raises SettingsError, naming `setting`, when it cannot be had."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, int(port)))
    except OSError as error:
        bound.close()
        raise SettingsError(
            [f"{setting}: cannot listen on {listen} ({error.strerror}); name another host:port."]
        ) from error
    return bound
