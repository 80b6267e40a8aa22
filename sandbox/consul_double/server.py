"""Serving the double: inside a test, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator

import msgspec
import uvicorn

from core.clock import Clock
from sandbox.consul_double.double import ConsulDouble, Knobs
from sandbox.consul_double.poller import Look
from sandbox.consul_double.routes import Surface


class RunningDouble(msgspec.Struct, frozen=True):
    """A double that answers at `url`; `double` is its inside, for tests that make trouble."""

    url: str
    port: int
    double: ConsulDouble


class _Server(uvicorn.Server):
    """A server whose process keeps its own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextlib.asynccontextmanager
async def running_consul_double(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Clock | None = None,
    knobs: Knobs | None = None,
    look: Look | None = None,
) -> AsyncIterator[RunningDouble]:
    """Serve a double on `port` (0: a free one) until the block ends. Raises OSError when the port is busy.

    `look`: how checks are looked at, by requests and connections when left out.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle off only where it is: else each reply on a kept
    # connection waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.closing(listener):
        listener.bind((host, port))
        port = listener.getsockname()[1]
        double = ConsulDouble(clock=clock, knobs=knobs, look=look)
        surface = Surface(double, f"{host}:{port}")
        config = uvicorn.Config(
            surface.app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            loop="none",
            # Go's server keeps quiet connections open; long polls are quiet for minutes.
            timeout_keep_alive=120,
            timeout_graceful_shutdown=5,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        ticking = asyncio.create_task(double.run())
        try:
            while not server.started:
                if serving.done():
                    await serving
                    raise RuntimeError("the Consul double did not start")
                await asyncio.sleep(0.005)
            yield RunningDouble(f"http://{host}:{port}", port, double)
        finally:
            surface.changes.close()
            server.should_exit = True
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            await serving
            await double.close()
