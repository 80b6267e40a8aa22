"""Labels: who gets which, when it changes, and what is kept of its exits."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from core.domain.actions import ContainerStatus
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from core.domain.quota import GIB
from core.domain.routes import TROUBLE_FOR, ChipRoute, LabelWhy, NoRoute, Reading, rotation
from core.errors import StaleWrite
from core.store.interface import Lease
from core.store.upstreams import EXIT_KNOWN_S
from tests.contract.store.harness import Exit, Harness

EXIT, OTHER_EXIT = "203.0.113.7", "203.0.113.8"
FAILED = Reading(None, EgressError.NO_PEER)


async def claimed(harness: Harness, user: str, owner: str = "d1") -> Lease:
    lease = await harness.store.claim(user, owner, 60)
    assert isinstance(lease, Lease)
    return lease


async def chips(harness: Harness, count: int) -> tuple[Lease, list[str]]:
    """Chips of one user, oldest first, with the user's lease."""
    user = await harness.user()
    made = [await harness.chip(user) for _ in range(count)]
    return await claimed(harness, user), made


async def given(harness: Harness, lease: Lease, chip: str, why: LabelWhy = LabelWhy.FIRST) -> ChipRoute:
    route = await harness.store.assign_label(lease, chip, why)
    assert isinstance(route, ChipRoute), route
    assert await stored(harness, chip, lease.key) == route
    return route


async def stored(harness: Harness, chip: str, user: str) -> ChipRoute | None:
    snapshot = await harness.store.load(user)
    assert snapshot is not None
    return next(one.route for one in snapshot.chips if one.id == chip)


async def read(harness: Harness, lease: Lease, chip: str, reading: Reading | str) -> ChipRoute:
    """The label is looked through: an address is a look that succeeded."""
    seen = Reading(reading, None) if isinstance(reading, str) else reading
    route = await stored(harness, chip, lease.key)
    assert route is not None
    await harness.store.record_reading(lease, chip, route.generation, seen)
    found = await stored(harness, chip, lease.key)
    assert found is not None
    return found


async def test_a_first_label(harness: Harness) -> None:
    lease, (chip, other) = await chips(harness, 2)
    assert await stored(harness, chip, lease.key) is None
    await harness.provider("local")
    sub_user = await harness.sub_user("local", "ana")
    before = await harness.now()
    route = await given(harness, lease, chip)
    assert (route.provider, route.sub_user_id, route.generation) == ("local", sub_user, 1)
    assert len(route.label) == 12
    assert before - timedelta(seconds=1) <= route.assigned_at
    assert (route.checked_at, route.exit_ip, route.failure, route.unusable) == (None, None, None, None)
    assert not route.released | route.requested | route.shares_exit | route.others_work
    assert await stored(harness, other, lease.key) is None
    upstream = await harness.store.upstream(chip)
    assert upstream == Upstream(
        "socks5", "proxy.invalid", 1080, f"ana-{route.label}", "secret of ana", "generic"
    )
    assert await harness.store.upstream(other) == NoRoute(EgressError.NO_UPSTREAM)


