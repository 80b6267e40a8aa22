"""What the store's contract needs besides the store itself: the wishes of users, and eyes.

Every implementation of `ReconcileStore` brings one of these; the tests speak to nothing else.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

import msgspec
from cryptography.fernet import Fernet
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import Clock
from core.crypto import Sealer
from core.domain.actor import COMMAND_LINE
from core.domain.evidence import Evidence
from core.domain.host_use import HostUse
from core.domain.looks import Look, restored
from core.store import chips_admin, fleet_control, intents
from core.store.containers import ensure_container, next_generation
from core.store.containers_admin import restart_container
from core.store.engine import reading, transaction
from core.store.guard_leases import GuardLeases, PostgresGuardLeases
from core.store.housekeeping import Housekeeping as Housekeeper
from core.store.housekeeping import PostgresHousekeeping
from core.store.interface import Lease, ReconcileStore
from core.store.look_ins import LookIns, PostgresLookIns
from core.store.month_usage import this_month
from core.store.notify import Item, Listener, News, notify_each
from core.store.reconcile import PostgresReconcileStore
from core.store.tables import (
    chip_events,
    chips,
    container_logs,
    container_stats,
    containers,
    evidence,
    exits,
    guard_grants,
    hosts,
    labels,
    leases,
    looks,
    placements,
    plans,
    port_ledger,
    providers,
    proxy_usage,
    start_buckets,
    start_queue,
    sub_users,
    users,
    viewers,
)

Heard: TypeAlias = Callable[[], Awaitable[list[str]]]


class Event(msgspec.Struct, frozen=True):
    id: int
    type: str
    code: str
    description: str
    generation: int
    extra_data: dict[str, Any]


class Placement(msgspec.Struct, frozen=True):
    allocation_id: str
    epoch: int
    is_current: bool
    lease_until: datetime | None = None
    grant_number: int = 0


class Entry(msgspec.Struct, frozen=True):
    user_id: str
    allocation_id: str
    address: str
    port: int
    is_open: bool


class Exit(msgspec.Struct, frozen=True):
    """A line of a chip's history of exits, without its times."""

    provider: str
    label: str
    label_generation: int
    exit_ip: str
    why: str


class Kept(msgspec.Struct, frozen=True):
    """Evidence as it is kept, and when it last changed."""

    evidence: Evidence
    observed_at: datetime


class Watching(Protocol):
    watches_since: datetime | None


def watched(guards: Iterable[Watching], longer: timedelta) -> None:
    """Have them watched the clock for so much longer."""
    for one in guards:
        one.watches_since = one.watches_since and one.watches_since - longer


class Harness(Protocol):
    """Wishes are accepted as the API accepts them; columns are read as they stand."""

    store: ReconcileStore
    housekeeping: Housekeeper
    look_ins: LookIns

    def guards(self, ttl_s: float, clock: Clock | None = None) -> GuardLeases: ...
    async def restart_server(self) -> None: ...
    async def age(self, seconds: float) -> None: ...
    async def user(self, plan: str = "enterprise") -> str: ...
    async def container(self, user_id: str, *, pinned: bool = False) -> None: ...
    async def chip(self, user_id: str, alias: str = "") -> str: ...
    async def wish(self, chip_id: str, wanted: str) -> int: ...
    async def reconnect(self, chip_id: str, *, fresh: bool = False) -> None: ...
    async def disconnect(self, chip_id: str) -> None: ...
    async def ban(self, chip_id: str, *, banned: bool = True) -> bool: ...
    async def release(self, chip_id: str) -> bool: ...
    async def restart(self, user_id: str) -> int | None: ...
    async def pause_fleet(self, *, paused: bool = True) -> bool: ...
    async def provider(self, slug: str, *, is_default: bool = True, template: str = "generic") -> None: ...
    async def sub_user(self, provider: str, login: str, *, max_labels: int = 1000) -> str: ...
    async def change_provider(self, slug: str, **columns: Any) -> None: ...
    async def change_sub_user(self, id_: str, **columns: Any) -> None: ...
    async def remove_sub_user(self, id_: str) -> None: ...
    async def uses(self, user_id: str, bytes_in: int) -> None: ...
    async def limit_traffic(self, user_id: str, gb: Decimal) -> None: ...
    async def request_label(self, chip_id: str) -> None: ...
    async def exits(self, chip_id: str) -> list[Exit]: ...
    async def seen_until(self, chip_id: str) -> list[datetime]: ...
    def listening(self, channel: str) -> AbstractAsyncContextManager[Heard]: ...
    async def expire(self, lease: Lease) -> None: ...
    async def now(self) -> datetime: ...
    async def chip_columns(self, chip_id: str) -> dict[str, Any] | None: ...
    async def container_columns(self, user_id: str) -> dict[str, Any] | None: ...
    async def events(self, chip_id: str) -> list[Event]: ...
    async def placements(self, user_id: str) -> list[Placement]: ...
    async def ledger(self) -> list[Entry]: ...
    async def kept(self, user_id: str) -> Kept | None: ...
    async def look(self, user_id: str) -> Look | None: ...
    async def hosts(self) -> list[HostUse]: ...


