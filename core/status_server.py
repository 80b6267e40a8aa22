"""A small HTTP server inside a part that has none: for supervisors and operators, never for the outside."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Final

import msgspec
import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from core.settings_reader import SettingsError

_JSON: Final = "application/json"

# (status, content type, body)
Answer = tuple[int, str, bytes]
_log = structlog.get_logger(__name__)


class StatusPages:
    """An ASGI application of short answers that are only read; a part says what its pages are.

    `/metrics` gives the registry's figures as Prometheus text.
    """

    registry: CollectorRegistry
    # Named to whoever asks for something else, in words.
    paths: tuple[str, ...]

    def page(self, path: str) -> Answer:
        """One of `paths` but `/metrics`."""
        raise NotImplementedError

    def answer(self, method: str, path: str, accept: str) -> Answer:
        """The answer to one request."""
        if path not in self.paths:
            return json_answer(
                404, {"error": f"There is {', '.join(self.paths[:-1])} and {self.paths[-1]} here."}
            )
        if method not in ("GET", "HEAD"):
            return json_answer(405, {"error": f"{path} is only read: use GET."})
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return 200, content_type, encode(self.registry)
        return self.page(path)

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        accept = headers.get(b"accept", b"").decode("latin-1")
        status, content_type, body = self.answer(scope["method"], scope["path"], accept)
        fields = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def json_answer(status: int, body: object) -> Answer:
    return status, _JSON, msgspec.json.encode(body) + b"\n"


def readiness(problems: list[str]) -> Answer:
    """200 without problems, else 503 with them."""
    word = "not ready" if problems else "ready"
    return json_answer(503 if problems else 200, {"status": word, "problems": problems})


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
