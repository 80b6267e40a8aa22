"""`wahafleet chip ban` and `release` on a real store."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from cli.main import main
from core.domain.desired import Breaker, Memory
from core.store.engine import engine_for, transaction
from core.store.tables import chips
from tests.contract.store.harness import PostgresHarness


async def _fill(url: str) -> str:
    engine = engine_for(url)
    harness = PostgresHarness(engine)
    chip_id = await harness.chip(await harness.user(), "loja centro")
    await engine.dispose()
    return chip_id


async def _columns(url: str, chip_id: str) -> dict[str, Any]:
    engine = engine_for(url)
    columns = await PostgresHarness(engine).chip_columns(chip_id)
    await engine.dispose()
    assert columns is not None
    return columns


async def _quarantine(url: str, chip_id: str) -> None:
    engine = engine_for(url)
    memory = msgspec.to_builtins(Memory(Breaker(quarantined_generation=1)))
    async with transaction(engine) as connection:
        await connection.execute(update(chips).where(chips.c.id == chip_id).values(memory=memory))
    await engine.dispose()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["chip", *arguments])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out + shown.err


def test_a_ban_is_set_once_and_lifted(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chip_id = asyncio.run(_fill(database_url))
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", database_url)
    assert run(capsys, "ban", "Loja Centro", "--by", "ana") == (0, "Loja Centro banned\n")
    assert asyncio.run(_columns(database_url, chip_id))["banned_at"] is not None
    code, said = run(capsys, "ban", chip_id)
    assert code != 0
    assert "banned already; --lift ends it" in said
    assert run(capsys, "ban", chip_id, "--lift") == (0, f"{chip_id} lifted\n")
    assert asyncio.run(_columns(database_url, chip_id))["banned_at"] is None
    code, said = run(capsys, "ban", chip_id, "--lift")
    assert code != 0
    assert "is not marked as banned" in said


def test_a_release_needs_a_quarantine(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chip_id = asyncio.run(_fill(database_url))
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", database_url)
    code, said = run(capsys, "release", chip_id)
    assert code != 0
    assert "is in no quarantine" in said
    asyncio.run(_quarantine(database_url, chip_id))
    assert run(capsys, "release", chip_id) == (0, f"{chip_id} released\n")
    assert asyncio.run(_columns(database_url, chip_id))["released_generation"] > 1


def test_an_unknown_chip_is_told_in_a_sentence(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", database_url)
    code, said = run(capsys, "ban", "nobody")
    assert code != 0
    assert "no chip has the id or alias 'nobody'" in said
    assert "Traceback" not in said
