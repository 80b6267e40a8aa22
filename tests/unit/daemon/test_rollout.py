"""Changed settings reach containers a few at a time, stop by themselves, and leave nobody without a way back."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from core.domain.actions import AskSeat
from core.domain.facts import ClientStatus, WahaStatus
from core.domain.names import job_id, session_name
from core.domain.seat import SeatState
from core.settings import JobSettings
from core.store.notify import INTENTS
from tests.unit.daemon.fakes import FakeSession
from tests.unit.daemon.system import JOBS, LOOP, Daemon, World, scenario, user_number

SETTINGS = msgspec.structs.replace(LOOP, rollout_users=2, rollout_deadline_s=120, waha_look_s=1e5)
USERS = [user_number(number) for number in range(1, 9)]
CHIPS = {user: user_number(100 + number) for number, user in enumerate(USERS)}


def image(name: str) -> JobSettings:
    """Settings that differ in what runs in a container."""
    return msgspec.structs.replace(JOBS, simulator_args=("-m", "sandbox.waha", name))


class Images(defaultdict[str, dict[str, FakeSession]]):
    """Sessions as each image has them: those of `bad` cannot read what others stored; all end with their container."""

    def __init__(self, w: World) -> None:
        super().__init__(dict)
        self._w = w
        self._kept: dict[tuple[str, bool], dict[str, FakeSession]] = defaultdict(dict)
        self._ran: dict[str, str] = {}

    def __missing__(self, user: str) -> dict[str, FakeSession]:
        runs = [a for a in self._w.nomad.allocs[job_id(user)] if a.client is ClientStatus.RUNNING]
        held = self._kept[user, running_image(self._w, user) == "bad"]
        if runs and self._ran.get(user) != runs[-1].id:
            self._ran[user] = runs[-1].id
            for session in held.values():
                session.status = WahaStatus.STOPPED
        return held


def running_image(w: World, user: str) -> str:
    """What the user's job was registered with last."""
    return str(w.nomad.specs[job_id(user)]["TaskGroups"][0]["Tasks"][0]["Config"]["args"][-1])


def images(w: World) -> dict[str, str]:
    return {user: running_image(w, user) for user in USERS}


def all_connected(w: World) -> bool:
    return all(w.phase(chip) == ("connected", None) for chip in CHIPS.values())


@asynccontextmanager
async def running(w: World, name: str) -> AsyncIterator[Daemon]:
    """A daemon whose settings name this image, and who hears of wishes and admissions."""
    daemon = Daemon(w, settings=SETTINGS, jobs=image(name))

    def hear(channel: str, user: str) -> None:
        if channel == INTENTS:
            daemon.queue.put(user)

    w.store.on_news = hear
    async with daemon.running():
        yield daemon


async def paired(w: World) -> None:
    """Everybody is connected and at rest on the image `old`."""
    w.waha.sessions = Images(w)
    async with running(w, "old"):
        for user, chip in CHIPS.items():
            w.store.add_chip(user, chip)
        await w.until(lambda: all(w.phase(chip) == ("qr", None) for chip in CHIPS.values()))
        for user, chip in CHIPS.items():
            session = w.waha.sessions[user][session_name(chip)]
            session.me, session.status = "5511999999999@c.us", WahaStatus.WORKING
            w.waha.tell(user)
        await w.until(
            lambda: all_connected(w) and all(r.observed.at_rest for r in w.store.containers.values())
        )
    w.faults.calls.clear()


def moving(w: World) -> list[str]:
    return [user for user, seat in w.store.seats.items() if seat.state is SeatState.MOVING]


def is_settled(w: World) -> bool:
    return all(seat.state is SeatState.OK for seat in w.store.seats.values()) and all_connected(w)


@scenario
async def test_a_changed_setting_moves_two_users_at_a_time(w: World) -> None:
    await paired(w)
    async with running(w, "new"):
        most, waited = 0, set()
        while set(images(w).values()) != {"new"} or not is_settled(w):
            most = max(most, len(moving(w)))
            away = {user for user in USERS if w.phase(CHIPS[user]) != ("connected", None)}
            assert len(away) <= 2
            for user, seat in w.store.seats.items():
                if seat.state is SeatState.WAITING and w.container(user) == ("ready", "rollout"):
                    waited.add(user)
                    assert w.store.statuses[user].endpoint is not None
            assert w.clock.monotonic() < 3000
            await asyncio.sleep(0.05)
    assert (most, w.faults.count("nomad.register")) == (2, len(USERS))
    assert len(waited) >= 4
    assert {w.container(user) for user in USERS} == {("ready", None)}


@scenario
async def test_who_waits_costs_nothing(w: World) -> None:
    await paired(w)
    async with running(w, "new"):
        await w.until(lambda: len(w.store.seats) == len(USERS), timeout_s=300)
        w.store.set_paused(paused=True, by="ana")
        await asyncio.sleep(30)
        w.faults.calls.clear()
        await asyncio.sleep(600)
        assert w.faults.count("waha.sessions") == 0
        assert w.faults.count("nomad.register") == 0


