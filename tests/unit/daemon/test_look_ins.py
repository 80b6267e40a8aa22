"""Looks into containers, in virtual time: who samples, how often, and that rest costs nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random

from structlog.testing import capture_logs

from core.clients.scheduler_look_ins import Stream, Usage
from core.domain.actions import ContainerStatus, Placed
from core.domain.log_lines import LEFT_OUT, Piece
from core.domain.look_ins import What, lease_key
from core.errors import DependencyError, Missing, Unavailable
from core.settings import Secret
from core.store.interface import Lease
from core.store.notify import LOOK_INS
from daemon.look_ins import LEASE_S, LookIns
from daemon.sources.supervisor import Supervisor
from tests.memory_store import MemoryLookIns, api_key_of
from tests.unit.daemon.system import JOBS, U1, U2, World, scenario

A1, A2 = str(uuid.UUID(int=0xA1)), str(uuid.UUID(int=0xA2))


@dataclass
class Node:
    """`LookInScheduler`: what allocations use and print."""

    world: World
    calls: list[tuple[str, str]] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    printed: dict[tuple[str, str], bytes] = field(default_factory=dict)
    away: DependencyError | None = None
    measures: bool = True

    async def usage(self, allocation_id: str) -> Usage:
        await self._asked("usage", allocation_id)
        if not self.measures:
            raise Missing("nomad", "the task was not measured yet")
        now_ns = 1 if allocation_id in self.ended else int(self.world.clock.monotonic() * 1e9) + 1
        return Usage(12.5, 64 << 20, now_ns)

    async def log(self, allocation_id: str, stream: Stream, most_bytes: int) -> tuple[Piece, ...]:
        await self._asked("log", allocation_id)
        if (allocation_id, stream) not in self.printed:
            raise Missing("nomad", "not started yet")
        data = self.printed[allocation_id, stream]
        begin = max(0, len(data) - most_bytes)
        return (Piece(0, begin, data[begin:]),) if data else ()

    async def _asked(self, call: str, allocation_id: str) -> None:
        self.calls.append((call, allocation_id))
        await self.world.clock.sleep(0.01)
        if self.away is not None:
            raise self.away

    def prints(self, text: str, stream: Stream = "stdout", allocation: str = A1) -> None:
        key = (allocation, stream)
        self.printed[key] = self.printed.get(key, b"") + text.encode()

    def count(self, call: str) -> int:
        return sum(one == call for one, _ in self.calls)


class Scene:
    """A store with two users whose containers run, and daemons that look into them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = Node(world)
        self.looks = MemoryLookIns(world.store)
        self.sources: list[LookIns] = []
        world.store.on_news = self.hear

    def hear(self, channel: str, user_id: str) -> None:
        if channel == LOOK_INS:
            for source in self.sources:
                source.wanted(user_id)

    async def runs(self, user_id: str, allocation: str | None, port: int = 3100) -> None:
        if user_id not in self.world.store.users:
            self.world.store.add_user(user_id)
            self.world.store.ensure_container(user_id)
        lease = await self.world.store.claim(user_id, "pass", 60)
        assert isinstance(lease, Lease)
        status = ContainerStatus(phase="placing")
        if allocation is not None:
            placed = Placed(allocation, "n1", "host-1", "10.0.0.1", port)
            status = ContainerStatus(phase="ready", placed=placed, allocation_id=allocation)
        await self.world.store.write_status(lease, status, {}, {}, 1)
        await self.world.store.release(lease)

    @asynccontextmanager
    async def daemon(self, owner: str = "d1", node: Node | None = None) -> AsyncIterator[LookIns]:
        source = LookIns(
            owner=owner,
            store=self.world.store,
            look_ins=self.looks,
            scheduler=node or self.node,
            settings=JOBS,
            clock=self.world.clock,
        )
        self.sources.append(source)
        task = asyncio.create_task(Supervisor(source, self.world.clock, Random(1)).run())
        source.relist()
        try:
            yield source
        finally:
            self.sources.remove(source)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def watched(self, what: What, seconds: float, user_id: str = U1) -> None:
        """Somebody looks for so long, once a second."""
        for _ in range(int(seconds)):
            await self.looks.watch(user_id, what)
            await asyncio.sleep(1)

    async def lines(self, user_id: str = U1) -> tuple[str, ...]:
        found = await self.looks.log(user_id)
        return () if found is None else found.lines