class PostgresHarness:
    """The contract on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.sealer = Sealer((Fernet.generate_key().decode(),))
        self.store: ReconcileStore = PostgresReconcileStore(
            engine, self.sealer, label_secret=b"the secret of labels in memory"
        )
        self.housekeeping: Housekeeper = PostgresHousekeeping(engine)
        self.look_ins: LookIns = PostgresLookIns(engine)
        self._guards: list[PostgresGuardLeases] = []

    def guards(self, ttl_s: float, clock: Clock | None = None) -> GuardLeases:
        made = PostgresGuardLeases(self.engine, ttl_s=ttl_s, clock=clock)
        self._guards.append(made)
        return made

    async def restart_server(self) -> None:
        """What the store would see after a restart, a failover or a restore."""
        async with transaction(self.engine) as connection:
            earlier = guard_grants.c.server_started_at - func.make_interval(0, 0, 0, 0, 0, 0, 5)
            await connection.execute(update(guard_grants).values(server_started_at=earlier))

    async def age(self, seconds: float) -> None:
        """Everything stored is that much older, and so is whoever watches the clock."""
        watched(self._guards, timedelta(seconds=seconds))
        step = func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        async with transaction(self.engine) as connection:
            for column in (
                port_ledger.c.opened_at,
                port_ledger.c.closed_at,
                placements.c.created_at,
                placements.c.lease_until,
                chip_events.c.created_at,
                guard_grants.c.granted_after,
                viewers.c.until,
                container_stats.c.sampled_at,
                container_logs.c.read_at,
                start_buckets.c.refilled_at,
                start_queue.c.asked_at,
                start_queue.c.expires_at,
                providers.c.trouble_at,
                sub_users.c.trouble_at,
                labels.c.assigned_at,
                labels.c.released_at,
                labels.c.exit_since,
                labels.c.exit_at,
                labels.c.checked_at,
                labels.c.failing_since,
                exits.c.seen_from,
                exits.c.seen_until,
            ):
                await connection.execute(update(column.table).values({column.name: column - step}))

    async def user(self, plan: str = "enterprise") -> str:
        user_id = str(uuid.uuid4())
        async with transaction(self.engine) as connection:
            await connection.execute(
                insert(users).values(
                    id=user_id,
                    email=f"{user_id}@example.com",
                    name="Ana",
                    phone="+5511999999999",
                    plan_slug=plan,
                )
            )
        return user_id

    async def container(self, user_id: str, *, pinned: bool = False) -> None:
        async with transaction(self.engine) as connection:
            await ensure_container(connection, user_id, self.sealer, "main")
            if pinned:
                await connection.execute(
                    update(containers).where(containers.c.user_id == user_id).values(pinned=True)
                )

    async def chip(self, user_id: str, alias: str = "") -> str:
        chip_id = str(uuid.uuid4())
        async with transaction(self.engine) as connection:
            await ensure_container(connection, user_id, self.sealer, "main")
            generation = await next_generation(connection, user_id)
            await connection.execute(
                insert(chips).values(
                    id=chip_id, user_id=user_id, alias=alias or chip_id, generation=generation
                )
            )
        return chip_id

    async def wish(self, chip_id: str, wanted: str) -> int:
        async with transaction(self.engine) as connection:
            owner = select(chips.c.user_id).where(chips.c.id == chip_id)
            generation = await next_generation(
                connection, str((await connection.execute(owner)).scalar_one())
            )
            deleted = func.clock_timestamp() if wanted == "deleted" else None
            await connection.execute(
                update(chips)
                .where(chips.c.id == chip_id)
                .values(
                    wanted=wanted, generation=generation, deleted_at=deleted, revision=chips.c.revision + 1
                )
            )
        return generation

    async def reconnect(self, chip_id: str, *, fresh: bool = False) -> None:
        owner = await self._owner(chip_id)
        await intents.reconnect_chip(
            self.engine, self.sealer, "main", user_id=owner, chip_id=chip_id, fresh=fresh, actor=COMMAND_LINE
        )

    async def disconnect(self, chip_id: str) -> None:
        await intents.disconnect_chip(self.engine, await self._owner(chip_id), chip_id, actor=COMMAND_LINE)

    async def ban(self, chip_id: str, *, banned: bool = True) -> bool:
        return await chips_admin.ban_chip(self.engine, chip_id, banned=banned, by="ana", actor=COMMAND_LINE)

    async def release(self, chip_id: str) -> bool:
        return await chips_admin.release_chip(self.engine, chip_id, by="ana", actor=COMMAND_LINE)

    async def _owner(self, chip_id: str) -> str:
        async with reading(self.engine) as connection:
            owner = select(chips.c.user_id).where(chips.c.id == chip_id)
            return str((await connection.execute(owner)).scalar_one())

    async def restart(self, user_id: str) -> int | None:
        return await restart_container(self.engine, user_id, actor=COMMAND_LINE)

    async def pause_fleet(self, *, paused: bool = True) -> bool:
        _, changed = await fleet_control.set_paused(
            self.engine, paused=paused, reason=None, by="test", actor=COMMAND_LINE
        )
        return changed

    async def provider(self, slug: str, *, is_default: bool = True, template: str = "generic") -> None:
        columns = {"slug": slug, "title": slug, "template": template, "scheme": "socks5"}
        async with transaction(self.engine) as connection:
            await connection.execute(insert(providers).values(**columns, is_default=is_default))

    async def sub_user(self, provider: str, login: str, *, max_labels: int = 1000) -> str:
        id_ = str(uuid.uuid4())
        sealed = self.sealer.seal(f"secret of {login}")
        columns = {"id": id_, "provider_slug": provider, "login": login, "sealed_password": sealed}
        async with transaction(self.engine) as connection:
            await connection.execute(insert(sub_users).values(**columns, max_labels=max_labels))
        return id_

    async def change_provider(self, slug: str, **columns: Any) -> None:
        async with transaction(self.engine) as connection:
            await connection.execute(update(providers).where(providers.c.slug == slug).values(**columns))

    async def change_sub_user(self, id_: str, **columns: Any) -> None:
        async with transaction(self.engine) as connection:
            await connection.execute(update(sub_users).where(sub_users.c.id == id_).values(**columns))

    async def remove_sub_user(self, id_: str) -> None:
        async with transaction(self.engine) as connection:
            await connection.execute(delete(sub_users).where(sub_users.c.id == id_))

    async def uses(self, user_id: str, bytes_in: int) -> None:
        columns = {"user_id": user_id, "chip_id": str(uuid.uuid4()), "provider_slug": "local", "tunnels": 1}
        made = insert(proxy_usage).values(**columns, bytes_in=bytes_in, bytes_out=0, month=this_month())
        async with transaction(self.engine) as connection:
            await connection.execute(made)

    async def limit_traffic(self, user_id: str, gb: Decimal) -> None:
        """By a plan of the user's own: those that are seeded stay as they are."""
        slug, copied = user_id[:40], {"title": "Plano", "max_chips": 10}
        made = {"cpu_mhz": 200, "memory_mb": 300, "memory_max_mb": 2048}
        async with transaction(self.engine) as connection:
            await connection.execute(insert(plans).values(slug=slug, proxy_gb_limit=gb, **copied, **made))
            await connection.execute(update(users).where(users.c.id == user_id).values(plan_slug=slug))

    async def request_label(self, chip_id: str) -> None:
        async with transaction(self.engine) as connection:
            asked = {"requested_generation": labels.c.generation + 1}
            await connection.execute(update(labels).where(labels.c.chip_id == chip_id).values(asked))

    async def exits(self, chip_id: str) -> list[Exit]:
        query = select(exits).where(exits.c.chip_id == chip_id).order_by(exits.c.id)
        return [
            Exit(row.provider_slug, row.label, row.label_generation, row.exit_ip, row.why)
            for row in await self._all(query)
        ]

    async def seen_until(self, chip_id: str) -> list[datetime]:
        query = select(exits.c.seen_until).where(exits.c.chip_id == chip_id).order_by(exits.c.id)
        return [row.seen_until for row in await self._all(query)]

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[Heard]:
        """What is told on `channel`, as a function that gives whom since it was called last."""
        told: list[str] = []
        begun = asyncio.Event()

        def hear(item: Item) -> None:
            if isinstance(item, News):
                told.append(item.payload)
            else:
                begun.set()

        # Its end is behind everything that was told before.
        url = self.engine.url.render_as_string(hide_password=False)
        task = asyncio.create_task(Listener(url, [channel]).run(hear))

        async def heard() -> list[str]:
            await notify_each(self.engine, channel, ["the end"])
            async with asyncio.timeout(10):
                while "the end" not in told:  # noqa: ASYNC110 - a listener tells by its function alone
                    await asyncio.sleep(0.005)
            found = [one for one in told if one != "the end"]
            told.clear()
            return found

        try:
            async with asyncio.timeout(10):
                await begun.wait()
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def expire(self, lease: Lease) -> None:
        async with transaction(self.engine) as connection:
            past = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, 1)
            await connection.execute(update(leases).where(leases.c.key == lease.key).values(expires_at=past))

    async def now(self) -> datetime:
        async with reading(self.engine) as connection:
            found: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
        return found

    async def chip_columns(self, chip_id: str) -> dict[str, Any] | None:
        return await self._one(select(chips).where(chips.c.id == chip_id))

    async def container_columns(self, user_id: str) -> dict[str, Any] | None:
        return await self._one(select(containers).where(containers.c.user_id == user_id))

    async def events(self, chip_id: str) -> list[Event]:
        query = select(chip_events).where(chip_events.c.chip_id == chip_id).order_by(chip_events.c.id)
        return [
            Event(row.id, row.type, row.code, row.description, row.generation, row.extra_data)
            for row in await self._all(query)
        ]

    async def placements(self, user_id: str) -> list[Placement]:
        query = select(placements).where(placements.c.user_id == user_id).order_by(placements.c.epoch)
        return [
            Placement(row.allocation_id, row.epoch, row.is_current, row.lease_until, row.grant_number)
            for row in await self._all(query)
        ]

    async def ledger(self) -> list[Entry]:
        query = select(port_ledger).order_by(port_ledger.c.id)
        return [
            Entry(row.user_id, row.allocation_id, row.address, row.port, row.closed_at is None)
            for row in await self._all(query)
        ]

    async def hosts(self) -> list[HostUse]:
        query = select(hosts).order_by(hosts.c.name)
        async with reading(self.engine) as connection:
            rows = (await connection.execute(query)).all()
        return [HostUse(*(getattr(row, name) for name in HostUse.__struct_fields__)) for row in rows]

    async def look(self, user_id: str) -> Look | None:
        row = await self._one(select(looks).where(looks.c.user_id == user_id))
        return None if row is None else restored(row["body"])

    async def kept(self, user_id: str) -> Kept | None:
        row = await self._one(select(evidence).where(evidence.c.user_id == user_id))
        if row is None:
            return None
        return Kept(msgspec.convert(row["body"], Evidence), row["observed_at"])

    async def _one(self, query: Any) -> dict[str, Any] | None:
        async with reading(self.engine) as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else dict(row)

    async def _all(self, query: Any) -> list[Any]:
        async with reading(self.engine) as connection:
            return list((await connection.execute(query)).all())
