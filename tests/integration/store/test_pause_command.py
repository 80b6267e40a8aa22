"""`wahafleet container pause` and `resume` on a real store."""

from __future__ import annotations

import asyncio

import pytest

from cli.main import main
from core.store.engine import engine_for
from tests.contract.store.harness import PostgresHarness


async def _fill(url: str) -> str:
    engine = engine_for(url)
    harness = PostgresHarness(engine)
    user = await harness.user()
    await harness.container(user)
    await engine.dispose()
    return user


async def _stored(url: str, user: str) -> tuple[bool, int]:
    engine = engine_for(url)
    columns = await PostgresHarness(engine).container_columns(user)
    await engine.dispose()
    assert columns is not None
    return columns["paused"], columns["generation"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["container", *arguments])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out + shown.err


def test_a_pause_is_a_new_wish_and_is_ended_by_resume(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user = asyncio.run(_fill(database_url))
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", database_url)
    before = asyncio.run(_stored(database_url, user))
    assert before[0] is False
    assert run(capsys, "pause", user) == (0, f"{user} paused\n")
    paused = asyncio.run(_stored(database_url, user))
    assert paused[0] is True
    assert paused[1] > before[1]
    code, said = run(capsys, "pause", user)
    assert code != 0
    assert "paused already" in said
    assert run(capsys, "resume", user) == (0, f"{user} resumed\n")
    assert asyncio.run(_stored(database_url, user))[0] is False


def test_what_is_no_user_id_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, "pause", "somebody")
    assert code != 0
    assert "somebody is no user id" in said
    assert "Traceback" not in said
