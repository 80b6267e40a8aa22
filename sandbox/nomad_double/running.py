"""Running a double: on a free port inside this process, or until the process is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Generator, Mapping
from pathlib import Path

import msgspec
import uvicorn

from sandbox.nomad_double.api.app import NomadApp
from sandbox.nomad_double.clock import Clock, SystemClock
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.drivers import TaskDriver
from sandbox.nomad_double.registrar import HttpServiceRegistrar, ServiceRegistrar
from sandbox.nomad_double.settings import DoubleSettings


class RunningDouble(msgspec.Struct, frozen=True):
    """A double that answers at `url`; `double` is its inside (state, log of writes)."""

    url: str
    double: NomadDouble


class _QuietServer(uvicorn.Server):
    """A uvicorn server that leaves signals to whoever owns the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextlib.asynccontextmanager
async def running_nomad_double(
    settings: DoubleSettings | None = None,
    *,
    data_dir: Path | None = None,
    port: int = 0,
    bind: str = "127.0.0.1",
    drivers: Mapping[str, TaskDriver] | None = None,
    consul_url: str | None = None,
    consul_token: str = "",
    registrar: ServiceRegistrar | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[RunningDouble]:
    """Serve a double over HTTP while the block runs; afterwards none of its tasks is left.

    Args:
        settings: defaults to one host, 127.0.0.1, ports 3100-3199.
        data_dir: state and logs; a temporary folder when None.
        port: 0 takes a free one.
        drivers: task drivers by name; real processes for `raw_exec` when None.
        consul_url: base URL of the Consul agent that services are registered at.
        registrar: instead of `consul_url`, any other registrar.

    Raises:
        ValueError: settings that cannot work.
        OSError: the port is taken.
    """
    settings = settings or DoubleSettings()
    clock = clock or SystemClock()
    if registrar is None and consul_url is not None:
        registrar = HttpServiceRegistrar(consul_url, clock, settings.delays, consul_token)
    with contextlib.ExitStack() as stack:
        if data_dir is None:
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nomad-double-")))
        listener = stack.enter_context(_listen(bind, port))
        double = NomadDouble(settings, data_dir, drivers=drivers, registrar=registrar, clock=clock)
        await double.start()
        try:
            server = _QuietServer(
                uvicorn.Config(
                    NomadApp(double),
                    lifespan="off",
                    log_config=None,
                    log_level="warning",
                    access_log=False,
                    ws="none",
                    timeout_keep_alive=75,
                    timeout_graceful_shutdown=2,
                    server_header=False,
                )
            )
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                host, bound = listener.getsockname()[:2]
                yield RunningDouble(f"http://{host}:{bound}", double)
            finally:
                # Streams and blocking queries end first, or the server would wait for them.
                double.broker.close_all("")
                server.should_exit = True
                await serving
        finally:
            await double.stop()


def _listen(bind: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((bind, port))
    except OSError:
        listener.close()
        raise
    listener.listen(512)
    listener.setblocking(False)
    return listener
