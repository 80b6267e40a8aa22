"""The same calls as a fleet's, sent by a script that does nothing else: what the daemon is held against.

It sends them through the same clients, so that what is compared is the loop: leases, status writes, decisions,
the order of work and its waits.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from typing import Any, Final

from bench.sides import Bare
from core import crypto
from core.clients.discovery import ConsulDiscovery
from core.clients.scheduler import NomadScheduler
from core.clients.waha import WahaClients
from core.domain import names
from core.domain.facts import AllocationFact, ClientStatus
from core.jobs import wanted_job
from core.settings import load
from core.store.interface import ContainerSecrets

WORKERS: Final = 16
_LOOKS: Final = "nomad GET /v1/job/:id/allocations"
_SESSIONS: Final = "waha GET /api/sessions"
_POLL_S: Final = 0.02


async def plain(env: dict[str, str], count: int, calls: Counter[str]) -> tuple[float, dict[str, int]]:
    """Seconds that it takes, and how many looks more (or, below zero, fewer) than the daemon it made."""
    settings = load(env, part="daemon")
    scheduler, discovery = NomadScheduler(settings.nomad), ConsulDiscovery(settings.consul)
    gate = asyncio.Semaphore(WORKERS)
    made: Counter[str] = Counter()

    async def one(bare: Bare, waha: WahaClients, number: int) -> None:
        secrets = ContainerSecrets(crypto.new_api_key(), crypto.new_hook_key())
        row = bare._row(secrets)
        job = names.job_id(row.user_id)
        wanted = wanted_job(bare._template, row, settings.job)

        async def look() -> AllocationFact | None:
            """What a pass reads of a user, side by side; its newest allocation once that runs."""
            made[_LOOKS] += 1
            seen: tuple[Any, ...] = await asyncio.gather(
                scheduler.job(job),
                scheduler.allocations(job),
                discovery.instances(row.user_id),
                return_exceptions=True,
            )
            running = [a for a in seen[1] if a.client is ClientStatus.RUNNING]
            return running[-1] if running else None

        async with gate:
            await look()
            await scheduler.write_variables(names.variable_path(row.user_id), wanted.variables)
            await scheduler.register(wanted.job, 0, wanted.submission)
            looks, found = 1, None
        while found is None or looks < _share(calls[_LOOKS], number, count):
            async with gate:
                found = await look()
                looks += 1
            if found is None:
                await asyncio.sleep(_POLL_S)  # nobody waits at a worker for Nomad
        async with gate:
            assert found.address is not None
            assert found.port is not None
            own = waha.at(found.address, found.port, secrets.api_key)
            await own.create_session(names.session_name(str(uuid.uuid4())), {}, start=True)
            for _ in range(_share(calls[_SESSIONS], number, count)):
                await own.sessions()

    async with Bare(settings) as bare, WahaClients() as waha:
        began = time.perf_counter()
        await asyncio.gather(*(one(bare, waha, number) for number in range(count)))
        took_s = time.perf_counter() - began
    await scheduler.aclose()
    await discovery.close()
    return took_s, {_LOOKS: made[_LOOKS] - calls[_LOOKS]}


def _share(calls: int, number: int, count: int) -> int:
    """How many of all `calls` fall to one of `count` users."""
    return calls * (number + 1) // count - calls * number // count
