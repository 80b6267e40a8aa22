"""Chips that go out through the guard: labels, readings, and the credential in each session's config."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from core.clients.waha_models import WahaProxy
from core.crypto import SecretUnreadable
from core.domain.chip_credentials import chip_password, chip_user, matches, node_key
from core.domain.desired import Wanted
from core.domain.egress_errors import EgressError
from core.domain.facts import ClientStatus, WahaStatus
from core.domain.guard_wire import Upstream
from core.domain.pacing import Limit, Pace, provider_key
from core.domain.routes import Reading
from daemon.ways_out import Guards, Place
from tests.memory_store.rows import ProviderRow, SubUserRow
from tests.unit.daemon.fakes import FakeSession
from tests.unit.daemon.system import C1, C2, SECRET, U1, Daemon, World, scenario

KEY = node_key(SECRET, "n1")
SUB = "00000000-0000-4000-8000-0000000000aa"
PASSWORD = "the sub-user's own password"


class FakeExits:
    """`daemon.ways_out.Exits`: each login has an exit of its own, unless `failure` says otherwise."""

    def __init__(self) -> None:
        self.timeout_s = 8.0
        self.is_busy = False
        self.failure: EgressError | None = None
        self.shared = ""
        self.read_through: list[Upstream] = []

    async def read(self, upstream: Upstream) -> Reading:
        self.read_through.append(upstream)
        await asyncio.sleep(0.2)
        if self.failure is not None:
            return Reading(None, self.failure)
        return Reading(self.shared or f"exit of {upstream.username}", None)


def guarded(w: World, **more: Any) -> tuple[Daemon, FakeExits]:
    """A daemon with a guard on every host and one provider, whose guards take the right credentials alone."""
    w.store.label_secret = SECRET
    w.store.add_provider(ProviderRow("local", "generic", host="127.0.0.1", port=1080, is_default=True))
    w.store.add_sub_user(SubUserRow(SUB, "local", "login", PASSWORD, max_labels=10))

    def takes(config: Mapping[str, Any], place: tuple[str, int]) -> bool:
        (here,) = [a for of in w.nomad.allocs.values() for a in of if (a.address, a.port) == place]
        proxy = config.get("proxy", {})
        chip = config["metadata"]["chip_id"]
        right = proxy.get("username") == chip_user(chip, here.id) and proxy["server"] == "10.0.0.1:3128"
        return right and matches(KEY, chip, here.id, proxy["password"])

    w.waha.takes = takes
    exits = FakeExits()
    return Daemon(w, egress="guard", exits=exits, **more), exits


async def passes(w: World, daemon: Daemon, wanted: str, chip: str = C1, count: int = 60) -> None:
    for _ in range(count):
        await daemon.one_pass()
        if (w.phase(chip) or ("gone",))[0] == wanted:
            return
        await asyncio.sleep(0.2)
    raise AssertionError((w.phase(chip), w.faults.calls[-20:]))


def session(w: World, chip: str = C1) -> FakeSession:
    return w.waha.sessions[U1][f"chip_{chip}"]


def proxy(w: World, chip: str = C1) -> dict[str, str]:
    found: dict[str, str] = session(w, chip).config["proxy"]
    return found


async def connected(w: World, daemon: Daemon) -> None:
    w.store.add_chip(U1, C1)
    await passes(w, daemon, "qr")
    session(w).me, session(w).status = "5511999999999@c.us", WahaStatus.WORKING
    await passes(w, daemon, "connected")


async def moved(w: World, daemon: Daemon) -> str:
    """The container goes to another allocation; its id."""
    (old,) = [a for a in w.nomad.allocs[w.job()] if a.client is ClientStatus.RUNNING]
    w.waha.ended(U1)
    await w.nomad.stop_allocation(old.id)
    await asyncio.sleep(3)
    (new,) = [a for a in w.nomad.allocs[w.job()] if a.client is ClientStatus.RUNNING]
    assert new.id != old.id
    return new.id


def current(w: World) -> str:
    (one,) = [a for a in w.nomad.allocs[w.job()] if a.client is ClientStatus.RUNNING]
    return one.id


@scenario
async def test_a_first_start_has_a_label_a_reading_and_the_allocation_s_own_credential(w: World) -> None:
    daemon, exits = guarded(w)
    w.store.add_chip(U1, C1)
    await passes(w, daemon, "qr")
    row = w.store.labels[C1]
    assert [up.username for up in exits.read_through] == [f"login-{row.label}"]
    assert row.exit_ip == f"exit of login-{row.label}"
    assert proxy(w) == {
        "server": "10.0.0.1:3128",
        "username": chip_user(C1, current(w)),
        "password": chip_password(KEY, C1, current(w), 1),
    }
    assert w.waha.refused == []
    assert session(w).starts == 1
    assert 'wahafleet_exit_readings_total{outcome="ok"} 1.0' in _told(daemon)


@scenario
async def test_after_a_move_the_config_is_written_while_stopped_and_before_the_start(w: World) -> None:
    daemon, exits = guarded(w)
    await connected(w, daemon)
    before = proxy(w)
    w.faults.calls.clear()
    new = await moved(w, daemon)
    statuses: list[WahaStatus] = []
    enter = w.faults.enter

    async def watched(call: str, *args: Any) -> None:
        if call == "waha.update_session":
            statuses.append(session(w).status)
        await enter(call, *args)

    w.faults.enter = watched  # type: ignore[method-assign]
    await passes(w, daemon, "reconnecting")
    await passes(w, daemon, "connected")
    writes = [call for call in w.faults.calls if call in ("waha.update_session", "waha.start")]
    assert writes == ["waha.update_session", "waha.start"]
    assert statuses == [WahaStatus.STOPPED]
    assert proxy(w)["username"] == chip_user(C1, new)
    assert proxy(w)["password"] not in ("", before["password"])
    assert w.waha.refused == []
    assert len(exits.read_through) == 1  # the same label, read less than an hour ago


@scenario
async def test_a_new_label_leaves_a_connected_chip_connected(w: World) -> None:
    daemon, exits = guarded(w)
    await connected(w, daemon)
    w.store.request_label(C1)
    for _ in range(4):
        await daemon.one_pass()
    assert w.store.labels[C1].generation == 2
    assert (w.phase(), session(w).starts) == (("connected", None), 1)
    assert len(exits.read_through) == 2
    assert proxy(w)["password"] == chip_password(KEY, C1, current(w), 1)
    w.waha.ended(U1)
    await passes(w, daemon, "reconnecting")
    await passes(w, daemon, "connected")
    assert proxy(w)["password"] == chip_password(KEY, C1, current(w), 2)


@scenario
async def test_without_a_provider_nothing_starts_and_the_reason_says_so(w: World) -> None:
    daemon, exits = guarded(w)
    w.store.providers["local"].enabled = False
    w.store.add_chip(U1, C1)
    for _ in range(20):
        await daemon.one_pass()
        await asyncio.sleep(1)
    assert w.phase() == ("queued", "no_upstream")
    assert (dict(w.waha.sessions[U1]), exits.read_through) == ({}, [])
    w.store.providers["local"].enabled = True
    await passes(w, daemon, "qr")


@scenario
async def test_a_reading_that_fails_keeps_the_chip_from_starting_until_one_works(w: World) -> None:
    daemon, exits = guarded(w)
    exits.failure = EgressError.PROXY_AUTH
    w.store.add_chip(U1, C1)
    for _ in range(30):
        await daemon.one_pass()
        await asyncio.sleep(1)
    assert w.phase() == ("queued", "proxy_auth")
    assert 1 < len(exits.read_through) <= 3
    assert session(w).starts == 0
    exits.failure = None
    await asyncio.sleep(60)
    await passes(w, daemon, "qr")
    assert 'wahafleet_exit_readings_total{outcome="proxy_auth"}' in _told(daemon)


@scenario
async def test_a_label_that_two_chips_share_is_replaced_at_the_second(w: World) -> None:
    daemon, exits = guarded(w)
    exits.shared = "203.0.113.7"
    w.store.add_chip(U1, C1)
    await passes(w, daemon, "qr")
    w.store.add_chip(U1, C2)
    await asyncio.sleep(5)
    for _ in range(6):
        await daemon.one_pass()
    exits.shared = ""
    for _ in range(20):
        await daemon.one_pass()
        await asyncio.sleep(1)
    assert (w.store.labels[C1].generation, w.store.labels[C2].generation) == (1, 2)


@scenario
async def test_a_disconnected_chip_gives_its_label_back_and_takes_the_same_up_again(w: World) -> None:
    daemon, _ = guarded(w)
    await connected(w, daemon)
    label = w.store.labels[C1].label
    w.store.wish(C1, Wanted.DISCONNECTED)
    await passes(w, daemon, "disconnected")
    await daemon.one_pass()
    assert w.store.labels[C1].released_at is not None
    assert (await daemon.one_pass()).again_in_s is None
    w.store.wish(C1, Wanted.CONNECTED)
    await passes(w, daemon, "connected")
    row = w.store.labels[C1]
    assert (row.label, row.generation, row.released_at) == (label, 1, None)


@scenario
async def test_starts_draw_on_the_bucket_of_their_provider(w: World) -> None:
    daemon, _ = guarded(w, pace=Pace(provider=Limit(0.001, 1)))
    w.store.add_chip(U1, C1)
    w.store.add_chip(U1, C2)
    await passes(w, daemon, "qr")
    for _ in range(5):
        await daemon.one_pass()
    assert provider_key("local") in w.store.buckets
    assert w.phase(C2) == ("queued", "paced")


@scenario
async def test_readers_that_are_busy_hold_up_no_pass(w: World) -> None:
    daemon, exits = guarded(w)
    exits.is_busy = True
    w.store.add_chip(U1, C1)
    for _ in range(20):
        await daemon.one_pass()
        await asyncio.sleep(1)
    assert (exits.read_through, w.store.labels[C1].checked_at) == ([], None)
    assert not [s for s in w.waha.sessions[U1].values() if s.starts]
    exits.is_busy = False
    await passes(w, daemon, "qr")


@scenario
async def test_a_sub_user_whose_password_nobody_can_open_is_told_and_counts_for_no_label(w: World) -> None:
    daemon, exits = guarded(w)

    async def unreadable(chip_id: str) -> Upstream:
        raise SecretUnreadable("sealed with another key")

    w.store.upstream = unreadable  # type: ignore[method-assign]
    w.store.add_chip(U1, C1)
    with capture_logs() as logs:
        for _ in range(20):
            await daemon.one_pass()
            await asyncio.sleep(1)
    assert {line["event"] for line in logs if line["log_level"] == "error"} == {"sub_user_unreadable"}
    assert w.phase() == ("queued", "no_upstream")
    row = w.store.labels[C1]
    assert (exits.read_through, row.checked_at, row.failures) == ([], None, 0)


@scenario
async def test_no_credential_stands_in_a_log_line_in_evidence_or_in_an_explanation(w: World) -> None:
    with capture_logs() as logs:
        daemon, exits = guarded(w)
        await connected(w, daemon)
        await moved(w, daemon)
        exits.failure = EgressError.NO_PEER
        w.store.request_label(C1)
        for _ in range(10):
            await daemon.one_pass()
            await asyncio.sleep(1)
    secrets = {PASSWORD, SECRET.decode(), proxy(w)["password"], chip_password(KEY, C1, current(w), 2)}
    kept, look = w.store.containers[U1].kept, w.store.containers[U1].look
    assert kept is not None
    evidence = msgspec.json.encode(kept.body).decode()
    assert look is not None
    for text in (repr(logs), evidence, msgspec.json.encode(look).decode(), repr(exits.read_through)):
        assert not [secret for secret in secrets if secret in text]
    assert w.phase() == ("queued", "no_peer")


@pytest.mark.parametrize(
    ("address", "host_ip", "server"),
    [
        ("172.30.0.1:3128", "10.0.0.1", "172.30.0.1:3128"),
        ("{host_ip}:4128", "10.0.0.1", "10.0.0.1:4128"),
        ("{host_ip}:4128", "fd00::1", "[fd00::1]:4128"),
    ],
)
def test_the_guard_s_address_may_name_the_host(address: str, host_ip: str, server: str) -> None:
    made = Guards(address, SECRET).proxy(Place(U1, "n1", host_ip), C1, 3)
    assert made == WahaProxy(server, f"{C1}.{U1}", chip_password(KEY, C1, U1, 3))
    assert made.password not in repr(made)
    assert not set("@:/#?") & set(made.username + made.password)


def _told(daemon: Daemon) -> str:
    from prometheus_client import generate_latest

    return generate_latest(daemon.metrics.registry).decode()