@scenario
async def test_nobody_looks_and_nothing_is_asked(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    async with scene.daemon():
        await asyncio.sleep(600)
    assert scene.node.calls == []
    assert lease_key(U1) not in world.store.leases


@scenario
async def test_a_first_look_is_answered_at_once_and_sampled_every_five_seconds(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    async with scene.daemon():
        await asyncio.sleep(100)
        await scene.looks.watch(U1, What.STATS)
        await asyncio.sleep(0.2)
        meter = await scene.looks.meter(U1)
        assert meter is not None
        assert meter.sample is not None
        assert (meter.sample.cpu_percent, meter.sample.memory_bytes) == (12.5, 64 << 20)
        await scene.watched(What.STATS, 60)
        assert 12 <= scene.node.count("usage") <= 14
        assert scene.node.count("log") == 0
        await asyncio.sleep(40)
        asked = len(scene.node.calls)
        await asyncio.sleep(600)
        assert len(scene.node.calls) == asked, "nobody looks any more"
    row = world.store.leases[lease_key(U1)]
    assert row.owner == ""


@scenario
async def test_one_of_two_daemons_samples(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    other = Node(world)
    async with scene.daemon("d1"), scene.daemon("d2", other):
        await scene.watched(What.STATS, 60)
    both = sorted([scene.node.count("usage"), other.count("usage")])
    assert both[0] == 0
    assert both[1] >= 12


@scenario
async def test_another_daemon_goes_on_when_the_one_that_samples_dies(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    # Killed: nobody gives its lease back.
    assert isinstance(await world.store.claim(lease_key(U1), "dead", LEASE_S), Lease)
    async with scene.daemon("d2"):
        await scene.watched(What.STATS, LEASE_S + 2)
        meter = await scene.looks.meter(U1)
        assert meter is not None
        assert meter.sample is not None


@scenario
async def test_a_daemon_that_cannot_reach_the_node_leaves_it_to_another(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    scene.node.away = Unavailable("nomad", "no path to the node")
    other = Node(world)
    async with scene.daemon("d1"):
        await scene.watched(What.STATS, 2)
        async with scene.daemon("d2", other):
            await scene.watched(What.STATS, 60)
    assert scene.node.count("usage") >= 3
    assert other.count("usage") >= 5


@scenario
async def test_a_dead_task_s_last_sample_is_no_news(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    async with scene.daemon():
        await scene.watched(What.STATS, 12)
        scene.node.ended.add(A1)
        await scene.watched(What.STATS, 40)
        meter = await scene.looks.meter(U1)
        assert meter is not None
        assert meter.sample is None


@scenario
async def test_a_host_that_measures_nothing_is_told_once(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    scene.node.measures = False
    with capture_logs() as told:
        async with scene.daemon():
            await scene.watched(What.STATS, 60)
    assert [one["event"] for one in told if one["log_level"] == "warning"] == ["look_in_unmeasured"]
    meter = await scene.looks.meter(U1)
    assert meter is not None
    assert meter.newest is None


@scenario
async def test_a_log_is_followed_redacted_and_numbered(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    scene.node.prints("one\nX-Api-Key: something\nha")
    scene.node.prints(f"error with {api_key_of(U1)} in it\n", "stderr")
    async with scene.daemon():
        await scene.looks.watch(U1, What.LOGS)
        await asyncio.sleep(0.3)
        assert await scene.lines() == ("one", "X-Api-Key: ***", "error with *** in it")
        scene.node.prints("lf\n")
        await scene.watched(What.LOGS, 3)
        assert (await scene.lines())[3:] == ("half",)
        before = await scene.looks.log(U1)
        assert before is not None
        assert before.last_line == 4
        await scene.watched(What.LOGS, 20)
        assert (await scene.lines()) == before.lines
        assert scene.node.count("usage") == 0
        assert api_key_of(U1) not in repr(scene.looks._logs)


@scenario
async def test_the_next_daemon_goes_on_where_the_one_before_was(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    scene.node.prints("one\n")
    async with scene.daemon("d1"):
        await scene.watched(What.LOGS, 3)
    scene.node.prints("two\n")
    async with scene.daemon("d2"):
        await scene.watched(What.LOGS, 3)
    assert await scene.lines() == ("one", "two")
    await scene.runs(U1, A2, port=3101)
    scene.node.prints("three\n", allocation=A2)
    async with scene.daemon("d1"):
        await scene.watched(What.LOGS, 3)
    found = await scene.looks.log(U1)
    assert found is not None
    assert (found.allocation_id, found.lines, found.last_line) == (A2, ("three",), 3)


@scenario
async def test_a_log_that_grows_too_fast_says_that_something_is_left_out(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    scene.node.prints("one\n")
    async with scene.daemon():
        await scene.watched(What.LOGS, 3)
        scene.node.prints("x" * 1000 + "\n")
        scene.node.prints(("y" * 1000 + "\n") * 100)
        await scene.watched(What.LOGS, 3)
    lines = await scene.lines()
    assert lines[:2] == ("one", LEFT_OUT)
    assert set(lines[2:]) == {"y" * 1000}


@scenario
async def test_a_second_kind_of_look_is_answered_at_once_too(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    scene.node.prints("one\n")
    async with scene.daemon():
        await scene.looks.watch(U1, What.STATS)
        await asyncio.sleep(1)
        await scene.looks.watch(U1, What.LOGS)
        await asyncio.sleep(0.3)
        assert await scene.lines() == ("one",)


@scenario
async def test_the_log_of_what_ran_last_is_read_when_nothing_runs(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    await scene.runs(U1, None)
    scene.node.prints("panic: no storage\n", "stderr")
    async with scene.daemon():
        await scene.watched(What.LOGS, 2)
        await scene.watched(What.STATS, 2)
    assert await scene.lines() == ("panic: no storage",)
    assert scene.node.count("usage") == 0


@scenario
async def test_looks_into_several_containers_go_side_by_side(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    await scene.runs(U2, A2, port=3101)
    async with scene.daemon():
        await scene.looks.watch(U1, What.STATS)
        await scene.looks.watch(U2, What.STATS)
        await asyncio.sleep(0.3)
    assert {allocation for _, allocation in scene.node.calls} == {A1, A2}


@scenario
async def test_a_daemon_that_begins_finds_who_looks_already(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    await scene.looks.watch(U1, What.STATS)
    async with scene.daemon():
        await asyncio.sleep(0.3)
    assert scene.node.count("usage") == 1


@scenario
async def test_a_look_into_what_is_removed_meanwhile_ends(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    async with scene.daemon():
        await scene.watched(What.STATS, 6)
        lease = await world.store.claim(U1, "pass", 60)
        assert isinstance(lease, Lease)
        assert await world.store.remove_container(lease)
        asked = len(scene.node.calls)
        await scene.watched(What.STATS, 60)
        assert len(scene.node.calls) <= asked + 1


@scenario
async def test_the_store_away_ends_a_look_and_the_next_begins_it_anew(world: World) -> None:
    scene = Scene(world)
    await scene.runs(U1, A1)
    async with scene.daemon():
        await scene.watched(What.STATS, 6)
        world.store.down = True
        await asyncio.sleep(60)
        world.store.down = False
        asked = scene.node.count("usage")
        await scene.watched(What.STATS, LEASE_S + 10)
        assert scene.node.count("usage") > asked


def test_secrets_of_storage_are_known_too() -> None:
    import msgspec

    from core.store.interface import ContainerSecrets
    from daemon.sampling import known_secrets

    settings = msgspec.structs.replace(
        JOBS,
        storage_dsn=Secret("postgres://waha:p%40ss-word@db/postgres"),
        other_storages=(("old", Secret("postgres://waha:older-pass@old/postgres")),),
    )
    found = known_secrets(ContainerSecrets(api_key="key-1", hook_key="key-2"), settings)
    assert {"key-1", "key-2", "p%40ss-word", "p@ss-word", "older-pass"} <= found
    assert known_secrets(ContainerSecrets("key-1", "key-2"), JOBS) == {"key-1", "key-2"}
