"""PostgreSQL and the store in memory, driven by the same operations: every answer and every row is the same."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select, text

from core.domain.actions import ChipStatus, ContainerStatus, Placed
from core.domain.actor import COMMAND_LINE
from core.domain.desired import Registered, SpecHashes, Tries
from core.domain.evidence import Evidence
from core.domain.facts import Endpoint
from core.domain.pacing import Ask as Start
from core.domain.pacing import Limit, Pace
from core.domain.rollout import Limits, plan
from core.domain.seat import SeatWhy
from core.errors import AppError
from core.store.engine import engine_for, reading, transaction
from core.store.guard_leases import Ask
from core.store.interface import Lease
from core.store.rollouts import PostgresRollouts
from core.store.tables import chip_events, chips, containers, evidence, metadata, placements, port_ledger
from tests.contract.store.harness import Harness, PostgresHarness
from tests.contract.store.memory_harness import MemoryHarness
from tests.contract.store.pair import (
    Api,
    Pair,
    allocation,
    chip_looks,
    different,
    evidence_seen,
    numbers,
    phases,
    plain,
    ports,
    reasons,
)
from tests.scale import examples

_UNLIMITED = Pace(*(Limit(1e6, 1e6) for _ in range(3)))

USERS = tuple(str(uuid.UUID(int=0xA0 + n)) for n in range(3))
NODES = tuple(str(uuid.UUID(int=0xB0 + n)) for n in range(2))
HOSTS = ("10.0.0.1", "10.0.0.2")
_EMPTIED = ", ".join(table.name for table in metadata.sorted_tables if table.name != "plans")
_NOT_KEPT_IN_MEMORY = {
    *("annotations", "created_at", "intent_at", "sealed_api_key", "sealed_hook_key"),
    *("storage_id", "namespace"),
}

_MOVING = ("status_since", "connected_at", "lease_until", "isolated_at", "deleted_at", "evidence_at")


def _kept(body: Evidence, at: datetime) -> dict[str, Any]:
    return {"body": body, "evidence_at": at}


class TwoStores(RuleBasedStateMachine):
    """Rules draw; `both` does it twice and compares."""

    runner: ClassVar[asyncio.Runner]
    real: ClassVar[PostgresHarness]

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryHarness()
        self.api = Api(self.real)
        self.leases: list[Pair] = []
        self.chips: list[tuple[str, str]] = []
        self.times: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        self.real_guards = self.real.guards(600)
        self.memory_guards = self.memory.guards(600)
        self.runner.run(self._empty())

    async def _empty(self) -> None:
        async with transaction(self.real.engine) as connection:
            await connection.execute(text(f"TRUNCATE {_EMPTIED} RESTART IDENTITY"))
            for user_id in USERS:
                await connection.execute(
                    text(
                        "INSERT INTO users (id, email, name, phone, plan_slug) VALUES (:id, :mail, 'A', '+5', 'business')"
                    ),
                    {"id": user_id, "mail": f"{user_id}@example.com"},
                )
                self.memory.memory.add_user(user_id, "business", f"{user_id}@example.com")

    def both(self, one: Callable[[], Awaitable[Any]], other: Callable[[], Awaitable[Any]]) -> tuple[Any, Any]:
        async def answer(call: Callable[[], Awaitable[Any]]) -> Any:
            try:
                return await call()
            except AppError as error:
                return f"{type(error).__name__} {error.code}"

        real, memory = self.runner.run(answer(one)), self.runner.run(answer(other))
        assert different(plain(real), plain(memory)) is None
        return real, memory

    def stores(self, call: Callable[[Harness, Lease], Awaitable[Any]], number: int) -> None:
        """The same call under one of the leases so far, lost ones too."""
        if self.leases:
            pair = self.leases[number % len(self.leases)]
            self.both(lambda: call(self.real, pair.real), lambda: call(self.memory, pair.memory))

    # --- wishes ----------------------------------------------------------------------------------------
    @rule(user=st.sampled_from(USERS), alias=st.sampled_from(["a", "A", "b", "c", "d", "e"]))
    def create(self, user: str, alias: str) -> None:
        chip_id = str(uuid.UUID(int=0xC000 + len(self.chips)))
        self.chips.append((user, chip_id))

        async def memory() -> None:
            self.memory.memory.create_chip(user, chip_id, alias)

        self.both(lambda: self.api.create_chip(user, chip_id, alias), memory)

    @rule(
        number=st.integers(0, 20),
        verb=st.sampled_from(["delete_chip", "disconnect_chip", "reconnect_chip", "reconnect_chip"]),
    )
    def wish(self, number: int, verb: str) -> None:
        if not self.chips:
            return
        user, chip = self.chips[number % len(self.chips)]

        async def memory() -> None:
            getattr(self.memory.memory, verb)(user, chip)

        self.both(lambda: getattr(self.api, verb)(user, chip), memory)

    @rule(number=st.integers(0, 20), verb=st.sampled_from(["ban", "lift", "release", "release", "fresh"]))
    def operate_on_a_chip(self, number: int, verb: str) -> None:
        if not self.chips:
            return
        user, chip = self.chips[number % len(self.chips)]
        wishes = self.memory.memory

        async def memory() -> Any:
            if verb == "fresh":
                return wishes.reconnect_chip(user, chip, fresh=True)
            return (
                wishes.release_chip(chip)
                if verb == "release"
                else wishes.ban_chip(chip, banned=verb == "ban")
            )

        async def real() -> Any:
            if verb == "fresh":
                return await self.api.reconnect_chip(user, chip, fresh=True)
            if verb == "release":
                return await self.api.release_chip(chip)
            return await self.api.ban_chip(chip, banned=verb == "ban")

        self.both(real, memory)

    @rule(user=st.sampled_from(USERS), window_s=st.sampled_from([0.0, 3600.0]))
    def peers(self, user: str, window_s: float) -> None:
        self.both(
            lambda: self.real.store.peers(user, window_s), lambda: self.memory.store.peers(user, window_s)
        )

    @rule(
        user=st.sampled_from(USERS),
        verb=st.sampled_from(["pin", "unpin", "pause", "go on", "restart", "delete"]),
    )
    def operate(self, user: str, verb: str) -> None:
        wishes, on = self.memory.memory, verb in ("pin", "pause")

        async def memory() -> Any:
            if verb == "delete":
                return wishes.delete_container(user)
            if verb == "restart":
                return wishes.restart(user)
            return wishes.pin(user, pinned=on) if "pin" in verb else wishes.pause(user, paused=on)

        async def real() -> Any:
            if verb == "delete":
                return await self.api.delete_container(user)
            if verb == "restart":
                return await self.api.restart(user)
            if "pin" in verb:
                return await self.api.pin(user, pinned=on)
            return await self.api.pause(user, paused=on)

        self.both(real, memory)

    # --- leases ----------------------------------------------------------------------------------------
    @rule(
        key=st.sampled_from([*USERS, *USERS, "fleet"]),
        owner=st.sampled_from(["one", "two"]),
        news=st.sampled_from([None, None, 0.0, 1000.0]),
    )
    def claim(self, key: str, owner: str, news: float | None) -> None:
        real, memory = self.both(
            lambda: self.real.store.claim(key, owner, 600, news_age_s=news),
            lambda: self.memory.store.claim(key, owner, 600, news_age_s=news),
        )
        if isinstance(real, Lease):
            self.leases.append(Pair(real, memory))

    @rule(number=st.integers(0, 30), verb=st.sampled_from(["extend", "release", "looked", "expire"]))
    def hold(self, number: int, verb: str) -> None:
        async def call(harness: Harness, lease: Lease) -> Any:
            if verb == "expire":
                return await harness.expire(lease)
            if verb == "extend":
                extended = await harness.store.extend(lease)
                return extended is not None and extended.token
            return await harness.store.release(lease, looked=verb == "looked")

        self.stores(call, number)

    # --- passes ----------------------------------------------------------------------------------------
    @rule(number=st.integers(0, 30), data=st.data())
    def see(self, number: int, data: st.DataObject) -> None:
        if not self.leases:
            return
        key = self.leases[number % len(self.leases)].real.key
        if key not in USERS:
            return
        status = self._status(data, USERS.index(key))
        snapshot = self.runner.run(self.memory.store.load(key))
        seen: dict[str, ChipStatus] = {}
        loaded: dict[str, int] = {}
        for chip in snapshot.chips if snapshot else ():
            if data.draw(st.booleans()):
                seen[chip.id] = data.draw(chip_looks)
                loaded[chip.id] = chip.generation - data.draw(st.sampled_from([0, 0, 0, 1]))
        generation = snapshot.container.generation if snapshot else 1
        freed = data.draw(st.lists(st.builds(allocation, st.integers(0, 2), numbers), max_size=2))
        found = data.draw(evidence_seen)

        async def call(harness: Harness, lease: Lease) -> Any:
            return await harness.store.write_status(
                lease, status, seen, loaded, generation, release_ports_of=tuple(freed), evidence=found
            )

        self.stores(call, number)

    def _status(self, data: st.DataObject, user: int) -> ContainerStatus:
        placed = newest = port = None
        host = data.draw(st.integers(0, 1))
        if data.draw(st.booleans()):
            newest, port = allocation(user, data.draw(numbers)), data.draw(ports)
        if data.draw(st.booleans()):
            id_ = newest if newest and data.draw(st.booleans()) else allocation(user, data.draw(numbers))
            held = port if id_ == newest else data.draw(st.none() | ports)
            placed = Placed(id_, NODES[host], f"host-{host}", HOSTS[host] if held else None, held)
        endpoint = (
            Endpoint(HOSTS[host], port, newest) if newest and port and data.draw(st.booleans()) else None
        )
        return ContainerStatus(
            phase=data.draw(phases),
            reason=data.draw(reasons),
            placed=placed,
            allocation_id=newest,
            node_name=f"host-{host}" if newest else None,
            address=HOSTS[host] if newest else None,
            port=port,
            endpoint=endpoint,
            blind=data.draw(st.sampled_from([False, False, False, True])),
            empty_since=data.draw(st.sampled_from([None, datetime(2026, 1, 1, tzinfo=UTC)])),
            closed_allocations=tuple(
                data.draw(st.lists(st.builds(allocation, st.just(user), numbers), max_size=2, unique=True))
            ),
            isolated=data.draw(st.booleans()),
            key_accepted=data.draw(st.booleans()),
            restarted_generation=data.draw(st.sampled_from([None, None, 1, 5])),
            at_rest=data.draw(st.booleans()),
        )

    @rule(
        number=st.integers(0, 30),
        verb=st.sampled_from(
            [
                *("registered", "unregistered", "variables", "renewal", "tries", "remove"),
                *("restart begun", "restarted"),
            ]
        ),
        chip=st.integers(0, 20),
    )
    def record(self, number: int, verb: str, chip: int) -> None:
        chip_id = self.chips[chip % len(self.chips)][1] if self.chips else str(uuid.UUID(int=7))

        async def call(harness: Harness, lease: Lease) -> Any:
            store = harness.store
            if lease.key == "fleet":
                return None
            if verb == "registered":
                return await store.record_registered(lease, Registered(SpecHashes("s", "r"), number, "r1"))
            if verb == "unregistered":
                return await store.record_registered(lease, None)
            if verb == "variables":
                return await store.record_variables(lease, str(number))
            if verb == "renewal":
                return await store.record_renewal(lease, allocation(0, 1))
            if verb == "restart begun":
                return await store.record_restart_begun(lease, number)
            if verb == "restarted":
                return await store.record_restarted(lease, number)
            if verb == "tries":
                asks = [Start(chip_id, "h1", None, 20, None)]
                await store.take_starts(lease, asks, _UNLIMITED, {chip_id: Tries(number, 1, 2)})
                return None
            return await store.remove_chip(lease, chip_id, number)

        self.stores(call, number)

    @rule(
        number=st.integers(0, 30),
        verb=st.sampled_from(["announce", "ask", "ask", "ask", "leave", "ok", "failed"]),
        release=st.sampled_from(["r1", "r1", "r1", "r2"]),
        hash_=st.sampled_from(["h1", "h2"]),
    )
    def move(self, number: int, verb: str, release: str, hash_: str) -> None:
        async def call(harness: Harness, lease: Lease) -> Any:
            store: Any = harness.store
            if verb == "announce":
                return await store.announce_release(release)
            if lease.key == "fleet":
                view = await store.rollout_view()
                if view is None:
                    return None
                step = plan(view, Limits(users=2, deadline_s=0.0 if hash_ == "h2" else 600.0))
                return await store.apply_rollout(lease, view.control, step)
            if verb == "ask":
                return await store.ask_seat(lease, release, hash_)
            if verb == "leave":
                return await store.leave_seat(lease)
            return await store.settle_seat(lease, ok=verb == "ok", why=SeatWhy.PAIRING)

        self.stores(call, number)

    @rule(paused=st.booleans())
    def pause_rollout(self, paused: bool) -> None:
        async def memory() -> Any:
            return self.memory.memory.set_paused(paused=paused, by="ana")

        self.both(
            lambda: PostgresRollouts(self.real.engine).set_paused(
                paused=paused, by="ana", actor=COMMAND_LINE
            ),
            memory,
        )

    @rule(number=st.integers(0, 30))
    def remove_container(self, number: int) -> None:
        async def call(harness: Harness, lease: Lease) -> Any:
            return None if lease.key == "fleet" else await harness.store.remove_container(lease)

        self.stores(call, number)

    # --- the fleet -------------------------------------------------------------------------------------
    @rule(
        number=st.integers(0, 30),
        verb=st.sampled_from(["forgotten", "ledger", "placements", "events"]),
        alive=st.lists(st.builds(allocation, st.integers(0, 2), numbers)),
        aged=st.booleans(),
    )
    def keep_house(self, number: int, verb: str, alive: list[str], aged: bool) -> None:
        async def call(harness: Harness, lease: Lease) -> Any:
            if aged:
                await harness.age(100)
            house = harness.housekeeping
            if verb == "forgotten":
                return await house.close_forgotten(lease, alive, listing_age_s=10, min_age_s=40)
            if verb == "ledger":
                return await house.prune_ledger(lease, older_than_s=50)
            if verb == "placements":
                return await house.prune_placements(lease, older_than_s=50)
            return await house.prune_events(lease, older_than_s=86_400, keep_per_chip=50)

        self.stores(call, number)

    @rule(
        node=st.sampled_from(NODES),
        asks=st.lists(
            st.builds(Ask, st.builds(allocation, st.integers(0, 2), numbers), st.sampled_from([None, 1, 2])),
            max_size=4,
            unique_by=lambda ask: ask.allocation_id,
        ),
        closes=st.booleans(),
    )
    def guard(self, node: str, asks: list[Ask], closes: bool) -> None:
        if closes:
            self.both(
                lambda: self.real_guards.confirm_closed(node, asks),
                lambda: self.memory_guards.confirm_closed(node, asks),
            )
        else:
            self.both(
                lambda: self.real_guards.renew(node, asks), lambda: self.memory_guards.renew(node, asks)
            )

    # --- every row -------------------------------------------------------------------------------------
    @invariant()
    def rows_are_the_same(self) -> None:
        real, memory = self.runner.run(self._real_rows()), self.runner.run(self._memory_rows())
        for key in real.keys() | memory.keys():
            mine, theirs = real.get(key), memory.get(key)
            assert mine is not None, ("only in memory", key, theirs)
            assert theirs is not None, ("only in PostgreSQL", key, mine)
            names = mine.keys() & theirs.keys()
            what = different(plain({n: mine[n] for n in names}), plain({n: theirs[n] for n in names}))
            assert what is None, (key, what)
        # Times differ, but they move in the same steps.
        moved = []
        for index, rows in enumerate((real, memory)):
            times = {
                (key, name): value
                for key, row in rows.items()
                for name, value in row.items()
                if name in _MOVING
            }
            moved.append({key for key, value in times.items() if self.times[index].get(key) != value})
            self.times[index].clear()
            self.times[index].update(times)
        assert moved[0] == moved[1]

    @invariant()
    def reads_are_the_same(self) -> None:
        self.both(self.real.store.summaries, self.memory.store.summaries)
        self.both(self.real.store.user_ids, self.memory.store.user_ids)
        self.both(PostgresRollouts(self.real.engine).view, self.memory.memory.rollout_view)
        for user in USERS:

            async def load(harness: Harness, user_id: str = user) -> Any:
                return await harness.store.load(user_id)

            self.both(lambda: load(self.real), lambda: load(self.memory))

    @invariant()
    def promises_hold(self) -> None:
        now = self.memory.clock.now()
        for user in self.memory.memory.users.values():
            held = [p for p in user.placements if p.lease_until is not None and p.lease_until > now]
            assert len(held) <= 1
            assert sum(p.is_current for p in user.placements) <= 1

    async def _real_rows(self) -> dict[Any, dict[str, Any]]:
        found: dict[Any, dict[str, Any]] = {}
        async with reading(self.real.engine) as connection:
            for table, key in (
                (containers, "user_id"),
                (chips, "id"),
                (chip_events, "id"),
                (placements, "allocation_id"),
                (port_ledger, "allocation_id"),
                (evidence, "user_id"),
            ):
                for row in (await connection.execute(select(table).order_by(table.c[key]))).mappings():
                    values = {n: v for n, v in row.items() if n not in _NOT_KEPT_IN_MEMORY}
                    if table is evidence:
                        values = _kept(msgspec.convert(row["body"], Evidence), row["observed_at"])
                    if table is port_ledger:
                        values["is_open"] = values.pop("closed_at") is None
                    # Identities have gaps in PostgreSQL, after statements that were rolled back.
                    if table is chip_events:
                        values.pop("id")
                        count = sum(k[:2] == ("chip_events", row["chip_id"]) for k in found)
                        found["chip_events", row["chip_id"], count] = values
                    else:
                        found[table.name, row[key]] = values
        return found

    async def _memory_rows(self) -> dict[Any, dict[str, Any]]:
        found: dict[Any, dict[str, Any]] = {}
        store = self.memory.memory
        for user_id, container in store.containers.items():
            found["containers", user_id] = await self.memory.container_columns(user_id) or {}
            if container.kept is not None:
                found["evidence", user_id] = _kept(container.kept.body, container.kept.observed_at)
        for chip in store.chips.values():
            found["chips", chip.id] = await self.memory.chip_columns(chip.id) or {}
            for count, event in enumerate(chip.events):
                found["chip_events", chip.id, count] = {
                    n: getattr(event, n) for n in ("type", "code", "description", "generation", "extra_data")
                }
        for row in store.placement_of.values():
            found["placements", row.allocation_id] = {
                n: getattr(row, n)
                for n in ("user_id", "node_id", "epoch", "is_current", "lease_until", "grant_number")
            }
        for entry in await self.memory.ledger():
            found["port_ledger", entry.allocation_id] = {
                n: getattr(entry, n) for n in ("user_id", "address", "port", "is_open")
            }
        return found


@pytest.fixture
def two_stores(contract_database_url: str) -> Iterator[type[TwoStores]]:
    with asyncio.Runner() as runner:
        engine = engine_for(contract_database_url, pool_size=4)
        TwoStores.runner, TwoStores.real = runner, PostgresHarness(engine)
        yield TwoStores
        runner.run(engine.dispose())


def test_both_stores_answer_and_keep_the_same(two_stores: type[TwoStores]) -> None:
    run_state_machine_as_test(
        two_stores,
        settings=settings(
            max_examples=examples(15),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),  # a failure is read from its steps; shrinking would take minutes
            database=None,
            report_multiple_bugs=False,
        ),
    )