async def test_the_address_of_a_provider_stands_before_its_templates(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    await harness.change_provider("local", host="127.0.0.1", port=1081)
    await given(harness, lease, chip)
    upstream = await harness.store.upstream(chip)
    assert isinstance(upstream, Upstream)
    assert (upstream.host, upstream.port) == ("127.0.0.1", 1081)


async def test_labels_are_spread_over_sub_users_by_fewest_live_ones(harness: Harness) -> None:
    lease, made = await chips(harness, 6)
    await harness.provider("local")
    sub_users = [await harness.sub_user("local", f"u{n}") for n in range(3)]
    routes = [await given(harness, lease, chip) for chip in made]
    assert sorted(route.sub_user_id for route in routes) == sorted(2 * sub_users)
    assert len({route.label for route in routes}) == 6
    emptied = routes[0].sub_user_id
    for chip, route in zip(made, routes, strict=True):
        if route.sub_user_id == emptied:
            await harness.store.release_label(lease, chip)
    later = await harness.chip(lease.key)
    assert (await given(harness, lease, later)).sub_user_id == emptied


async def test_a_full_sub_user_gets_no_more(harness: Harness) -> None:
    lease, made = await chips(harness, 4)
    await harness.provider("local")
    small = await harness.sub_user("local", "small", max_labels=1)
    large = await harness.sub_user("local", "large", max_labels=2)
    routes = [await given(harness, lease, chip) for chip in made[:3]]
    assert sorted(route.sub_user_id for route in routes) == sorted([small, large, large])
    refused = await harness.store.assign_label(lease, made[3], LabelWhy.FIRST)
    assert refused == NoRoute(EgressError.THREADS_EXHAUSTED)
    assert await stored(harness, made[3], lease.key) is None
    # A chip's own label does not count against it.
    assert (await given(harness, lease, made[0], LabelWhy.FAILING)).generation == 2
    await harness.store.release_label(lease, made[1])
    assert (await given(harness, lease, made[3])).sub_user_id == routes[1].sub_user_id


async def test_many_at_once_never_overfill_a_sub_user(harness: Harness) -> None:
    """Passes of several users at the same time."""
    await harness.provider("local")
    await harness.sub_user("local", "ana", max_labels=3)
    each = [await chips(harness, 1) for _ in range(6)]
    answers = await asyncio.gather(
        *(harness.store.assign_label(lease, chip, LabelWhy.FIRST) for lease, (chip,) in each)
    )
    assert sum(isinstance(one, ChipRoute) for one in answers) == 3
    assert [one for one in answers if isinstance(one, NoRoute)] == 3 * [
        NoRoute(EgressError.THREADS_EXHAUSTED)
    ]


@pytest.mark.parametrize(
    ("provider", "sub_user", "why"),
    [
        ({"enabled": False}, {}, EgressError.NO_UPSTREAM),
        ({"is_default": False}, {}, EgressError.NO_UPSTREAM),
        ({}, {"enabled": False}, EgressError.NO_UPSTREAM),
        ({"template": "none such"}, {}, EgressError.NO_UPSTREAM),
    ],
)
async def test_nothing_to_go_out_through(
    harness: Harness, provider: dict[str, Any], sub_user: dict[str, Any], why: EgressError
) -> None:
    lease, (chip,) = await chips(harness, 1)
    assert await harness.store.assign_label(lease, chip, LabelWhy.FIRST) == NoRoute(why)
    await harness.provider("local")
    assert await harness.store.assign_label(lease, chip, LabelWhy.FIRST) == NoRoute(why)
    made = await harness.sub_user("local", "ana")
    if provider:
        await harness.change_provider("local", **provider)
    if sub_user:
        await harness.change_sub_user(made, **sub_user)
    assert await harness.store.assign_label(lease, chip, LabelWhy.FIRST) == NoRoute(why)
    assert await stored(harness, chip, lease.key) is None


async def test_a_label_moves_when_its_sub_user_or_provider_is_no_more(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    await harness.provider("local")
    first = await harness.sub_user("local", "ana")
    await given(harness, lease, chip)
    await harness.change_sub_user(first, enabled=False)
    route = await stored(harness, chip, lease.key)
    assert route is not None
    assert route.unusable is EgressError.NO_UPSTREAM
    assert rotation(route, await harness.now()) is LabelWhy.MOVED
    assert await harness.store.upstream(chip) == NoRoute(EgressError.NO_UPSTREAM)
    # Nowhere to go: the label stays as it is.
    assert isinstance(await harness.store.assign_label(lease, chip, LabelWhy.MOVED), NoRoute)
    assert await stored(harness, chip, lease.key) == route
    second = await harness.sub_user("local", "bia")
    moved = await given(harness, lease, chip, LabelWhy.MOVED)
    assert (moved.sub_user_id, moved.generation, moved.unusable) == (second, 2, None)
    assert moved.label != route.label
    await harness.remove_sub_user(second)
    gone = await stored(harness, chip, lease.key)
    assert gone is not None
    assert gone.unusable is EgressError.NO_UPSTREAM
    await harness.change_provider("local", enabled=False, is_default=False)
    await harness.provider("other")
    third = await harness.sub_user("other", "ana")
    moved = await given(harness, lease, chip, LabelWhy.MOVED)
    assert (moved.provider, moved.sub_user_id, moved.generation) == ("other", third, 3)


async def test_trouble_counts_for_a_while(harness: Harness) -> None:
    lease, (chip, late) = await chips(harness, 2)
    await harness.provider("local")
    sub_user = await harness.sub_user("local", "ana")
    route = await given(harness, lease, chip)
    now = await harness.now()
    await harness.change_sub_user(sub_user, trouble=EgressError.PROXY_AUTH, trouble_at=now)
    troubled = await stored(harness, chip, lease.key)
    assert troubled is not None
    assert troubled.unusable is EgressError.PROXY_AUTH
    assert rotation(troubled, now) is None
    assert await harness.store.upstream(chip) == NoRoute(EgressError.PROXY_AUTH)
    refused = await harness.store.assign_label(lease, late, LabelWhy.FIRST)
    assert refused == NoRoute(EgressError.PROXY_AUTH)
    await harness.change_provider("local", trouble=EgressError.TRAFFIC_EXHAUSTED, trouble_at=now)
    troubled = await stored(harness, chip, lease.key)
    assert troubled is not None
    assert troubled.unusable is EgressError.TRAFFIC_EXHAUSTED  # of the whole provider first
    refused = await harness.store.assign_label(lease, late, LabelWhy.FIRST)
    assert refused == NoRoute(EgressError.TRAFFIC_EXHAUSTED)
    await harness.age(TROUBLE_FOR.total_seconds() + 1)
    healed = await stored(harness, chip, lease.key)
    assert healed is not None
    assert (healed.unusable, healed.label) == (None, route.label)
    await given(harness, lease, late)


async def test_beyond_the_plans_traffic_nothing_is_carried(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    stranger, (other,) = await chips(harness, 1)
    await harness.provider("local")
    sub_user = await harness.sub_user("local", "ana")
    route = await given(harness, lease, chip)
    await given(harness, stranger, other)
    await harness.uses(lease.key, 3 * GIB // 2)
    await harness.uses(stranger.key, 9 * GIB)
    assert await stored(harness, chip, lease.key) == route  # without a limit all is well
    await harness.limit_traffic(lease.key, Decimal(2))
    assert await stored(harness, chip, lease.key) == route
    await harness.uses(lease.key, GIB // 2)
    used_up = await stored(harness, chip, lease.key)
    assert used_up == msgspec.structs.replace(route, unusable=EgressError.QUOTA)
    assert rotation(used_up, await harness.now()) is None
    assert await harness.store.upstream(chip) == NoRoute(EgressError.QUOTA)
    assert isinstance(await harness.store.upstream(other), Upstream)
    await harness.change_sub_user(sub_user, enabled=False)
    gone = await stored(harness, chip, lease.key)
    assert gone is not None
    assert gone.unusable is EgressError.NO_UPSTREAM


async def test_a_sub_user_in_trouble_is_passed_over(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    await harness.provider("local")
    troubled, well = [await harness.sub_user("local", login) for login in ("ana", "bia")]
    trouble = {"trouble": EgressError.THREADS_EXHAUSTED, "trouble_at": await harness.now()}
    await harness.change_sub_user(troubled, **trouble)
    assert (await given(harness, lease, chip)).sub_user_id == well


async def test_generations_rise_when_asked_and_labels_with_them(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    first = await given(harness, lease, chip)
    await harness.request_label(chip)
    asked = await stored(harness, chip, lease.key)
    assert asked is not None
    assert asked.requested
    second = await given(harness, lease, chip, LabelWhy.REQUESTED)
    assert (second.generation, second.requested) == (2, False)
    assert second.label != first.label
    third = await given(harness, lease, chip, LabelWhy.SHARED_EXIT)
    assert third.generation == 3


async def test_a_released_label_is_taken_up_again(harness: Harness) -> None:
    lease, (chip, other) = await chips(harness, 2)
    await harness.provider("local")
    await harness.sub_user("local", "ana", max_labels=1)
    await given(harness, lease, chip)
    first = await read(harness, lease, chip, EXIT)
    await harness.store.release_label(lease, chip)
    await harness.store.release_label(lease, other)  # never had one
    released = await stored(harness, chip, lease.key)
    assert released is not None
    assert released.released
    assert released.unusable is None
    assert await harness.store.upstream(chip) == NoRoute(EgressError.NO_UPSTREAM)
    again = await given(harness, lease, chip)
    assert again == first
    await harness.store.release_label(lease, chip)
    await given(harness, lease, other)
    refused = await harness.store.assign_label(lease, chip, LabelWhy.FIRST)
    assert refused == NoRoute(EgressError.THREADS_EXHAUSTED)
    elsewhere = await harness.sub_user("local", "bia")
    moved = await given(harness, lease, chip)
    assert (moved.sub_user_id, moved.generation, moved.released) == (elsewhere, 2, False)


async def test_another_label_asked_for_while_released_comes_at_the_return(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    await given(harness, lease, chip)
    await harness.store.release_label(lease, chip)
    await harness.request_label(chip)
    again = await given(harness, lease, chip, LabelWhy.REQUESTED)
    assert (again.generation, again.requested, again.released) == (2, False, False)


async def test_no_two_live_labels_of_a_provider_are_the_same(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label of few characters may be another's by chance: then its chip takes the next one."""
    monkeypatch.setattr("core.domain.labels.label", lambda _, chip, generation: f"same{generation}")
    lease, (one, two) = await chips(harness, 2)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    first = await given(harness, lease, one)
    second = await given(harness, lease, two)
    assert (first.label, second.label, second.generation) == ("same1", "same2", 2)
    third = await given(harness, lease, one, LabelWhy.FAILING)
    assert third.label == "same3"
    # Only live ones count, and a label that somebody took meanwhile is not taken up again.
    await harness.store.release_label(lease, two)
    three = await harness.chip(lease.key)
    assert [(await given(harness, lease, three)).label] == ["same1"]
    assert (await given(harness, lease, three, LabelWhy.FAILING)).label == "same2"
    assert (await given(harness, lease, two)).label == "same4"


async def test_an_exit_is_kept_until_it_changes(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    first = await given(harness, lease, chip)
    seen = await read(harness, lease, chip, EXIT)
    assert (seen.exit_ip, seen.failure, seen.failures) == (EXIT, None, 0)
    assert seen.exit_at is not None
    assert seen.checked_at is not None
    [until] = await harness.seen_until(chip)
    await asyncio.sleep(0.01)
    await read(harness, lease, chip, EXIT)
    [moved] = await harness.seen_until(chip)
    assert moved > until
    await read(harness, lease, chip, OTHER_EXIT)
    await read(harness, lease, chip, FAILED)
    second = await given(harness, lease, chip, LabelWhy.REQUESTED)
    assert (second.exit_ip, second.checked_at) == (None, None)
    await read(harness, lease, chip, OTHER_EXIT)
    assert await harness.exits(chip) == [
        Exit("local", first.label, 1, EXIT, "first"),
        Exit("local", first.label, 1, OTHER_EXIT, "provider"),
        Exit("local", second.label, 2, OTHER_EXIT, "requested"),
    ]


async def test_failures_count_until_one_succeeds(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    await given(harness, lease, chip)
    await read(harness, lease, chip, EXIT)
    for failures in (1, 2):
        route = await read(harness, lease, chip, FAILED)
        assert (route.failures, route.failure, route.exit_ip) == (failures, EgressError.NO_PEER, EXIT)
        assert not route.others_work
    assert (await read(harness, lease, chip, EXIT)).failures == 0
    assert len(await harness.exits(chip)) == 1


async def test_whether_others_work_meanwhile(harness: Harness) -> None:
    lease, (chip, other, elsewhere) = await chips(harness, 3)
    await harness.provider("far")
    await harness.sub_user("far", "ana")
    await given(harness, lease, elsewhere)
    await harness.change_provider("far", is_default=False)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    await given(harness, lease, chip)
    await given(harness, lease, other)
    await read(harness, lease, other, EXIT)  # before this label began to fail: says nothing
    assert not (await read(harness, lease, chip, FAILED)).others_work
    await read(harness, lease, elsewhere, OTHER_EXIT)
    assert not (await read(harness, lease, chip, FAILED)).others_work
    await read(harness, lease, other, EXIT)
    assert (await read(harness, lease, chip, FAILED)).others_work
    assert not (await read(harness, lease, chip, OTHER_EXIT)).others_work


async def test_who_has_an_exit_that_another_had_first(harness: Harness) -> None:
    lease, (first, second) = await chips(harness, 2)
    stranger, (third,) = await chips(harness, 1)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    for whose, chip in ((lease, first), (lease, second), (stranger, third)):
        await given(harness, whose, chip)
        await read(harness, whose, chip, EXIT)
        await asyncio.sleep(0.01)

    async def sharing() -> list[bool]:
        routes = [await stored(harness, *one) for one in _of(lease, first, second)]
        routes.append(await stored(harness, third, stranger.key))
        return [route.shares_exit for route in routes if route is not None]

    assert await sharing() == [False, True, True]
    await read(harness, lease, first, EXIT)  # still the first one
    assert await sharing() == [False, True, True]
    await harness.store.release_label(lease, first)
    assert await sharing() == [False, False, True]
    await given(harness, lease, first)  # whoever has it by now had it before
    assert await sharing() == [True, False, True]
    await read(harness, lease, second, OTHER_EXIT)
    assert await sharing() == [True, False, False]
    await harness.age(EXIT_KNOWN_S + 1)
    assert await sharing() == [False, False, False]


def _of(lease: Lease, *found: str) -> list[tuple[str, str]]:
    return [(chip, lease.key) for chip in found]


async def test_a_look_through_an_older_label_counts_for_nothing(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    await given(harness, lease, chip)
    second = await given(harness, lease, chip, LabelWhy.REQUESTED)
    await harness.store.record_reading(lease, chip, 1, Reading(EXIT, None))
    assert await stored(harness, chip, lease.key) == second
    await harness.store.release_label(lease, chip)
    await harness.store.record_reading(lease, chip, 2, Reading(EXIT, None))
    released = await stored(harness, chip, lease.key)
    assert released is not None
    assert released.checked_at is None
    assert await harness.exits(chip) == []


async def test_only_who_holds_the_lease_writes(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    stranger, _ = await chips(harness, 1)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    route = await given(harness, lease, chip)
    with pytest.raises(StaleWrite):
        await harness.store.assign_label(stranger, chip, LabelWhy.MOVED)
    await harness.store.release_label(stranger, chip)
    await harness.store.record_reading(stranger, chip, 1, Reading(EXIT, None))
    assert await stored(harness, chip, lease.key) == route
    await harness.expire(lease)
    await claimed(harness, lease.key, "d2")
    with pytest.raises(StaleWrite):
        await harness.store.assign_label(lease, chip, LabelWhy.MOVED)
    with pytest.raises(StaleWrite):
        await harness.store.release_label(lease, chip)
    with pytest.raises(StaleWrite):
        await harness.store.record_reading(lease, chip, 1, Reading(EXIT, None))
    assert await stored(harness, chip, lease.key) == route


async def test_a_label_goes_with_its_chip(harness: Harness) -> None:
    lease, (chip, other) = await chips(harness, 2)
    await harness.provider("local")
    await harness.sub_user("local", "ana", max_labels=1)
    await given(harness, lease, chip)
    assert isinstance(await harness.store.assign_label(lease, other, LabelWhy.FIRST), NoRoute)
    generation = await harness.wish(chip, "deleted")
    await harness.store.write_status(lease, ContainerStatus(phase="ready"), {}, {}, generation)
    await harness.store.remove_chip(lease, chip, generation)
    await given(harness, lease, other)
    assert await harness.store.upstream(chip) == NoRoute(EgressError.NO_UPSTREAM)


async def test_exits_are_forgotten_long_after_they_were_seen_last(harness: Harness) -> None:
    lease, (chip,) = await chips(harness, 1)
    await harness.provider("local")
    await harness.sub_user("local", "ana")
    await given(harness, lease, chip)
    for exit_ip in (EXIT, OTHER_EXIT, EXIT):
        await read(harness, lease, chip, exit_ip)
    await harness.age(1000)
    await read(harness, lease, chip, EXIT)
    fleet = await harness.store.claim("fleet", "d1", 60)
    assert isinstance(fleet, Lease)
    house = harness.housekeeping
    assert await house.prune_exits(fleet, older_than_s=2000) == 0
    assert await house.prune_exits(fleet, older_than_s=500, limit=1) == 1
    assert await house.prune_exits(fleet, older_than_s=500) == 1
    assert [line.exit_ip for line in await harness.exits(chip)] == [EXIT]
    with pytest.raises(StaleWrite):
        await house.prune_exits(msgspec.structs.replace(fleet, token=99), older_than_s=500)
