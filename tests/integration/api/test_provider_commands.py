"""`wahafleet provider`, `proxy usage` and `chip rotate-label`: what they print, and what they leave behind."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from cli.findings import Finding, State
from cli.provider_check import providers
from cli.target import Target
from core.domain.quota import GIB
from tests.integration.api.commands import Run, served
from tests.integration.api.conftest import OPERATOR_TOKEN, Running
from tests.integration.api.proxied import PASSWORD, label, operator, provider, sub_user, used


async def test_a_provider_is_set_up_and_taken_down(
    running: Running, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await run("provider", "list")).startswith("no providers; ")
    assert "dataimpulse  verified    http/socks5" in await run("provider", "templates")
    made = await run("provider", "add", "dataimpulse", "--template", "dataimpulse", "--cost", "5,20")
    assert made == "dataimpulse made, the default"
    assert (await run("provider", "sub-user", "list", "dataimpulse")).startswith("no sub-users; ")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    added = await run("provider", "sub-user", "add", "dataimpulse", "whago1", "--max-chips", "7")
    assert added == "whago1 made, for 7 chips"
    shown = await run("provider", "dry-run", "dataimpulse", "--label", "abc", "--sub-user", "whago1")
    assert "username  whago1__cr.br;sessid.abc" in shown
    assert "password  ***" in shown
    listed = (await run("provider", "list")).splitlines()[1].split()
    assert listed == ["dataimpulse", "dataimpulse", "socks5", "yes", "yes", "0", "7", "5.20", "-"]
    assert "whago1  0      7           yes      -" in await run("provider", "sub-user", "list", "dataimpulse")
    assert await run("provider", "set", "dataimpulse", "--cost", "4.90") == "dataimpulse changed"
    monkeypatch.setattr("sys.stdin", io.StringIO("outra\n"))
    sets = ("provider", "sub-user", "set", "dataimpulse", "whago1", "--password", "--max-chips", "9")
    assert await run(*sets) == "whago1 changed"
    assert await run("provider", "sub-user", "clear", "dataimpulse", "whago1") == "whago1 is in no trouble"
    assert await run("provider", "clear", "dataimpulse") == "dataimpulse is in no trouble"
    assert await run("provider", "default", "dataimpulse") == "dataimpulse is the default"
    said = await run("provider", "set", "dataimpulse", "--disable", errors=True)
    assert "warning: no enabled provider is the default" in said
    assert await run("provider", "sub-user", "remove", "dataimpulse", "whago1") == "whago1 removed"
    assert await run("provider", "remove", "dataimpulse", "--yes") == "dataimpulse removed"
    assert json.loads(await run("provider", "list", "-o", "json")) == []
    assert PASSWORD not in str(await running.sql("SELECT * FROM audit_log"))


async def test_what_the_api_refuses_is_told_in_its_words(
    running: Running, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await run("provider", "add", "x", "--template", "generic", code=1)
    assert "Host: O modelo generic não tem um gateway próprio; informe o host do seu provedor." in said
    warned = await run("provider", "add", "decodo", "--template", "decodo", errors=True)
    assert "no test speaks for the template decodo" in warned
    assert "nothing to change" in await run("provider", "set", "decodo", code=1)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "no password came" in await run("provider", "sub-user", "add", "decodo", "x", code=1)
    assert "no sub-user 'x'" in await run("provider", "sub-user", "remove", "decodo", "x", code=1)
    empty = await run("provider", "dry-run", "decodo", code=1)
    assert empty == ""  # what is wrong stands in the result
    assert "No such option" in await run("provider", "sub-user", "add", "d", "x", "--password", "y", code=2)


async def test_a_chip_gets_another_label(running: Running, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", running.settings.store.database_url.reveal())
    person = await running.person()
    chip = (await person.chip("loja centro"))["id"]
    assert "ainda não tem um rótulo" in await run("chip", "rotate-label", chip, code=1)
    await provider(running)
    await label(running, person, chip, await sub_user(running))
    assert (await run("chip", "rotate-label", "Loja Centro")).startswith("Loja Centro label 1 rotating")
    assert "label     k3j9x0a7q2mz" in await run(
        "provider", "dry-run", "dataimpulse", "--chip", "loja centro"
    )
    shown = dict(line.split(maxsplit=1) for line in (await run("chip", "proxy", "loja centro")).splitlines())
    assert (shown["provider"], shown["label"], shown["exit_ip"]) == ("dataimpulse", "k3j9x0a7q2mz", "-")
    none = "no exit of this chip has been read yet"
    assert await run("chip", "proxy", chip, "--history") == none
    await running.sql(
        "INSERT INTO exits (chip_id, user_id, provider_slug, label, label_generation, exit_ip, seen_from, seen_until, "
        "why) VALUES (:chip, :user, 'dataimpulse', 'k3j9x0a7q2mz', 1, '203.0.113.7', now(), now(), 'first')",
        chip=chip,
        user=person.id,
    )
    _, line = (await run("chip", "proxy", chip, "--history")).splitlines()
    assert line.split()[2:] == ["dataimpulse", "k3j9x0a7q2mz", "1", "203.0.113.7", "first"]
    assert json.loads(await run("chip", "proxy", chip, "-o", "json"))["label"] == "k3j9x0a7q2mz"
    [row] = await running.sql("SELECT requested_generation FROM labels")
    assert row.requested_generation == 2


async def test_usage_with_its_cost(running: Running, run: Run) -> None:
    assert (await run("proxy", "usage", "--month", "2026-02")) == "2026-02: 0.0 GB, R$ 0.00"
    assert "month: Use um mês como 2026-07." in await run("proxy", "usage", "--month", "julho", code=1)
    await provider(running, cost_per_gb="4")
    people = [await running.person() for _ in range(2)]
    for person in people:
        chip = (await person.chip())["id"]
        await used(running, person, chip, GIB, month="2026-02-01", errors='{"no_peer": 2}')
        await used(running, person, chip, GIB, month="2026-02-01", provider="antigo")
    shown = (await run("proxy", "usage", "--month", "2026-02")).splitlines()
    assert shown[0] == "2026-02: 4.0 GB, R$ 8.00"
    assert "dataimpulse refused: 4 no_peer" in shown
    assert sum(person.email in line for person in people for line in shown) == 4
    one = json.loads(
        await run("proxy", "usage", "--month", "2026-02", "--user", people[0].email, "-o", "json")
    )
    assert [(row["provider"], row["cost"]) for row in one["users"]] == [
        ("antigo", None),
        ("dataimpulse", "4.00"),
    ]


async def test_the_doctor_asks_the_api_for_providers(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAHAFLEET_OPERATOR_TOKEN", OPERATOR_TOKEN)
    async with served(running.app) as url:

        async def found() -> Finding:
            return await asyncio.to_thread(providers, Target(url), {})

        assert (await found()).state is State.WRONG
        await provider(running)
        assert "has no sub-user" in (await found()).text
        await sub_user(running)
        assert await found() == (State.OK, "dataimpulse carries 0 chips and has room for 200 more.")


async def test_a_shared_exit_is_an_alert_in_the_fleet(running: Running, run: Run) -> None:
    person = await running.person()
    await provider(running)
    mine = await sub_user(running)
    for name in ("um", "dois"):
        chip = (await person.chip(f"chip {name}"))["id"]
        await label(running, person, chip, mine, f"l{name}", exit_ip="203.0.113.7")
    [alert] = [line for line in (await run("fleet", "show")).splitlines() if line.startswith("alert")]
    assert "203.0.113.7 is the exit of several chips: chip um (" in alert
    assert (await operator(running).get("/fleet")).status_code == 200
