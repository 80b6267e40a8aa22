"""The guard: everything wired together, and its orderly end."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, Protocol

import structlog
import uvloop

from core import heap
from core.clients.guard_api import GuardApiClient
from core.clock import Boottime, boottime
from core.logging import configure
from core.provider_templates import templates
from core.settings import Settings, SettingsError
from core.settings_guard import GuardSettings
from core.status_server import bind, listening
from egress.destinations import Destinations
from egress.health import Health
from egress.leases import LeaseApi, Leases, Times
from egress.listener import KNOCKING, Listener, Rules
from egress.meter import Meter, UsageApi
from egress.watchdog import Watchdog

# Of what the process itself has open: logs, the loop, the API, the status server.
_OWN_FILES: Final = 64
_log = structlog.get_logger(__name__)


class Api(LeaseApi, UsageApi, Protocol):
    """What the guard asks the API."""


class Guard(NamedTuple):
    """A running guard. `address`: where chips knock."""

    address: tuple[str, int]
    status_url: str | None
    listener: Listener
    leases: Leases
    meter: Meter
    health: Health


def run(settings: Settings) -> None:
    """Run the guard until SIGTERM or SIGINT. Raises SettingsError when it could not do its work with these settings."""
    configure("egress")
    check_files(settings.guard.tunnels)
    watchdog = Watchdog()
    watchdog.start(boottime())

    async def until_told() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        guard = settings.guard
        async with GuardApiClient(guard.api_url, guard.node_id, bytes.fromhex(guard.key.reveal())) as api:
            await serve(guard, api, boottime(), stop, watchdog.tell)

    heap.settle()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_told())


async def serve(
    settings: GuardSettings,
    api: Api,
    clock: Boottime,
    stop: asyncio.Event,
    first_end: Callable[[float], None] | None = None,
) -> None:
    """Run the guard until `stop` is set; then close its tunnels, give its leases back and tell what was used.

    `first_end`: told the boot time at which the first of its leases ends, each time that changes.
    """
    async with running(settings, api, clock, first_end) as (guard, work):
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            # The others can only end by a bug; then the process ends too, and is started again.
            done, _ = await asyncio.wait({stopping, *work}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            guard.health.stopping = True
            stopping.cancel()


@asynccontextmanager
async def running(
    settings: GuardSettings,
    api: Api,
    clock: Boottime,
    first_end: Callable[[float], None] | None = None,
) -> AsyncIterator[tuple[Guard, list[asyncio.Task[None]]]]:
    """A guard that takes tunnels while the block runs, and the tasks that do its work."""
    times = Times(settings.ttl_s, settings.renew_s, settings.margin_s)
    leases = Leases(api, times, settings.node_id, clock, first_end)
    meter = Meter(settings.node_id)
    rules = Rules(
        key=bytes.fromhex(settings.key.reveal()),
        destinations=Destinations(settings.destinations, settings.ports),
        templates=templates(),
        most=settings.tunnels,
        head_s=settings.head_s,
        connect_s=settings.connect_s,
        idle_s=settings.idle_s,
        life_s=settings.life_s,
        direct=settings.direct,
    )
    sock = bind(settings.listen, "WAHAFLEET_GUARD_LISTEN")
    listener = Listener(sock, rules, leases, meter, clock)
    health = Health(listener, leases, meter, times, clock)
    try:
        status = listening(health, settings.status_listen, setting="WAHAFLEET_GUARD_STATUS_LISTEN")
        async with status as status_url:
            listener.start()
            address = sock.getsockname()[:2]
            work = [
                asyncio.create_task(leases.run(), name="leases"),
                asyncio.create_task(listener.sweep(), name="sweep"),
                asyncio.create_task(_flushing(meter, api, times.renew_s), name="usage"),
            ]
            _log.info("guard_started", address=f"{address[0]}:{address[1]}", node_id=settings.node_id)
            try:
                yield Guard(address, status_url, listener, leases, meter, health), work
            finally:
                _log.info("guard_stopping", tunnels=len(listener.tunnels))
                await listener.stop()
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)
                await leases.stop()
                # Twice: what came while the batch before could not be told is the next one.
                _ = await meter.flush(api) and await meter.flush(api)
                _log.info("guard_stopped")
    finally:
        sock.close()


async def _flushing(meter: Meter, api: UsageApi, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await meter.flush(api)


def files_needed(tunnels: int) -> int:
    """Open files of a guard that carries so many."""
    return 2 * tunnels + 2 * KNOCKING + _OWN_FILES


def check_files(tunnels: int) -> None:
    """Raise the soft limit of open files to what so many tunnels need. Raises SettingsError when it may not be."""
    needed = files_needed(tunnels)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise SettingsError(
                [
                    f"WAHAFLEET_GUARD_TUNNELS: {tunnels} tunnels need {needed} open files and this process may have "
                    f"{hard}; raise its limit (ulimit -n, LimitNOFILE) or carry fewer tunnels."
                ]
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
