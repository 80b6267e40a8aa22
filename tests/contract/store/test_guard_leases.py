"""At no time do two allocations of one user hold a guard's lease that has not run out."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from core.domain.actions import ContainerStatus, Placed
from core.domain.guard_grants import Doubt, Granting, Reading, ServerView, doubt, granting
from core.errors import StaleWrite
from core.store.guard_leases import Answer, Ask, GuardLeases, Standing
from core.store.interface import Lease
from tests.contract.store.harness import Harness
from tests.scale import examples

TTL_S = 60.0


def allocation(number: int) -> str:
    return str(uuid.UUID(int=number))


def node(number: int) -> str:
    return str(uuid.UUID(int=0xF000 + number))


class SteppedClock:
    """A process's monotonic clock, moved on by hand."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Guards:
    """A user whose placement moves, and the guards of three hosts."""

    def __init__(self, harness: Harness, user_id: str, lease: Lease) -> None:
        self.harness, self.user_id, self.lease = harness, user_id, lease
        self.guards: GuardLeases = harness.guards(TTL_S)

    async def place(self, number: int, host: int = 1) -> None:
        placed = Placed(allocation(number), node(host), f"host-{host}", None, None)
        await self.harness.store.write_status(
            self.lease, ContainerStatus(phase="booting", placed=placed), {}, {}, 1
        )

    async def ended(self, *numbers: int) -> None:
        status = ContainerStatus(phase="moving", closed_allocations=tuple(map(allocation, numbers)))
        await self.harness.store.write_status(self.lease, status, {}, {}, 1)

    async def ask(self, number: int, host: int = 1, grant: int | None = None) -> Answer:
        return (await self.guards.renew(node(host), [Ask(allocation(number), grant)]))[0]

    async def close(self, number: int, host: int = 1, grant: int | None = 1) -> int:
        return await self.guards.confirm_closed(node(host), [Ask(allocation(number), grant)])

    async def holders(self) -> list[str]:
        now = await self.harness.now()
        rows = await self.harness.placements(self.user_id)
        return [row.allocation_id for row in rows if row.lease_until is not None and row.lease_until > now]


@pytest.fixture
async def scene(harness: Harness) -> Guards:
    user_id = await harness.user()
    await harness.container(user_id)
    lease = await harness.store.claim(user_id, "one", 60)
    assert isinstance(lease, Lease)
    return Guards(harness, user_id, lease)


async def test_only_the_current_placement_on_its_own_host_is_granted(scene: Guards) -> None:
    assert (await scene.ask(1)).standing is Standing.REVOKED  # nobody placed it yet
    await scene.place(1, host=1)
    assert (await scene.ask(1, host=2)).standing is Standing.REVOKED
    granted = await scene.ask(1, host=1)
    assert granted == Answer(allocation(1), Standing.GRANTED, grant=granted.grant, epoch=1, ttl_s=TTL_S)
    assert granted.grant is not None
    assert 0 < granted.grant <= 2**53
    assert await scene.holders() == [allocation(1)]


async def test_a_renewal_keeps_the_number_and_prolongs(scene: Guards) -> None:
    await scene.place(1)
    first = await scene.ask(1)
    until = (await scene.harness.placements(scene.user_id))[0].lease_until
    await asyncio.sleep(0.01)
    again = await scene.ask(1, grant=first.grant)
    assert again == first
    later = (await scene.harness.placements(scene.user_id))[0].lease_until
    assert until is not None
    assert later is not None
    assert later > until
    # A guard that was started again does not know what it held: a lease of its own.
    assert (await scene.ask(1)).grant not in (first.grant, None)


async def test_the_next_placement_waits_until_the_old_lease_has_run_out(scene: Guards) -> None:
    await scene.place(1, host=1)
    held = await scene.ask(1, host=1)
    await scene.place(2, host=2)
    assert (await scene.ask(2, host=2)).standing is Standing.WAITING
    assert (await scene.ask(1, host=1, grant=held.grant)).standing is Standing.REVOKED
    await scene.harness.age(TTL_S - 1)
    assert (await scene.ask(2, host=2)).standing is Standing.WAITING
    await scene.harness.age(1.5)
    assert (await scene.ask(2, host=2)).standing is Standing.GRANTED
    assert await scene.holders() == [allocation(2)]


async def test_a_confirmed_close_frees_at_once_and_only_its_own_grant(scene: Guards) -> None:
    await scene.place(1, host=1)
    first, second = (await scene.ask(1)).grant, (await scene.ask(1)).grant
    assert first != second
    await scene.place(2, host=2)
    assert await scene.close(1, grant=first) == 0  # late word of an earlier grant
    assert await scene.close(1, host=2, grant=second) == 0  # another host's word
    assert (await scene.ask(2, host=2)).standing is Standing.WAITING
    assert await scene.close(1, grant=second) == 1
    assert (await scene.ask(2, host=2)).standing is Standing.GRANTED
    assert await scene.close(1, grant=second) == 0  # said twice


