"""`python -m sandbox.guards`: the guards of many simulated hosts in one process, as one process serves many simulators.

A guard of its own takes some 50 MB and half a second of a processor to start; a cluster of a hundred hosts on one machine
cannot have that. Each guard here is the real one, with its own node, key, listener and leases. SANDBOX_GUARDS names them
as JSON, `[{"listen": "127.0.0.1:3128", "node_id": "...", "key": "..."}]`; all else is `wahafleet egress`'s own settings.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Final

import msgspec
import uvloop

from core.clients.guard_api import GuardApiClient
from core.clock import boottime
from core.logging import configure
from core.settings import load
from core.settings_guard import GuardSettings
from core.settings_reader import Secret, SettingsError
from egress.main import check_files, serve

VARIABLE: Final = "SANDBOX_GUARDS"


class HostGuard(msgspec.Struct, frozen=True):
    """One host's. `listen`: host:port. `key`: of its node, as hexadecimal digits."""

    listen: str
    node_id: str
    key: str

    def __repr__(self) -> str:
        return f"HostGuard({self.listen!r}, {self.node_id!r})"


async def _run(settings: GuardSettings, guards: list[HostGuard]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def one(guard: HostGuard) -> None:
        own = msgspec.structs.replace(
            settings, listen=guard.listen, node_id=guard.node_id, key=Secret(guard.key), status_listen=""
        )
        async with GuardApiClient(own.api_url, own.node_id, bytes.fromhex(guard.key)) as api:
            await serve(own, api, boottime(), stop)

    async with asyncio.TaskGroup() as group:
        for guard in guards:
            group.create_task(one(guard), name=guard.node_id)


def main() -> int:
    guards = msgspec.json.decode(os.environ[VARIABLE], type=list[HostGuard])
    first = {"WAHAFLEET_GUARD_NODE_ID": guards[0].node_id, "WAHAFLEET_GUARD_KEY": guards[0].key}
    try:
        settings = load({**os.environ, **first}, part="egress").guard
        configure("egress")
        check_files(settings.tunnels)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, guards))
    except (SettingsError, ExceptionGroup) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
