"""Leases in virtual time: what is counted from when, what closes what, and what is said to the API."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Ask, Renew, Renewed, Route, Upstream
from core.errors import Rejected, Unavailable
from core.settings_guard import lease_problems
from egress.leases import Lease, Leases, Times
from tests.unit.daemon.virtual import run_virtual
from tests.unit.egress.fakes import ALLOCATION, CHIP, NODE, OTHER, FakeApi, route

TIMES = Times(ttl_s=90, renew_s=10, margin_s=20)


class Open:
    """Something that is open under a lease; notes when it was closed and what had been confirmed by then."""

    def __init__(self, api: FakeApi, opened_by: Route | None = None) -> None:
        self.route = opened_by or route()
        self.closed_at: float | None = None
        self.closed = asyncio.Event()
        self.breaks_api = False
        self._api = api
        self.confirmed_before: list[Ask] = []

    def abort(self) -> None:
        assert self.closed_at is None
        self.closed_at = now()
        self.confirmed_before = self._api.closed
        self.closed.set()
        if self.breaks_api:
            self._api.failure = Unavailable("api", "away")


def now() -> float:
    return asyncio.get_running_loop().time()


class Case:
    def __init__(self, times: Times = TIMES) -> None:
        self.api = FakeApi()
        self.skew_s = 0.0  # how much further the boot clock is than the loop's: the machine slept
        self.leases = Leases(self.api, times, NODE, lambda: now() + self.skew_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.leases.run())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def held(self, allocation_id: str = ALLOCATION, grant: int = 1) -> tuple[Lease, Open]:
        self.api.current[allocation_id] = grant
        self.api.routes.append(route(allocation_id))
        lease = await self.leases.of(allocation_id)
        assert lease is not None
        tunnel = Open(self.api)
        lease.open.add(tunnel)
        return lease, tunnel


def scenario(test: Callable[[Case], Awaitable[None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        async def inside() -> None:
            case = Case()
            async with case.running():
                await test(case)

        run_virtual(inside())

    del run.__wrapped__
    return run


@scenario
async def test_an_allocation_that_is_not_known_is_asked_for_at_once_by_all_its_chips_together(
    w: Case,
) -> None:
    await asyncio.sleep(3)
    w.api.current = {ALLOCATION: 4, OTHER: 5}
    w.api.routes = [route(), route(OTHER)]
    before = len(w.api.heard)
    found = await asyncio.gather(*(w.leases.of(id_) for id_ in [ALLOCATION] * 10 + [OTHER] * 10))
    assert now() == 3
    assert all(lease is not None for lease in found)
    assert len(w.api.heard) - before == 1
    assert set(w.api.heard[-1].asks) == {Ask(ALLOCATION), Ask(OTHER)}
    lease = w.leases.find(ALLOCATION)
    assert lease is not None
    assert lease.routes == {CHIP: route()}
    assert lease.grant == 4
    assert w.leases.held == 2


@scenario
async def test_one_batch_a_period_asks_for_everything_under_the_grants_that_are_held(w: Case) -> None:
    await w.held(ALLOCATION, 4)
    await w.held(OTHER, 5)
    heard = len(w.api.heard)
    await asyncio.sleep(3 * TIMES.period_s + 0.1)
    batches = w.api.heard[heard:]
    assert [renew.asks for renew in batches] == [(Ask(ALLOCATION, 4), Ask(OTHER, 5))] * 3
    assert w.api.at[heard:] == pytest.approx([TIMES.period_s * count for count in (1, 2, 3)])
    numbers = [renew.sent_no for renew in w.api.heard]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {renew.node_id for renew in w.api.heard} == {NODE}


@scenario
async def test_a_lease_is_counted_from_when_it_was_asked_for_and_not_from_the_answer(w: Case) -> None:
    w.api.held_up = lambda: asyncio.ensure_future(asyncio.sleep(2))
    lease, _ = await w.held()
    assert now() == pytest.approx(2)
    assert lease.deadline == pytest.approx(0 + 90 - 20)


@scenario
async def test_what_is_open_is_closed_at_the_deadline_when_the_api_is_away(w: Case) -> None:
    lease, tunnel = await w.held()
    w.api.failure = Unavailable("api", "away")
    await asyncio.sleep(69.9)
    assert tunnel.closed_at is None
    assert w.leases.holds(lease)
    await asyncio.sleep(0.2)
    assert tunnel.closed_at == pytest.approx(70, abs=0.01)
    assert not w.leases.holds(lease)
    assert w.leases.ran_out == 1
    assert await w.leases.of(ALLOCATION) is None
    w.api.failure = None
    await asyncio.sleep(1.1)  # it tries again after a part of a period
    assert Ask(ALLOCATION, 1) in w.api.closed  # so whoever moved meanwhile need not wait
    assert await w.leases.of(ALLOCATION) is lease
    assert w.api.heard[-1].asks == (Ask(ALLOCATION),)  # by a number that ran out nothing is asked for


@scenario
async def test_a_lease_that_runs_out_while_it_is_renewed_is_not_told_closed(w: Case) -> None:
    lease, tunnel = await w.held()
    w.api.failure = Unavailable("api", "away")
    await asyncio.sleep(68)
    w.api.failure = None
    w.api.held_up = lambda: asyncio.ensure_future(asyncio.sleep(2.4))
    await asyncio.sleep(2.1)
    assert tunnel.closed_at is not None
    await asyncio.sleep(1)
    w.api.held_up = None
    assert w.leases.holds(lease)
    assert lease.grant == 1
    await asyncio.sleep(20)
    assert w.api.closed == []
    assert w.leases.holds(lease)


@scenario
async def test_an_api_that_is_away_for_a_minute_closes_nothing_however_its_requests_fail(w: Case) -> None:
    _, tunnel = await w.held()
    for wait_s in (0.01, 3.0, 6.4, 6.49, 6.51, 9.0):
        for hangs in (False, True):
            await asyncio.sleep(20 + wait_s)
            w.api.failure = None if hangs else Unavailable("api", "away")
            w.api.held_up = asyncio.get_running_loop().create_future if hangs else None
            await asyncio.sleep(60)
            w.api.failure, w.api.held_up = None, None
            await asyncio.sleep(4)
            assert tunnel.closed_at is None


@given(st.floats(30, 90), st.floats(0.05, 1), st.floats(0, 30), st.booleans())
def test_an_api_that_is_away_for_what_the_figures_leave_closes_nothing(
    ttl_s: float, share: float, wait_s: float, hangs: bool
) -> None:
    margin_s = 0.19 * ttl_s + 1
    times = Times(ttl_s, (ttl_s - margin_s) / 4 * share, margin_s)

    async def go() -> None:
        w = Case(times)
        w.api.ttl_s = ttl_s
        async with w.running():
            _, tunnel = await w.held()
            await asyncio.sleep(wait_s)
            w.api.failure = None if hangs else Unavailable("api", "away")
            w.api.held_up = asyncio.get_running_loop().create_future if hangs else None
            await asyncio.sleep(times.ttl_s - times.margin_s - times.renew_s)
            w.api.failure, w.api.held_up = None, None
            await asyncio.sleep(times.renew_s)
            assert tunnel.closed_at is None

    run_virtual(go())


@scenario
async def test_an_answer_that_never_comes_is_waited_for_five_seconds_and_others_go_on(w: Case) -> None:
    lease, tunnel = await w.held()
    w.api.held_up = lambda: asyncio.get_running_loop().create_future()
    await asyncio.sleep(30)
    w.api.held_up = None
    await asyncio.sleep(10)
    assert tunnel.closed_at is None
    assert w.leases.holds(lease)
    assert w.leases.failures >= 2


@scenario
async def test_a_machine_that_slept_holds_nothing_when_it_wakes(w: Case) -> None:
    lease, _ = await w.held()
    w.skew_s = 69.9
    assert w.leases.holds(lease)
    w.skew_s = 70.0
    assert not w.leases.holds(lease)  # before any timer has had its turn


@scenario
async def test_revoked_closes_first_confirms_then_and_confirms_until_it_was_heard(w: Case) -> None:
    _, tunnel = await w.held(grant=7)
    kept, other = await w.held(OTHER, 8)
    del w.api.current[ALLOCATION]
    heard = len(w.api.heard)
    tunnel.breaks_api = True
    await tunnel.closed.wait()
    closed_at = now()
    assert tunnel.confirmed_before == []
    await asyncio.sleep(8)
    told = [renew.closed for renew in w.api.heard[heard + 1 :]]
    assert len(told) >= 2  # at once, and again since nobody answered
    assert set(told) == {(Ask(ALLOCATION, 7),)}
    assert w.api.at[heard + 1] - closed_at < 0.02
    assert w.leases.unconfirmed == 1
    w.api.failure = None
    await asyncio.sleep(5)
    assert w.leases.unconfirmed == 0
    told_by_then = len(w.api.closed)
    await asyncio.sleep(25)
    assert len(w.api.closed) == told_by_then
    assert w.leases.holds(kept)
    assert other.closed_at is None
    assert Ask(ALLOCATION, 7) not in [ask for renew in w.api.heard[-2:] for ask in renew.asks]


@scenario
async def test_waiting_is_no_lease_is_said_once_and_is_asked_again_each_period(w: Case) -> None:
    w.api.waiting.add(ALLOCATION)
    with capture_logs() as said:
        assert await w.leases.of(ALLOCATION) is None
        heard = len(w.api.heard)
        await asyncio.sleep(21)
    assert [renew.asks for renew in w.api.heard[heard:]] == [(Ask(ALLOCATION),)] * 3
    assert [(one["event"], one["allocation_id"]) for one in said] == [("lease_waits", ALLOCATION)]
    w.api.current[ALLOCATION] = 3
    await asyncio.sleep(10)
    lease = w.leases.find(ALLOCATION)
    assert lease is not None
    assert w.leases.holds(lease)


@scenario
async def test_waiting_ends_a_lease_that_was_held(w: Case) -> None:
    _, tunnel = await w.held(grant=2)
    del w.api.current[ALLOCATION]
    w.api.waiting.add(ALLOCATION)
    await asyncio.sleep(11)
    assert tunnel.closed_at is not None
    assert Ask(ALLOCATION, 2) in w.api.closed


@scenario
async def test_who_was_refused_knocks_in_vain_for_a_second_and_is_asked_for_again_then(w: Case) -> None:
    assert await w.leases.of(ALLOCATION) is None
    heard = len(w.api.heard)
    await asyncio.sleep(0.5)
    w.api.current[ALLOCATION] = 1
    assert await w.leases.of(ALLOCATION) is None
    assert len(w.api.heard) == heard
    await asyncio.sleep(0.6)
    assert await w.leases.of(ALLOCATION) is not None
    assert len(w.api.heard) == heard + 1


@scenario
async def test_a_new_grant_means_that_somebody_may_have_spoken_in_between(w: Case) -> None:
    lease, tunnel = await w.held(grant=1)
    w.api.current[ALLOCATION] = 2
    await asyncio.sleep(11)
    assert tunnel.closed_at is not None
    assert lease.grant == 2
    assert w.leases.holds(lease)


@scenario
async def test_an_allocation_that_nobody_uses_is_given_back(w: Case) -> None:
    lease, tunnel = await w.held(grant=5)
    await asyncio.sleep(100)
    assert w.leases.find(ALLOCATION) is lease  # a tunnel is open
    lease.leave(tunnel, now())
    await asyncio.sleep(75)
    assert w.leases.find(ALLOCATION) is None
    assert Ask(ALLOCATION, 5) in w.api.closed
    assert w.leases.held == 0


@scenario
async def test_who_has_nothing_open_is_asked_for_more_often_and_gives_way_soon(w: Case) -> None:
    lease, tunnel = await w.held(grant=5)
    await w.held(OTHER, 6)
    await asyncio.sleep(20)
    heard = len(w.api.heard)
    lease.leave(tunnel, now())
    await asyncio.sleep(4.9)
    asked = [Ask(ALLOCATION, 5) in renew.asks for renew in w.api.heard[heard:]]
    assert sum(asked) in (5, 6)
    assert sum(Ask(OTHER, 6) in renew.asks for renew in w.api.heard[heard:]) <= 1
    del w.api.current[ALLOCATION]
    await asyncio.sleep(1.1)
    assert Ask(ALLOCATION, 5) in w.api.closed


@pytest.mark.parametrize(
    ("changed", "closes"),
    [
        (route(), False),
        (route(quota_left_bytes=0), False),
        (msgspec.structs.replace(route(), label_generation=2), True),
        (route(upstream=Upstream("socks5", "127.0.0.1", 1080, "login-other", "hunter2", "generic")), True),
        (route(upstream=None, why=EgressError.TRAFFIC_EXHAUSTED), True),
        (None, True),
    ],
)
def test_what_goes_another_way_than_its_route_is_closed(changed: Route | None, closes: bool) -> None:
    async def go() -> None:
        w = Case()
        async with w.running():
            lease, tunnel = await w.held()
            beside = Open(w.api, route(chip_id=OTHER))
            lease.open.add(beside)
            w.api.routes = [route(chip_id=OTHER), *([changed] if changed else [])]
            await asyncio.sleep(TIMES.period_s + 0.1)
            assert (tunnel.closed_at is not None) is closes
            assert beside.closed_at is None
            assert w.leases.holds(lease)
            assert w.api.closed == []

    run_virtual(go())


@scenario
async def test_a_life_longer_than_the_setting_is_not_believed_and_a_shorter_one_is(w: Case) -> None:
    w.api.ttl_s = 500
    lease, _ = await w.held()
    assert lease.deadline - now() == pytest.approx(70, abs=0.1)
    w.api.ttl_s = 30
    other, _ = await w.held(OTHER)
    assert other.deadline - now() == pytest.approx(10, abs=0.1)


@scenario
async def test_a_refused_key_ends_nothing_before_its_time(w: Case) -> None:
    _, tunnel = await w.held()
    w.api.failure = Rejected("api", "no")
    await asyncio.sleep(60)
    assert tunnel.closed_at is None
    await asyncio.sleep(11)
    assert tunnel.closed_at is not None


@scenario
async def test_at_its_end_a_guard_closes_and_gives_back(w: Case) -> None:
    _, tunnel = await w.held(grant=9)
    await w.leases.stop()
    assert tunnel.closed_at == now()
    assert tunnel.confirmed_before == []
    assert w.api.heard[-1] == Renew(NODE, w.api.heard[-1].sent_no, (), (Ask(ALLOCATION, 9),))
    assert w.leases.unconfirmed == 0


@scenario
async def test_an_answer_about_what_was_not_asked_gives_nothing(w: Case) -> None:
    real = w.api.renew

    async def more(renew: Renew) -> Renewed:
        found = await real(renew)
        other = await real(Renew(NODE, 0, (Ask(OTHER),)))
        return Renewed(found.answers + other.answers, found.routes)

    w.api.renew = more  # type: ignore[method-assign]
    w.api.current[OTHER] = 1
    await w.held()
    assert w.leases.find(OTHER) is None


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 40),
            st.sampled_from(["grant", "revoke", "wait", "away", "back", "slow", "fast", "knock", "sleep"]),
        ),
        max_size=25,
    )
)
def test_nothing_is_open_beyond_what_was_granted(steps: list[tuple[float, str]]) -> None:
    """Whatever happens: beyond ttl - margin after the last request that was granted, nothing is open or may be."""

    async def go() -> None:
        w = Case()
        granted_until = [-1.0]
        real = w.api.renew

        async def noted(renew: Renew) -> Renewed:
            sent_at = now() + w.skew_s
            granting = w.api.current.get(ALLOCATION) is not None and w.api.failure is None
            if granting and any(ask.allocation_id == ALLOCATION for ask in renew.asks):
                granted_until[0] = sent_at + 70
            return await real(renew)

        w.api.renew = noted  # type: ignore[method-assign]
        open_ones: list[Open] = []
        async with w.running():
            for wait_s, kind in steps:
                if kind == "grant":
                    w.api.current[ALLOCATION] = w.api.current.get(ALLOCATION, len(open_ones) + 1)
                elif kind in ("revoke", "wait"):
                    w.api.current.pop(ALLOCATION, None)
                    (w.api.waiting.add if kind == "wait" else w.api.waiting.discard)(ALLOCATION)
                elif kind in ("away", "back"):
                    w.api.failure = Unavailable("api", "away") if kind == "away" else None
                elif kind == "slow":
                    w.api.held_up = lambda: asyncio.ensure_future(asyncio.sleep(3))
                elif kind == "fast":
                    w.api.held_up = None
                elif kind == "sleep":
                    w.skew_s += wait_s
                else:
                    lease = await w.leases.of(ALLOCATION)
                    if lease is not None:
                        open_ones.append(Open(w.api))
                        lease.open.add(open_ones[-1])
                until = now() + wait_s
                while now() < until:
                    await asyncio.sleep(min(0.5, until - now()))
                    boot, lease = now() + w.skew_s, w.leases.find(ALLOCATION)
                    if lease is not None and w.leases.holds(lease):
                        assert boot < granted_until[0] + 0.001
                    # The timer counts the loop's own time, so what the machine slept delays it.
                    late_s = w.skew_s + 0.01
                    if boot > granted_until[0] + late_s:
                        assert all(one.closed_at is not None for one in open_ones)

    run_virtual(go())


@given(st.floats(1, 600), st.floats(0, 600), st.floats(0.05, 200), st.floats(-0.1, 0.1), st.floats(-0.1, 0.1))
def test_figures_that_are_taken_are_safe_with_clocks_that_drift(
    ttl_s: float, margin_s: float, renew_s: float, guard_drift: float, store_drift: float
) -> None:
    if lease_problems(ttl_s, renew_s, margin_s):
        return
    forwards_s = (ttl_s - margin_s) / (1 + guard_drift)
    promised_s = ttl_s / (1 + store_drift)
    assert forwards_s < promised_s
    assert renew_s * 4 <= (ttl_s - margin_s) * 1.000001


@pytest.mark.parametrize(
    ("ttl_s", "renew_s", "margin_s", "names"),
    [
        (90, 10, 20, []),
        (90, 10, 18.1, []),
        (90, 10, 18, ["MARGIN"]),
        (90, 17.5, 20, []),
        (90, 17.6, 20, ["RENEW"]),
        (90, 30, 0, ["MARGIN", "RENEW"]),
        (4, 0.5, 1.76, []),
    ],
)
def test_figures_that_are_not_taken(ttl_s: float, renew_s: float, margin_s: float, names: list[str]) -> None:
    found = [problem.split("_")[2] for problem in lease_problems(ttl_s, renew_s, margin_s)]
    assert found == names
