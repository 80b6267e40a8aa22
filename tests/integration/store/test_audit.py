"""The audit log on a real store: there exactly if the change is, shown by a verb, forgotten when old."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import click
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from cli.audit import begin_of
from cli.main import main
from core.domain.actor import COMMAND_LINE, Actor, ActorKind
from core.errors import Conflict
from core.store import containers_admin, idempotency, intents
from core.store.audit import list_changes, record_change
from core.store.engine import engine_for, transaction
from core.store.interface import Lease
from tests.contract.store.harness import PostgresHarness


@pytest.fixture
def harness(engine: AsyncEngine) -> PostgresHarness:
    return PostgresHarness(engine)


async def create(harness: PostgresHarness, user_id: str, alias: str, actor: Actor = COMMAND_LINE) -> str:
    chip_id = str(uuid.uuid4())
    await intents.create_chip(
        harness.engine,
        harness.sealer,
        "main",
        user_id=user_id,
        chip_id=chip_id,
        alias=alias,
        actor=actor,
    )
    return chip_id


async def test_a_line_is_there_exactly_if_the_change_is(harness: PostgresHarness) -> None:
    user_id = await harness.user()
    key_id = str(uuid.uuid4())
    actor = Actor(ActorKind.USER, user_id, key_id, "203.0.113.7", "trace-1")
    chip_id = await create(harness, user_id, "vendas", actor)
    with pytest.raises(Conflict):
        await create(harness, user_id, "VENDAS", actor)
    [line] = await list_changes(harness.engine)
    assert (line.action, line.user_id, line.target) == ("chip.create", user_id, chip_id)
    assert (line.actor_kind, line.actor_id, line.actor_key) == ("user", user_id, key_id)
    assert (line.address, line.request_id, line.actor_name) == ("203.0.113.7", "trace-1", "")
    assert line.detail == {"alias": "vendas"}
    # What changes nothing is no change.
    await intents.disconnect_chip(harness.engine, user_id, chip_id, actor=actor)
    await intents.disconnect_chip(harness.engine, user_id, chip_id, actor=actor)
    for paused in (True, True, False, False):
        await containers_admin.pause_container(harness.engine, user_id, paused=paused, actor=actor)
    assert [line.action for line in await list_changes(harness.engine)] == [
        "container.resume",
        "container.pause",
        "chip.disconnect",
        "chip.create",
    ]


async def test_lines_are_found_by_user_action_and_time(harness: PostgresHarness) -> None:
    one, two = await harness.user(), await harness.user()
    await create(harness, one, "vendas")
    await create(harness, two, "vendas", Actor(ActorKind.OPERATOR, one))
    async with transaction(harness.engine) as connection:
        await record_change(connection, COMMAND_LINE, "rollout.pause", target="r")
        await record_change(connection, COMMAND_LINE, "chipx", target="r")
    found = list_changes
    assert len(await found(harness.engine)) == 4
    assert len(await found(harness.engine, limit=2)) == 2
    # By the user, and about the user's things.
    assert [line.user_id for line in await found(harness.engine, user_id=one)] == [two, one]
    assert [line.user_id for line in await found(harness.engine, user_id=two)] == [two]
    assert len(await found(harness.engine, action="chip.")) == 2
    assert len(await found(harness.engine, action="chip.create")) == 2
    assert len(await found(harness.engine, action="chip")) == 0
    assert len(await found(harness.engine, since=datetime.now(UTC) - timedelta(minutes=1))) == 4
    assert len(await found(harness.engine, since=datetime.now(UTC) + timedelta(minutes=1))) == 0


async def test_old_lines_and_keys_are_forgotten_and_no_others(harness: PostgresHarness) -> None:
    user_id = await harness.user()
    for number in range(5):
        await create(harness, user_id, f"chip {number}")
        await idempotency.claim(harness.engine, user_id, f"k{number}", "f")
    async with transaction(harness.engine) as connection:
        old = "now() - interval '25 hours'"
        await connection.execute(text(f"UPDATE idempotency_keys SET created_at = {old} WHERE id <= 3"))
        await connection.execute(text(f"UPDATE audit_log SET at = {old} WHERE id <= 2"))
    lease = await harness.store.claim("fleet", "one", 60)
    assert isinstance(lease, Lease)
    house = harness.housekeeping
    assert await house.prune_keys(lease, older_than_s=86_400, limit=2) == 2
    assert await house.prune_keys(lease, older_than_s=86_400) == 1
    assert await house.prune_keys(lease, older_than_s=86_400) == 0
    assert await house.prune_audit(lease, older_than_s=86_400) == 2
    assert await house.prune_audit(lease, older_than_s=86_400) == 0
    assert len(await list_changes(harness.engine)) == 3


# The verb


def _filled(url: str, fill: Callable[[PostgresHarness], Awaitable[str]]) -> str:
    async def run() -> str:
        engine = engine_for(url)
        try:
            return await fill(PostgresHarness(engine))
        finally:
            await engine.dispose()

    return asyncio.run(run())


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out + shown.err


def test_the_verb_shows_who_did_what_from_where(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill(harness: PostgresHarness) -> str:
        user_id = await harness.user()
        await create(
            harness, user_id, "vendas", Actor(ActorKind.USER, user_id, None, "203.0.113.7", "trace-1")
        )
        return user_id

    user_id = _filled(database_url, fill)
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", database_url)
    monkeypatch.setattr("getpass.getuser", lambda: "maria")
    assert run(capsys, "container", "pause", user_id)[0] == 0
    code, said = run(capsys, "audit", "list", "--user", user_id, "--since", "1h")
    assert code == 0
    newest, older = said.splitlines()
    assert "container.pause" in newest
    assert "by=command_line:maria" in newest
    for part in ("chip.create", f"by=user:{user_id}", "from=203.0.113.7", "request=trace-1", "alias=vendas"):
        assert part in older
    code, said = run(capsys, "audit", "list", "--action", "chip.", "--json")
    assert [json.loads(line)["action"] for line in said.splitlines()] == ["chip.create"]
    code, said = run(capsys, "audit", "list", "--user", "nobody@x.com")
    assert code == 1
    assert "nobody@x.com" in said
    assert run(capsys, "audit", "list", "--user", str(uuid.uuid4())) == (0, "")
    assert run(capsys, "audit", "list", "--since", "yesterday")[0] == 2


def test_an_age_or_a_time() -> None:
    now = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert begin_of("90m", now) == now - timedelta(minutes=90)
    assert begin_of("7d", now) == now - timedelta(days=7)
    assert begin_of("2026-06-30T00:00:00Z", now) == datetime(2026, 6, 30, tzinfo=UTC)
    assert begin_of("2026-06-30", now) == datetime(2026, 6, 30, tzinfo=UTC)
    for bad in ("", "h", "-1h", "999999d", "1w", "2026-13-01"):
        with pytest.raises(click.UsageError):
            begin_of(bad, now)