async def test_nobody_elses_word_frees_a_lease(scene: Guards) -> None:
    """Its client may say that an allocation ended: what it had sent may still lie with its guard."""
    await scene.place(1, host=1)
    held = await scene.ask(1)
    await scene.place(2, host=2)
    await scene.ended(1)
    assert (await scene.ask(2, host=2)).standing is Standing.WAITING
    assert await scene.close(1, grant=held.grant) == 1
    assert (await scene.ask(2, host=2)).standing is Standing.GRANTED


async def test_a_process_that_just_began_believes_no_clock_that_a_lease_ran_out(scene: Guards) -> None:
    """The clock may have been stepped before it first looked; freed leases are another thing."""
    await scene.place(1, host=1)
    held = await scene.ask(1)
    await scene.place(2, host=2)
    await scene.harness.age(TTL_S + 1)
    old, scene.guards = scene.guards, scene.harness.guards(TTL_S)
    assert (await scene.ask(2, host=2)).standing is Standing.WAITING
    assert (await scene.ask(1, grant=held.grant)).standing is Standing.REVOKED
    fresh, scene.guards = scene.guards, old
    assert (await scene.ask(2, host=2)).standing is Standing.GRANTED
    await scene.place(3, host=3)
    scene.guards = fresh
    await scene.harness.age(TTL_S + 1)
    assert (await scene.ask(3, host=3)).standing is Standing.GRANTED


async def test_what_ran_out_long_ago_holds_nobody_up_when_processes_begin_anew(scene: Guards) -> None:
    await scene.place(1, host=1)
    await scene.ask(1)
    await scene.place(2, host=2)
    await scene.harness.age(TTL_S + 1)
    second = await scene.ask(2, host=2)
    scene.guards = scene.harness.guards(TTL_S)
    await scene.place(3, host=3)
    await scene.close(2, host=2, grant=second.grant)
    assert (await scene.ask(3, host=3)).standing is Standing.GRANTED


async def test_one_user_cannot_end_anothers_lease(scene: Guards) -> None:
    await scene.place(1, host=1)
    await scene.ask(1)
    other = await scene.harness.user()
    await scene.harness.container(other)
    lease = await scene.harness.store.claim(other, "one", 60)
    assert isinstance(lease, Lease)
    status = ContainerStatus(phase="moving", closed_allocations=(allocation(1),))
    await scene.harness.store.write_status(lease, status, {}, {}, 1)
    assert await scene.holders() == [allocation(1)]


async def test_an_allocation_that_comes_back_waits_for_its_successor(scene: Guards) -> None:
    await scene.place(1, host=1)
    first = await scene.ask(1)
    await scene.close(1, grant=first.grant)
    await scene.place(2, host=2)
    second = await scene.ask(2, host=2)
    await scene.place(1, host=1)
    assert (await scene.ask(1, grant=first.grant)).standing is Standing.WAITING
    await scene.close(2, host=2, grant=second.grant)
    again = await scene.ask(1)
    assert again == Answer(allocation(1), Standing.GRANTED, again.grant, 3, TTL_S)
    assert again.grant != first.grant


async def test_a_removed_container_leaves_its_lease_to_run_out(scene: Guards) -> None:
    await scene.place(1, host=1)
    await scene.ask(1)
    assert await scene.harness.store.remove_container(scene.lease) is True
    assert await scene.holders() == [allocation(1)]
    await scene.harness.container(scene.user_id)
    await scene.place(2, host=2)
    assert [(p.allocation_id, p.epoch) for p in await scene.harness.placements(scene.user_id)] == [
        (allocation(1), 1),
        (allocation(2), 2),
    ]
    assert (await scene.ask(2, host=2)).standing is Standing.WAITING
    await scene.harness.age(TTL_S + 1)
    assert (await scene.ask(2, host=2)).standing is Standing.GRANTED


async def test_a_batch_is_answered_in_its_order(scene: Guards) -> None:
    await scene.place(1, host=1)
    asks = [Ask(allocation(9)), Ask(allocation(1)), Ask(allocation(8))]
    answers = await scene.guards.renew(node(1), asks)
    assert [answer.allocation_id for answer in answers] == [ask.allocation_id for ask in asks]
    assert [answer.standing.value for answer in answers] == ["revoked", "granted", "revoked"]
    assert await scene.guards.renew(node(1), []) == ()
    assert await scene.guards.confirm_closed(node(1), []) == 0


async def test_after_another_server_answers_nothing_new_is_given_for_one_life(scene: Guards) -> None:
    await scene.place(1, host=1)
    held = await scene.ask(1)
    await scene.harness.restart_server()
    assert (await scene.ask(1, grant=held.grant)).standing is Standing.GRANTED  # what is held goes on
    assert (await scene.ask(1)).standing is Standing.WAITING  # what is not held may be held elsewhere
    await scene.place(2, host=2)
    await scene.close(1, grant=held.grant)
    assert (await scene.ask(2, host=2)).standing is Standing.WAITING
    await scene.harness.age(TTL_S + 1)
    assert (await scene.ask(2, host=2)).standing is Standing.GRANTED