@scenario
async def test_an_image_that_never_passes_reaches_one_wave_and_the_old_one_brings_all_back(w: World) -> None:
    await paired(w)
    bad: set[str] = set()
    async with running(w, "bad"):
        for _ in range(4000):
            for user in USERS:
                if running_image(w, user) == "bad":
                    bad.add(user)
                    w.consul.hidden |= {w.nomad.allocs[job_id(user)][-1].id}
            await asyncio.sleep(0.1)
        assert w.store.releases[-1].state.value == "paused"
        assert len(bad) == 2
    async with running(w, "old"):
        await w.until(lambda: set(images(w).values()) == {"old"} and all_connected(w), timeout_s=200)
        await w.until(lambda: w.store.releases[-1].state.value == "done", timeout_s=200)
    assert w.faults.count("nomad.register") == 2 * len(bad)


@scenario
async def test_an_image_that_asks_for_a_qr_again_reaches_one_wave_and_costs_nobody_the_pairing(
    w: World,
) -> None:
    await paired(w)
    async with running(w, "bad"):
        await w.until(lambda: w.store.releases[-1].state.value == "paused", timeout_s=300)
        await asyncio.sleep(300)
        broken = [user for user in USERS if running_image(w, user) == "bad"]
        assert len(broken) == 2
        assert {w.phase(CHIPS[user]) for user in broken} == {("unlinked", "unlinked")}
    async with running(w, "old"):
        # Nobody presses Conectar: what the bad image broke is tried once with the credentials that are there.
        await w.until(lambda: set(images(w).values()) == {"old"} and all_connected(w), timeout_s=200)
        await w.until(lambda: w.store.releases[-1].state.value == "done", timeout_s=200)
        # Who never moved is told at the next sweep that nothing is wanted of them any more.
        await w.until(
            lambda: {seat.state for seat in w.store.seats.values()} == {SeatState.OK}, timeout_s=300
        )
    assert {w.container(user) for user in USERS} == {("ready", None)}


@scenario
async def test_a_daemon_with_older_settings_waits_and_nothing_flaps(w: World) -> None:
    await paired(w)
    older = Daemon(w, owner="d1", settings=SETTINGS, jobs=image("old"))
    newer = Daemon(w, owner="d2", settings=SETTINGS, jobs=image("new"))
    async with older.running():
        older.queue.put(USERS[0])
        await asyncio.sleep(5)
        async with newer.running():

            def tell(channel: str, user: str) -> None:
                if channel == INTENTS:
                    older.queue.put(user)
                    newer.queue.put(user)

            w.store.on_news = tell
            newer.queue.put_all(USERS)
            await w.until(lambda: set(images(w).values()) == {"new"} and is_settled(w), timeout_s=600)
            for user in USERS:
                older.queue.put(user)
            await asyncio.sleep(600)
    assert set(images(w).values()) == {"new"}
    assert w.faults.count("nomad.register") == len(USERS)


@scenario
async def test_what_runs_nowhere_is_registered_at_once_even_while_paused(w: World) -> None:
    await paired(w)
    async with running(w, "new"):
        await w.until(lambda: bool(w.store.seats), timeout_s=300)
        w.store.set_paused(paused=True, by="ana")
        await asyncio.sleep(60)
        left = next(user for user in USERS if running_image(w, user) == "old")
        await w.nomad.stop(job_id(left))
        await asyncio.sleep(60)
        assert running_image(w, left) == "new"
        assert left not in w.store.seats


@scenario
async def test_a_setting_changed_back_is_wanted_of_nobody_who_did_not_move(w: World) -> None:
    await paired(w)
    async with running(w, "new"):
        w.store.set_paused(paused=True, by="ana")
        await w.until(lambda: len(w.store.seats) == len(USERS), timeout_s=300)
    touched = {user for user in USERS if running_image(w, user) == "new"}
    async with running(w, "old"):
        await w.until(lambda: {w.container(user) for user in USERS} == {("ready", None)}, timeout_s=300)
    assert set(images(w).values()) == {"old"}
    assert w.faults.count("nomad.register") == 2 * len(touched)
    assert all(not seat.seat.is_open for seat in w.store.seats.values())


@scenario
async def test_a_pass_asks_once(w: World) -> None:
    await paired(w)
    daemon = Daemon(w, settings=SETTINGS, jobs=image("new"))
    await w.store.announce_release(daemon.release)
    end = await daemon.one_pass(USERS[0])
    assert (end.again_in_s, w.container(USERS[0])) == (None, ("ready", "rollout"))
    assert w.store.seats[USERS[0]].state is SeatState.WAITING
    effects = {"kind": AskSeat.__name__, "verdict": "done"}
    assert daemon.metrics.registry.get_sample_value("wahafleet_effects_total", effects) == 1
    await daemon.one_pass(USERS[0])
    assert daemon.metrics.registry.get_sample_value("wahafleet_effects_total", effects) == 1


@scenario
async def test_a_paused_fleet_moves_nobody_and_calls_nobody_late(w: World) -> None:
    await paired(w)
    async with running(w, "new") as daemon:
        await w.until(lambda: len(moving(w)) == 2)
        w.store.pause_fleet()
        before = moving(w)
        waits = [user for user in USERS if user not in before]
        await asyncio.sleep(600)  # five times a move's deadline
        assert all(w.store.seats[user].state is not SeatState.FAILED for user in USERS)
        assert all(w.store.seats[user].state is SeatState.WAITING for user in waits)
        assert all(running_image(w, user) == "old" for user in waits)
        w.store.pause_fleet(paused=False)
        daemon.fleet.relist(takeover=True)
        await w.until(lambda: is_settled(w), 300)
    assert set(images(w).values()) == {"new"}
