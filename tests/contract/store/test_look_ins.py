"""Looks into containers: marks, samples, logs; and the wish to restart one."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from core.domain.actions import ContainerStatus, Placed
from core.domain.log_lines import Position
from core.domain.look_ins import Look, What, lease_key
from core.errors import Conflict, StaleWrite
from core.store.interface import Lease, Written
from core.store.look_ins import LookIns
from core.store.notify import LOOK_INS, LOOKED
from tests.contract.store.harness import Harness

ALLOCATION, OTHER = str(uuid.UUID(int=0xA1)), str(uuid.UUID(int=0xA2))


async def claimed(harness: Harness, key: str) -> Lease:
    lease = await harness.store.claim(key, "one", 60)
    assert isinstance(lease, Lease)
    return lease


async def placed(harness: Harness, allocation: str | None = ALLOCATION) -> str:
    """A user whose container runs as `allocation`."""
    user_id = await harness.user()
    await harness.container(user_id)
    await seen(harness, user_id, allocation)
    return user_id


async def seen(harness: Harness, user_id: str, allocation: str | None) -> None:
    lease = await claimed(harness, user_id)
    status = ContainerStatus(phase="failing")
    if allocation is not None:
        port = 3100 + int(allocation == OTHER)
        where = Placed(allocation, str(uuid.UUID(int=1)), "host-1", "10.0.0.1", port)
        status = ContainerStatus(phase="booting", placed=where, allocation_id=allocation)
    assert isinstance(await harness.store.write_status(lease, status, {}, {}, 1), Written)
    await harness.store.release(lease)


async def test_a_mark_lasts_as_long_as_it_is_renewed(harness: Harness) -> None:
    user_id, look_ins = await placed(harness), harness.look_ins
    assert await look_ins.watched() == ()
    await look_ins.watch(user_id, What.STATS)
    await look_ins.watch(user_id, What.LOGS, ttl_s=0)
    assert await look_ins.watched() == (user_id,)
    assert await look_ins.look(user_id) == Look(ALLOCATION, ALLOCATION, frozenset({What.STATS}))
    await harness.age(31)
    assert await look_ins.watched() == ()
    assert await look_ins.look(user_id) == Look(ALLOCATION, ALLOCATION, frozenset())


async def test_a_shorter_mark_takes_nothing_from_a_longer_one(harness: Harness) -> None:
    user_id = await placed(harness)
    await harness.look_ins.watch(user_id, What.STATS, ttl_s=60)
    await harness.look_ins.watch(user_id, What.STATS, ttl_s=1)
    await harness.age(30)
    assert await harness.look_ins.watched() == (user_id,)


async def test_nobody_without_a_container_is_looked_into(harness: Harness) -> None:
    user_id, look_ins = await harness.user(), harness.look_ins
    await look_ins.watch(user_id, What.STATS)
    assert await look_ins.watched() == ()
    assert await look_ins.look(user_id) is None
    assert await look_ins.meter(user_id) is None
    assert await look_ins.log(user_id) is None
    lease = await claimed(harness, lease_key(user_id))
    await look_ins.write_stats(lease, user_id, ALLOCATION, 1.0, 2)
    assert await look_ins.meter(user_id) is None


async def test_daemons_are_told_when_nobody_samples(harness: Harness) -> None:
    user_id, look_ins = await placed(harness), harness.look_ins
    async with harness.listening(LOOK_INS) as heard:
        await look_ins.watch(user_id, What.STATS)
        assert await heard() == [user_id]
        lease = await claimed(harness, lease_key(user_id))
        await look_ins.write_stats(lease, user_id, ALLOCATION, 1.0, 2)
        await look_ins.watch(user_id, What.STATS)
        assert await heard() == [], "it is sampled"
        await look_ins.watch(user_id, What.LOGS)
        assert await heard() == [user_id], "its log is not"
        await harness.age(16)
        await look_ins.watch(user_id, What.STATS)
        assert await heard() == [user_id], "whoever sampled it is gone"


async def test_the_newest_sample_counts_while_it_is_young_and_of_what_runs(harness: Harness) -> None:
    user_id, look_ins = await placed(harness), harness.look_ins
    meter = await look_ins.meter(user_id)
    assert meter is not None
    assert (meter.allocation_id, meter.memory_limit_mb, meter.sample) == (ALLOCATION, 2048, None)
    lease = await claimed(harness, lease_key(user_id))
    async with harness.listening(LOOKED) as heard:
        await look_ins.write_stats(lease, user_id, ALLOCATION, 1.5, 2048)
        await look_ins.write_stats(lease, user_id, ALLOCATION, 2.5, 4096)
        assert await heard() == [user_id, user_id]
    meter = await look_ins.meter(user_id)
    assert meter is not None
    assert meter.sample is not None
    assert (meter.sample.cpu_percent, meter.sample.memory_bytes) == (2.5, 4096)
    await seen(harness, user_id, OTHER)
    moved = await look_ins.meter(user_id)
    assert moved is not None
    assert (moved.allocation_id, moved.sample) == (OTHER, None)
    await seen(harness, user_id, ALLOCATION)
    await harness.age(16)
    old = await look_ins.meter(user_id)
    assert old is not None
    assert old.sample is None
    assert old.newest is not None


async def test_a_log_is_replaced_and_read_from_a_line_on(harness: Harness) -> None:
    user_id, look_ins = await placed(harness), harness.look_ins
    lease = await claimed(harness, lease_key(user_id))
    at = {"stdout": Position(0, 10), "stderr": Position(1, 5, clean=False)}
    lines = ("one", "", "três \N{WAVING HAND SIGN}")
    await look_ins.write_log(lease, user_id, ALLOCATION, "waha_plus", lines, 7, at)
    found = await look_ins.log(user_id)
    assert found is not None
    assert (found.allocation_id, found.lines, found.last_line) == (ALLOCATION, lines, 7)
    assert found.positions == at
    assert found.after(5) == lines[1:]
    assert found.after(7) == ()
    assert found.after(0) == lines
    unread = await look_ins.log(user_id, after=7)
    assert unread is not None
    assert (unread.lines, unread.last_line) == ((), 7)
    newer = await look_ins.log(user_id, after=6)
    assert newer is not None
    assert newer.lines == lines
    await harness.age(100)
    await look_ins.write_log(lease, user_id, ALLOCATION, "waha_plus", None, 7, at)
    again = await look_ins.log(user_id)
    assert again is not None
    assert (again.lines, again.last_line) == (lines, 7)
    assert again.age_s < 60


async def test_the_log_of_what_ran_last_is_looked_at_when_nothing_runs(harness: Harness) -> None:
    user_id = await placed(harness)
    await seen(harness, user_id, None)
    assert await harness.look_ins.look(user_id) == Look(None, ALLOCATION, frozenset())


async def test_whoever_lost_the_look_writes_nothing(harness: Harness) -> None:
    user_id, look_ins = await placed(harness), harness.look_ins
    lease = await claimed(harness, lease_key(user_id))
    await harness.expire(lease)
    assert isinstance(await harness.store.claim(lease_key(user_id), "two", 60), Lease)
    with pytest.raises(StaleWrite):
        await look_ins.write_stats(lease, user_id, ALLOCATION, 1.0, 2)
    with pytest.raises(StaleWrite):
        await look_ins.write_log(lease, user_id, ALLOCATION, "waha_plus", ("x",), 1, {})
    assert await look_ins.log(user_id) is None


async def test_what_is_old_is_forgotten(harness: Harness) -> None:
    user_id, look_ins = await placed(harness), harness.look_ins
    lease = await claimed(harness, lease_key(user_id))
    await look_ins.watch(user_id, What.STATS)
    await look_ins.write_stats(lease, user_id, ALLOCATION, 1.0, 2)
    await look_ins.write_log(lease, user_id, ALLOCATION, "waha_plus", ("x",), 1, {})
    assert await look_ins.forget(600) == 0
    await harness.age(700)
    assert await look_ins.forget(600) == 3
    assert await look_ins.log(user_id) is None


async def test_everything_goes_with_the_container(harness: Harness) -> None:
    user_id, look_ins = await placed(harness), harness.look_ins
    lease = await claimed(harness, lease_key(user_id))
    await look_ins.watch(user_id, What.LOGS)
    await look_ins.write_stats(lease, user_id, ALLOCATION, 1.0, 2)
    await look_ins.write_log(lease, user_id, ALLOCATION, "waha_plus", ("x",), 1, {})
    assert await harness.store.remove_container(await claimed(harness, user_id))
    await harness.container(user_id)
    assert await look_ins.log(user_id) is None
    assert await look_ins.watched() == ()
    meter = await look_ins.meter(user_id)
    assert meter is not None
    assert meter.newest is None


# --- the wish to restart


async def restart_columns(harness: Harness, user_id: str) -> tuple[object, ...]:
    columns = await harness.container_columns(user_id)
    assert columns is not None
    names = ("restart_generation", "restart_allocation_id", "restarted_generation", "restart_mark")
    return tuple(columns[name] for name in names)


async def test_a_restart_is_wished_of_what_runs_and_answered_once(harness: Harness) -> None:
    user_id = await placed(harness)
    wish = await harness.restart(user_id)
    assert wish == 2
    assert await restart_columns(harness, user_id) == (2, ALLOCATION, 0, None)
    snapshot = await harness.store.load(user_id)
    assert snapshot is not None
    row = snapshot.container
    assert (row.generation, row.restart_generation, row.restart_allocation) == (2, 2, ALLOCATION)
    assert await harness.restart(user_id) == 2, "it is not answered yet, and stands for this one too"
    lease = await claimed(harness, user_id)
    await harness.store.record_restart_begun(lease, 3)
    assert await restart_columns(harness, user_id) == (2, ALLOCATION, 0, 3)
    await harness.store.record_restarted(lease, 2)
    assert await restart_columns(harness, user_id) == (2, ALLOCATION, 2, None)
    assert await harness.restart(user_id) == 3
    await harness.store.record_restart_begun(lease, 4)
    status = ContainerStatus(phase="booting", allocation_id=ALLOCATION, restarted_generation=3)
    await harness.store.write_status(lease, status, {}, {}, 3)
    assert await restart_columns(harness, user_id) == (3, ALLOCATION, 3, None)


async def test_there_is_nothing_to_restart_where_nothing_is_placed(harness: Harness) -> None:
    user_id = await placed(harness, None)
    with pytest.raises(Conflict) as refused:
        await harness.restart(user_id)
    assert refused.value.code == "container_not_placed"
    assert await harness.restart(await harness.user()) is None
    assert await restart_columns(harness, user_id) == (0, None, 0, None)


@pytest.mark.parametrize(
    "record",
    [
        lambda store, lease: store.record_restart_begun(lease, 1),
        lambda store, lease: store.record_restarted(lease, 1),
    ],
    ids=["begun", "done"],
)
async def test_whoever_lost_the_lease_records_no_restart(
    harness: Harness, record: Callable[..., object]
) -> None:
    user_id = await placed(harness)
    lease = await claimed(harness, user_id)
    await harness.expire(lease)
    assert isinstance(await harness.store.claim(user_id, "two", 60), Lease)
    with pytest.raises(StaleWrite):
        await record(harness.store, lease)  # type: ignore[misc]
    assert await restart_columns(harness, user_id) == (0, None, 0, None)


def test_the_contract_is_the_protocol_s() -> None:
    named = {name for name in vars(LookIns) if not name.startswith("_")}
    assert named == {
        *("watch", "meter", "log", "watched", "look", "write_stats", "write_log", "forget"),
    }