async def test_an_operator_holds_grants_back(scene: Guards) -> None:
    await scene.place(1, host=1)
    until = await scene.guards.hold(30)
    assert timedelta(seconds=25) < until - await scene.harness.now() <= timedelta(seconds=30)
    assert (await scene.ask(1)).standing is Standing.WAITING
    assert await scene.guards.hold(1) == until  # a shorter one does not end a longer one
    await scene.harness.age(31)
    assert (await scene.ask(1)).standing is Standing.GRANTED


@pytest.mark.parametrize("step_s", [-10.0, 10.0])
async def test_a_step_of_the_stores_clock_holds_grants_back(scene: Guards, step_s: float) -> None:
    clock = SteppedClock()
    scene.guards = scene.harness.guards(TTL_S, clock)
    await scene.place(1, host=1)
    held = await scene.ask(1)
    clock.ahead_s += step_s  # as seen from here, the other clock jumped the other way
    assert (await scene.ask(1, grant=held.grant)).standing is Standing.GRANTED
    assert (await scene.ask(1)).standing is Standing.WAITING


async def test_never_two_holders_whatever_happens_at_once(harness: Harness) -> None:
    """Guards of three hosts, moves, closes and ends, all at once; no lease ever stands beside another."""
    random = Random(5)
    user_id = await harness.user()
    await harness.container(user_id)
    lease = await harness.store.claim(user_id, "one", 600)
    assert isinstance(lease, Lease)
    scene = Guards(harness, user_id, lease)
    held: dict[int, int | None] = {}
    seen = {"granted": 0, "waiting": 0, "revoked": 0}
    stopped = asyncio.Event()

    async def guard(number: int) -> None:
        guards = harness.guards(TTL_S)
        while not stopped.is_set():
            try:
                answer = (await guards.renew(node(number), [Ask(allocation(number), held.get(number))]))[0]
                seen[answer.standing.value] += 1
                if answer.standing is Standing.GRANTED:
                    held[number] = answer.grant
                elif answer.standing is Standing.REVOKED and held.get(number) is not None:
                    if random.random() < 0.7:
                        await guards.confirm_closed(node(number), [Ask(allocation(number), held[number])])
                    held[number] = None
            except StaleWrite:
                continue
            await asyncio.sleep(0)

    async def mover() -> None:
        for _ in range(examples(40)):
            number = random.randrange(1, 4)
            try:
                await scene.place(number, host=number)
                if random.random() < 0.3:
                    await scene.ended(number % 3 + 1)
            except StaleWrite:
                continue
            await asyncio.sleep(random.random() * 0.01)
        stopped.set()

    async def watcher() -> None:
        while not stopped.is_set():
            assert len(await scene.holders()) <= 1
            await asyncio.sleep(0.002)

    async with asyncio.timeout(60), asyncio.TaskGroup() as together:
        for number in (1, 2, 3):
            together.create_task(guard(number))
        together.create_task(mover())
        together.create_task(watcher())
    assert len(await scene.holders()) <= 1
    assert min(seen.values()) > 0, seen


def test_to_whom_new_leases_may_be_given() -> None:
    t0 = datetime(2026, 1, 1, tzinfo=UTC)
    for now_s, held_s, watches_s, expected in (
        (100, 101, 0, Granting.NONE),
        (100, 100, 40, Granting.ALL),
        (100, 0, 40.5, Granting.FREED),
        (100, 0, 100, Granting.FREED),
    ):
        now, after, since = (t0 + timedelta(seconds=one) for one in (now_s, held_s, watches_s))
        assert granting(now, after, since, 60) is expected


def test_what_gives_rise_to_doubt() -> None:
    t0 = datetime(2026, 1, 1, tzinfo=UTC)

    def after(seconds: float) -> datetime:
        return t0 + timedelta(seconds=seconds)

    stored = ServerView(t0, after(100))
    last = Reading(after(100), 10.0, 10.2)

    def judge(clock: float, sent_at: float, received_at: float, started: datetime = t0) -> Doubt | None:
        this = Reading(after(clock), sent_at, received_at)
        return doubt(stored=stored, seen=ServerView(started, after(clock)), last=last, this=this)

    assert judge(110, 20.0, 20.1) is None
    assert judge(110, 20.0, 20.1, after(1)) is Doubt.SERVER_CHANGED
    assert judge(98, 20.0, 20.1) is Doubt.CLOCK_STEPPED
    assert judge(110.8, 20.0, 20.1) is None
    assert judge(111.5, 20.0, 20.1) is Doubt.CLOCK_STEPPED
    assert judge(108.5, 20.0, 20.1) is Doubt.CLOCK_STEPPED
    assert judge(112.0, 20.0, 23.0) is None  # a slow answer: the clock may have been read at its end
    first = ServerView(t0, after(5000))
    assert doubt(stored=stored, seen=first, last=None, this=None) is None
