"""Chips leave through their host's guard and a label of their own, judged by what arrives at the provider."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from sandbox.up.data import read_env
from tests.e2e.provider import ECHO, LocalProvider
from tests.e2e.running import Client, Up, scratch, until

pytestmark = [pytest.mark.xdist_group("egress"), pytest.mark.timeout(240)]

USER = re.compile(r"local-[0-9a-z]{12}")
RENEW_S = 10.0  # of a guard's leases, as it comes


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """Two hosts, each with its guard; these tests may break them."""
    with scratch() as folder:
        made = Up(
            folder, "--nomad", "double", "--consul", "double", "--hosts", "2", "--simulators", "process"
        )
        try:
            yield made.wait_ready()
        finally:
            made.end()


@pytest.fixture
def provider(up: Up) -> Iterator[LocalProvider]:
    made = LocalProvider(up)
    yield made
    made.close()


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with up.client() as made:
        yield made
        for chip in made.chips():
            made.delete(chip["id"])


def connected(up: Up, client: Client, alias: str) -> str:
    chip = str(client.create(alias)["id"])
    client.wait_qr(chip)
    scanned = up.run("phone", "scan", chip)
    assert scanned.returncode == 0, scanned.stderr
    client.wait_status(chip, "CONNECTED", 20)
    return chip


def label_of(provider: LocalProvider, since: float) -> str:
    """The one user name that opened tunnels to WhatsApp since then."""
    names = {line.user for line in provider.opened(since)}
    assert len(names) == 1, names
    return names.pop()


def reason(client: Client, chip: str) -> str:
    return str(client.chip(chip)["extra_data"]["reason"] or "")


def placed(up: Up) -> dict[str, Any]:
    """The one allocation that runs, as Nomad tells it."""
    nomad = read_env(up.data / "settings.env")["NOMAD_ADDR"]
    listed = httpx.get(f"{nomad}/v1/allocations", trust_env=False).raise_for_status().json()
    running = [one for one in listed if (one["DesiredStatus"], one["ClientStatus"]) == ("run", "running")]
    assert len(running) == 1, running
    return dict(running[0])


def guard_of(up: Up, node_name: str) -> str:
    """Name of the part that guards a host."""
    return f"guard-{node_name.rpartition('-')[2]}"


def test_each_chip_has_a_label_that_stays_and_its_bytes_pass(
    up: Up, client: Client, provider: LocalProvider
) -> None:
    began = time.monotonic()
    first = connected(up, client, "first")
    name = label_of(provider, began)
    assert USER.fullmatch(name)
    # Its exit was looked at before the session ever knocked.
    (looked, *_), (knocked, *_) = provider.opened(began, ECHO), provider.opened(began)
    assert looked.user == name
    assert looked.at < knocked.at
    assert looked.exit_ip == knocked.exit_ip

    between = time.monotonic()
    second = connected(up, client, "second")
    other = label_of(provider, between)
    assert USER.fullmatch(other)
    assert other != name
    assert provider.opened(between)[0].exit_ip != knocked.exit_ip
    assert provider.open_users() == sorted([name, other])

    since = time.monotonic()
    until(lambda: len(provider.chunks(since)) >= 8, 30, "bytes pass in both directions")
    for user in (name, other):
        moved = {line.direction for line in provider.chunks(since) if line.user == user}
        assert moved == {"in", "out"}

    client.http.post(f"/chips/{first}/disconnect").raise_for_status()
    until(lambda: provider.open_users() == [other], 20, "a disconnected chip hangs up")
    again = time.monotonic()
    client.http.post(f"/chips/{first}/reconnect").raise_for_status()
    client.wait_status(first, "CONNECTED", 30)
    assert label_of(provider, again) == name
    assert {second, first} == {chip["id"] for chip in client.chips()}


def causes(client: Client, chip: str) -> list[str]:
    explained = client.http.get(f"/chips/{chip}/explain").raise_for_status().json()
    return [cause["code"] for cause in explained["causes"]]


@contextmanager
def scheme(up: Up, word: str) -> Iterator[None]:
    """How the provider is reached, as an operator changes it."""
    token = read_env(up.data / "secrets.env")["WAHAFLEET_OPERATOR_TOKEN"]

    def change(to: str) -> None:
        answer = httpx.put(
            f"{up.url}/api/v1/fleet/providers/local",
            json={"scheme": to},
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text

    change(word)
    try:
        yield
    finally:
        change("socks5")


@pytest.mark.parametrize(
    ("way", "knobs", "expected"),
    [
        ("socks5", {"refuse": {"*": "password"}}, "proxy_auth"),
        ("socks5", {"dead": True}, "proxy_unreachable"),
        ("socks5", {"refuse": {"*": "rules"}}, "proxy_refused"),
        ("socks5", {"refuse": {"*": "nowhere"}}, "proxy_host_unreachable"),
        ("http", {"most": 0}, "threads_exhausted"),
        ("http", {"refuse": {"*": "exhausted"}}, "traffic_exhausted"),
        ("http", {"refuse": {"*": "no_peer"}}, "no_peer"),
    ],
)
def test_a_chip_says_why_its_provider_gives_it_no_way_out(
    up: Up, client: Client, provider: LocalProvider, way: str, knobs: dict[str, Any], expected: str
) -> None:
    began = time.monotonic()
    with scheme(up, way), provider.turned(**knobs):
        chip = str(client.create(expected)["id"])
        until(lambda: reason(client, chip) == expected, 30, f"the chip says {expected}")
        shown = client.chip(chip)
        assert (shown["status"], shown["extra_data"]["reason_text"] != "") == ("WAITING_QR", True)
        # Its container may still be coming up, and is the cause that is named until then.
        until(lambda: expected in causes(client, chip), 30, f"{expected} is a cause")
        # Fail closed: nothing of it has reached WhatsApp, and nothing tried to go past its provider.
        assert provider.opened(began) == []


def test_when_the_provider_works_again_the_chip_comes_up_by_itself(
    client: Client, provider: LocalProvider
) -> None:
    with provider.turned(dead=True):
        chip = str(client.create("waits")["id"])
        until(lambda: reason(client, chip) == "proxy_unreachable", 30, "the chip says why it waits")
    client.wait_qr(chip, 90)
    assert reason(client, chip) == ""


def test_a_killed_guard_takes_its_tunnels_with_it_and_all_is_back_within_a_period(
    up: Up, client: Client, provider: LocalProvider
) -> None:
    chips = [connected(up, client, alias) for alias in ("one", "two")]
    before = provider.open_users()
    assert len(set(before)) == 2
    part = guard_of(up, placed(up)["NodeName"])
    pid = up.pid(part)
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    closed = until(
        lambda: [line for line in provider.lines(killed) if line.event == "close"][1:], 5, "tunnels close"
    )
    assert closed[-1].at - killed < 1
    until(lambda: up.pid(part) != pid, 20, "the guard is started again")
    back = time.monotonic()
    until(lambda: provider.open_users() == before, 2 * RENEW_S, "both sessions are back")
    assert time.monotonic() - back < RENEW_S
    for chip in chips:
        client.wait_status(chip, "CONNECTED", 20)
    assert {line.user for line in provider.opened(killed)} == set(before)


def test_a_drain_moves_a_user_to_the_other_hosts_guard_without_waiting_for_a_lease(
    up: Up, client: Client, provider: LocalProvider
) -> None:
    chip = connected(up, client, "moves")
    (name,) = provider.open_users()
    old = placed(up)
    nomad = read_env(up.data / "settings.env")["NOMAD_ADDR"]
    drain = f"{nomad}/v1/node/{old['NodeID']}/drain"
    began = time.monotonic()
    spec = {"Deadline": 3_600_000_000_000, "IgnoreSystemJobs": True}
    httpx.post(drain, json={"DrainSpec": spec}, trust_env=False).raise_for_status()
    try:

        def moved() -> bool:
            try:
                return bool(placed(up)["NodeID"] != old["NodeID"])
            except AssertionError:
                return False

        until(moved, 60, "another allocation runs on the other host")
        runs = time.monotonic()
        until(lambda: provider.opened(runs - 5) and provider.open_users() == [name], 60, "it is back")
        client.wait_status(chip, "CONNECTED", 30)
    finally:
        undone = {"DrainSpec": None, "MarkEligible": True}
        httpx.post(drain, json=undone, trust_env=False).raise_for_status()
    *_, opening = provider.opened(began)
    last_byte = max(line.at for line in provider.chunks() if line.tunnel < opening.tunnel)
    hung_up = max(
        line.at for line in provider.lines() if line.event == "close" and line.tunnel < opening.tunnel
    )
    # Never two at a time; and nobody waits for a lease that was given back (it would be 90 s).
    assert last_byte <= hung_up < opening.at
    assert opening.at - hung_up < 20
    assert {line.user for line in provider.opened(began)} == {name}
