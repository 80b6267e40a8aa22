"""Releases and seats: one contract, on PostgreSQL and in memory."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import msgspec
import pytest

from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.actor import COMMAND_LINE
from core.domain.desired import Registered, SpecHashes
from core.domain.rollout import Candidate, Control, PauseWhy, Plan, RolloutState, View
from core.domain.seat import Seat, SeatState, SeatWhy
from core.errors import StaleWrite
from core.store.interface import Lease
from core.store.rollouts import PostgresRollouts
from tests.contract.store.harness import Harness, PostgresHarness

RUNNING, PAUSED, DONE = RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.DONE
ALLOCATION = str(uuid.UUID(int=77))


async def lease(harness: Harness, key: str = "fleet") -> Lease:
    found = await harness.store.claim(key, "d1", 60)
    assert isinstance(found, Lease)
    return found


async def view(harness: Harness) -> View:
    store: Any = harness.store
    found: View | None = await store.rollout_view()
    assert found is not None
    return found


async def carry_out(harness: Harness, plan: Plan, before: Control | None = None) -> tuple[str, ...]:
    store: Any = harness.store
    found: tuple[str, ...] = await store.apply_rollout(
        await lease(harness), before or (await view(harness)).control, plan
    )
    return found


async def seat(harness: Harness, user: str) -> Seat | None:
    snapshot = await harness.store.load(user)
    assert snapshot is not None
    return snapshot.seat


async def connected_user(harness: Harness, chips: int = 1) -> tuple[str, list[str]]:
    user = await harness.user()
    ids = [await harness.chip(user) for _ in range(chips)]
    up = {id_: ChipStatus(phase="connected", status="CONNECTED", connected_now=True) for id_ in ids}
    runs = ContainerStatus(phase="ready", allocation_id=ALLOCATION)
    snapshot = await harness.store.load(user)
    assert snapshot is not None
    seen = {chip.id: chip.generation for chip in snapshot.chips}
    await harness.store.write_status(await lease(harness, user), runs, up, seen, 1)
    return user, ids


async def waiting(harness: Harness, hash_: str = "h2") -> tuple[str, list[str]]:
    user, chips = await connected_user(harness)
    await harness.store.ask_seat(await lease(harness, user), "r2", hash_)
    return user, chips


async def test_the_release_that_was_announced_last_rules(harness: Harness) -> None:
    store: Any = harness.store
    assert (await store.newest_release(), await store.rollout_view()) == (None, None)
    for release in ("r1", "r2", "r2", "r1"):
        await store.announce_release(release)
        assert await store.newest_release() == release
        assert (await view(harness)).control.state is RUNNING
    user = await harness.user()
    await harness.container(user)
    await store.announce_release("r2")
    snapshot = await store.load(user)
    assert snapshot.newest_release == "r2"
    assert snapshot.seat is None


async def test_announced_again_it_stays_paused_and_begins_anew_after_another(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    await carry_out(harness, Plan((), (), PAUSED, PauseWhy.FAILURES))
    await harness.store.announce_release("r2")
    control = (await view(harness)).control
    assert (control.state, control.why, control.by) == (PAUSED, "failures", None)
    await harness.store.announce_release("r1")
    await harness.store.announce_release("r2")
    assert (await view(harness)).control.state is RUNNING


async def test_a_seat_from_the_asking_to_its_end(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    user, chips = await waiting(harness)
    assert await seat(harness, user) == Seat("r2", "h2")
    found = await view(harness)
    assert found.waiting == (Candidate(user, connected=1, chips=1),)
    assert await carry_out(harness, Plan((user, str(uuid.uuid4())), (), RUNNING)) == (user,)
    moving = await seat(harness, user)
    assert moving is not None
    assert msgspec.structs.replace(moving, admitted_at=None) == Seat(
        "r2", "h2", SeatState.MOVING, connected=tuple(chips), moved_from=ALLOCATION
    )
    found = await view(harness)
    assert (found.waiting, [one.user_id for one in found.moving]) == ((), [user])
    assert found.moving[0].connected
    assert 0 <= found.moving[0].for_s < 5
    await harness.store.settle_seat(await lease(harness, user), ok=True)
    found = await view(harness)
    assert (found.moving, [one.ok for one in found.settled]) == ((), [True])
    assert found.settled[0].connected
    # What is settled is settled.
    await harness.store.settle_seat(await lease(harness, user), ok=False, why=SeatWhy.PAIRING)
    assert [one.ok for one in (await view(harness)).settled] == [True]


async def test_only_the_newest_release_gives_seats(harness: Harness) -> None:
    user, _ = await connected_user(harness)
    await harness.store.ask_seat(await lease(harness, user), "r2", "h2")
    assert await seat(harness, user) is None
    await harness.store.announce_release("r2")
    await harness.store.announce_release("r1")
    await harness.store.ask_seat(await lease(harness, user), "r2", "h2")
    assert await seat(harness, user) is None


@pytest.mark.parametrize(("ended", "broken"), [(None, True), (False, True), (True, False)])
async def test_who_wants_another_job_before_the_move_ended_well_is_broken(
    harness: Harness, ended: bool | None, broken: bool
) -> None:
    await harness.store.announce_release("r2")
    user, chips = await waiting(harness)
    await carry_out(harness, Plan((user,), (), RUNNING))
    if ended is not None:
        await harness.store.settle_seat(await lease(harness, user), ok=ended, why=SeatWhy.PAIRING)
    await harness.store.announce_release("r1")
    await harness.store.ask_seat(await lease(harness, user), "r1", "h1")
    kept = tuple(chips) if broken else ()
    assert await seat(harness, user) == Seat("r1", "h1", broken=broken, connected=kept)
    # Asked again: what was broken stays broken until a move went well.
    await harness.store.ask_seat(await lease(harness, user), "r1", "h3")
    assert await seat(harness, user) == Seat("r1", "h3", broken=broken, connected=kept)
    await carry_out(harness, Plan((user,), (), RUNNING))
    moving = await seat(harness, user)
    assert moving is not None
    assert moving.connected == tuple(chips)  # each once, whether connected now or kept


async def test_the_same_job_asked_for_again_breaks_nobody(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    user, _ = await waiting(harness)
    await carry_out(harness, Plan((user,), (), RUNNING))
    await carry_out(harness, Plan((), (user,), RUNNING))
    late = await seat(harness, user)
    assert late is not None
    assert late.state is SeatState.FAILED
    assert [one.ok for one in (await view(harness)).settled] == [False]
    await harness.store.ask_seat(await lease(harness, user), "r2", "h2")
    assert await seat(harness, user) == Seat("r2", "h2")
    assert (await view(harness)).settled == ()


async def test_a_seat_may_be_left_while_it_is_open(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    user, _ = await waiting(harness)
    await harness.store.leave_seat(await lease(harness, user))
    assert await seat(harness, user) is None
    await harness.store.ask_seat(await lease(harness, user), "r2", "h2")
    await carry_out(harness, Plan((user,), (), RUNNING))
    await harness.store.settle_seat(await lease(harness, user), ok=True)
    await harness.store.leave_seat(await lease(harness, user))
    kept = await seat(harness, user)
    assert kept is not None
    assert kept.state is SeatState.OK


async def test_a_plan_of_a_state_that_is_over_changes_nothing(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    user, _ = await waiting(harness)
    before = (await view(harness)).control
    await carry_out(harness, Plan((), (), PAUSED, PauseWhy.FAILURES))
    assert await carry_out(harness, Plan((user,), (), RUNNING), before) == ()
    assert (await view(harness)).control.state is PAUSED
    await harness.store.announce_release("r1")
    assert await carry_out(harness, Plan((user,), (), RUNNING), before) == ()
    assert await seat(harness, user) == Seat("r2", "h2")


async def test_what_is_done_counts_no_more_once_it_begins_again(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    user, _ = await waiting(harness)
    await carry_out(harness, Plan((user,), (), RUNNING))
    await harness.store.settle_seat(await lease(harness, user), ok=True)
    await carry_out(harness, Plan((), (), DONE))
    other, _ = await waiting(harness)
    await carry_out(harness, Plan((other,), (), RUNNING))
    found = await view(harness)
    assert (found.control.state, found.settled) == (RUNNING, ())


async def test_late_writes_are_refused(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    user, _ = await waiting(harness)
    old, fleet = await lease(harness, user), await lease(harness)
    for one in (old, fleet):
        await harness.expire(one)
        assert isinstance(await harness.store.claim(one.key, "d2", 60), Lease)
    store: Any = harness.store
    control = (await view(harness)).control
    for write in (
        store.ask_seat(old, "r2", "h3"),
        store.leave_seat(old),
        store.settle_seat(old, ok=True),
        store.apply_rollout(fleet, control, Plan((user,), (), RUNNING)),
    ):
        with pytest.raises(StaleWrite):
            await write
    assert await seat(harness, user) == Seat("r2", "h2")


async def test_the_sweep_sees_releases_and_open_seats(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    user, _ = await waiting(harness)
    registered = Registered(SpecHashes("s", "h1"), 7, "r1")
    await harness.store.record_registered(await lease(harness, user), registered)
    (one,) = await harness.store.summaries()
    assert (one.registered, one.seat_release) == (registered, "r2")
    snapshot = await harness.store.load(user)
    assert snapshot is not None
    assert snapshot.container.registered == registered
    await carry_out(harness, Plan((user,), (), RUNNING))
    await harness.store.settle_seat(await lease(harness, user), ok=True)
    (one,) = await harness.store.summaries()
    assert one.seat_release is None


async def test_a_removed_container_takes_its_seat_along(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    user = await harness.user()
    await harness.container(user)
    await harness.store.ask_seat(await lease(harness, user), "r2", "h2")
    assert await harness.store.remove_container(await lease(harness, user))
    assert (await view(harness)).waiting == ()
    await harness.container(user)
    assert await seat(harness, user) is None


async def test_an_operator_pauses_and_resumes(harness: Harness) -> None:
    async def decide(*, paused: bool) -> Control | None:
        if isinstance(harness, PostgresHarness):
            return await PostgresRollouts(harness.engine).set_paused(
                paused=paused, by="ana", actor=COMMAND_LINE
            )
        memory: Any = harness.store
        found: Control | None = memory.set_paused(paused=paused, by="ana")
        return found

    assert await decide(paused=True) is None
    await harness.store.announce_release("r2")
    user, _ = await waiting(harness)
    await carry_out(harness, Plan((user,), (), RUNNING))
    await carry_out(harness, Plan((), (user,), RUNNING))
    assert await decide(paused=False) is None
    control = await decide(paused=True)
    assert control is not None
    assert (control.state, control.why, control.by) == (PAUSED, "operator", "ana")
    assert await decide(paused=True) is None
    assert len((await view(harness)).settled) == 1
    control = await decide(paused=False)
    assert control is not None
    assert (control.state, control.why, control.by) == (RUNNING, None, "ana")
    assert (await view(harness)).settled == ()  # known failures do not pause it again


async def test_what_a_person_is_told(harness: Harness) -> None:
    if not isinstance(harness, PostgresHarness):
        pytest.skip("people ask PostgreSQL")
    await harness.store.announce_release("r2")
    first, _ = await waiting(harness)
    second, _ = await waiting(harness)
    assert await PostgresRollouts(harness.engine).standing(await harness.user()) is None
    told = await PostgresRollouts(harness.engine).standing(second)
    assert told is not None
    assert (told.seat, told.why, len(told.view.waiting)) == (Seat("r2", "h2"), None, 2)
    await carry_out(harness, Plan((first, second), (), RUNNING))
    await harness.store.settle_seat(await lease(harness, first), ok=True)
    await harness.store.settle_seat(await lease(harness, second), ok=False, why=SeatWhy.PAIRING)
    told = await PostgresRollouts(harness.engine).standing(second)
    assert told is not None
    assert told.why is SeatWhy.PAIRING
    assert await PostgresRollouts(harness.engine).counts("r2") == {"ok": 1, "failed": 1}
    (took_s,) = await PostgresRollouts(harness.engine).durations()
    assert 0 <= took_s < 5


async def test_the_time_of_a_fleets_pause_is_not_a_moves(harness: Harness) -> None:
    await harness.store.announce_release("r2")
    user, _ = await waiting(harness)
    await carry_out(harness, Plan((user,), (), RUNNING))
    await asyncio.sleep(0.3)
    assert (await view(harness)).moving[0].for_s >= 0.3
    await harness.pause_fleet()
    await harness.pause_fleet(paused=False)
    assert (await view(harness)).moving[0].for_s < 0.3
