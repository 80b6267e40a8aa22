"""The same calls as a fleet's, sent by a script that does nothing else: what the daemon is held against.

It sends them through the same clients, so that what is compared is the loop: leases, status writes, decisions and
waits. When a call is made decides what it costs, for Consul's list grows with each container: so it goes through the
users in the daemon's order, or in a line, where all are begun before the first is finished. A container is spoken to
once Nomad and Consul agree on where it answers, by the daemon's own rule: what the doubles have to do until then is
part of what the calls take. Watches run beside it as they do in the daemon: each answer of Consul's holds the whole
fleet.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from bench.sides import Bare
from core import crypto, heap
from core.clients.discovery import ConsulDiscovery
from core.clients.scheduler import NomadScheduler
from core.clients.waha import WahaClients
from core.domain import names
from core.domain.endpoints import endpoint_of
from core.domain.facts import Endpoint, ServiceInstance
from core.errors import DependencyError
from core.jobs import wanted_job
from core.settings import load
from core.store.interface import ContainerSecrets
from daemon.ended import ended

T = TypeVar("T")

WORKERS: Final = 16
_LOOKS: Final = "nomad GET /v1/job/:id/allocations"
_EVALUATIONS: Final = "nomad GET /v1/job/:id/evaluations"
_VARIABLES: Final = "nomad PUT /v1/var/nomad/jobs/:id"
_SESSIONS: Final = "waha GET /api/sessions"
_POLL_S: Final = 0.02
_AGAIN_S: Final = 0.2


async def plain(
    env: dict[str, str],
    count: int,
    calls: Counter[str],
    counts: Callable[[], dict[str, int]],
    *,
    begun_first: bool,
) -> tuple[float, dict[str, int]]:
    """Seconds that it takes, and how many calls more (or, below zero, fewer) than the daemon it made, by kind.

    `calls`: the daemon's by kind. `counts`: the doubles' own count since the last time it was asked for.
    `begun_first`: whether users who have begun go before those who have not.
    """
    settings = load(env, part="daemon")
    scheduler, discovery = NomadScheduler(settings.nomad), ConsulDiscovery(settings.consul)
    gate = _Gate(WORKERS, begun_first=begun_first)
    lists: dict[str, Callable[[], Awaitable[object]]] = {
        "nomad GET /v1/jobs": scheduler.jobs,
        "nomad GET /v1/allocations": scheduler.all_allocations,
        "nomad GET /v1/vars": scheduler.variable_paths,
        "consul GET /v1/health/service/waha-plus": discovery.instances,
    }

    passing: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def note(instances: tuple[ServiceInstance, ...]) -> None:
        for instance in instances:
            if instance.passing:
                passing[instance.user_id].set()

    async def one(bare: Bare, waha: WahaClients, number: int) -> None:
        secrets = ContainerSecrets(crypto.new_api_key(), crypto.new_hook_key())
        row = bare._row(secrets)
        job = names.job_id(row.user_id)
        wanted = wanted_job(bare._template, row, settings.job)

        async def look() -> Endpoint | None:
            """What a pass reads of a user, side by side; where its container answers once Nomad and Consul agree."""
            seen: tuple[Any, ...] = await asyncio.gather(
                scheduler.job(job),
                scheduler.allocations(job),
                discovery.instances(row.user_id),
                return_exceptions=True,
            )
            return endpoint_of(seen[1], seen[2])

        async with gate.turn(begun=False):
            for kind, read in lists.items():
                for _ in range(_share(calls[kind], number, count)):
                    await read()
            await look()
            for _ in range(_share(calls[_VARIABLES], number, count)):
                await scheduler.write_variables(names.variable_path(row.user_id), wanted.variables)
            await scheduler.register(wanted.job, 0, wanted.submission)
            looks, found = 1, None
        share = _share(calls[_LOOKS], number, count)
        while found is None or looks < share:
            if looks >= share - 1:
                await passing[row.user_id].wait()  # the last look is for this; nobody waits at a worker
            async with gate.turn(begun=True):
                found = await look()
                looks += 1
            if found is None:
                await asyncio.sleep(_POLL_S)
        async with gate.turn(begun=True):
            for _ in range(_share(calls[_EVALUATIONS], number, count)):
                await scheduler.newest_placement(job)
            own = waha.at(found.address, found.port, secrets.api_key)
            await own.create_session(names.session_name(str(uuid.uuid4())), {}, start=True)
            for _ in range(_share(calls[_SESSIONS], number, count)):
                await own.sessions()

    async with Bare(settings) as bare, WahaClients() as waha:
        heap.settle()  # as the daemon does
        counts()
        watching = [
            asyncio.create_task(_heard(scheduler.watch, lambda _: None)),
            asyncio.create_task(_heard(discovery.watch, note)),
        ]
        began = time.perf_counter()
        await asyncio.gather(*(one(bare, waha, number) for number in range(count)))
        took_s = time.perf_counter() - began
        made = Counter(counts())
        for task in watching:
            await ended(task)
    await scheduler.aclose()
    await discovery.close()
    return took_s, {kind: n for kind in sorted(calls | made) if (n := made[kind] - calls[kind])}


class _Gate:
    """As many at a time as the daemon has workers."""

    def __init__(self, places: int, *, begun_first: bool) -> None:
        self._free = places
        self._first: deque[asyncio.Future[None]] = deque()
        self._then: deque[asyncio.Future[None]] = deque() if begun_first else self._first

    @asynccontextmanager
    async def turn(self, *, begun: bool) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (self._first if begun else self._then).append(place)
            await place
        try:
            yield
        finally:
            if line := self._first or self._then:
                line.popleft().set_result(None)  # the place goes from hand to hand
            else:
                self._free += 1


async def _heard(watch: Callable[[], AsyncIterator[T]], note: Callable[[T], None]) -> None:
    while True:
        try:
            async for news in watch():
                note(news)
        except DependencyError:
            # Nomad ends the stream of who is behind by more than its buffer holds; the daemon comes back, too.
            await asyncio.sleep(_AGAIN_S)


def _share(calls: int, number: int, count: int) -> int:
    """How many of all `calls` fall to one of `count` users."""
    return calls * (number + 1) // count - calls * number // count
