"""`wahafleet guard hold` on a real store, and `guard key`."""

from __future__ import annotations

import asyncio
import re
import uuid
from datetime import UTC, datetime

import pytest

from cli.main import main
from core.domain.actions import ContainerStatus, Placed
from core.domain.chip_credentials import node_key
from core.store.engine import engine_for
from core.store.guard_leases import Ask, PostgresGuardLeases, Standing
from core.store.interface import Lease, Written
from tests.contract.store.harness import PostgresHarness

NODE = str(uuid.UUID(int=2))


async def _placed(url: str, port: int) -> str:
    """An allocation that may speak for its user."""
    engine = engine_for(url)
    harness = PostgresHarness(engine)
    user, allocation = await harness.user(), str(uuid.uuid4())
    await harness.container(user)
    lease = await harness.store.claim(user, "one", 60)
    assert isinstance(lease, Lease)
    status = ContainerStatus(phase="ready", placed=Placed(allocation, NODE, "host-1", "10.0.0.1", port))
    assert isinstance(await harness.store.write_status(lease, status, {}, {}, 1), Written)
    await engine.dispose()
    return allocation


async def _ask(url: str, *asks: Ask) -> tuple[tuple[Standing, int | None], ...]:
    engine = engine_for(url)
    answers = await PostgresGuardLeases(engine).renew(NODE, asks)
    await engine.dispose()
    return tuple((answer.standing, answer.grant) for answer in answers)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["guard", *arguments])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out + shown.err


@pytest.mark.parametrize(
    ("arguments", "life", "seconds"),
    [((), "", 90), ((), "300", 300), (("--seconds", "600"), "", 600), (("--seconds", "20"), "300", 20)],
)
def test_nothing_new_is_given_and_what_is_held_goes_on(
    arguments: tuple[str, ...],
    life: str,
    seconds: int,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", database_url)
    monkeypatch.setenv("WAHAFLEET_GUARD_TTL_S", life)
    held = asyncio.run(_placed(database_url, 3100))
    ((standing, grant),) = asyncio.run(_ask(database_url, Ask(held)))
    assert standing is Standing.GRANTED
    other = asyncio.run(_placed(database_url, 3101))
    before = datetime.now(UTC)
    code, said = run(capsys, "hold", *arguments)
    assert code == 0, said
    told = re.search(r"before (\S+ \S+) UTC", said)
    assert told is not None
    until = datetime.strptime(told.group(1), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert seconds - 2 <= (until - before).total_seconds() <= seconds + 20
    renewed, new = asyncio.run(_ask(database_url, Ask(held, grant), Ask(other)))
    assert renewed == (Standing.GRANTED, grant)
    assert new == (Standing.WAITING, None)


@pytest.mark.parametrize("seconds", ["0", "-5", "soon", "1000000"])
def test_a_time_that_makes_no_sense_is_refused_in_a_sentence(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, "hold", "--seconds", seconds)
    assert code == 2
    assert "--seconds" in said
    assert "Traceback" not in said


LETTERS = "0b5d1c52-6f0e-4f57-9d6a-3f1f0f8f3a11"
SECRET = "guard-secret-of-a-test-" + "g" * 16


@pytest.mark.parametrize("node", [LETTERS, LETTERS.upper()])
def test_the_key_of_a_node_is_printed_alone_and_what_to_do_with_it_beside(
    node: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", "postgresql+asyncpg://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("WAHAFLEET_GUARD_SECRET", SECRET)
    with pytest.raises(SystemExit) as ended:
        main(["guard", "key", node])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.out == node_key(SECRET.encode(), LETTERS).hex() + "\n"
    assert "WAHAFLEET_GUARD_KEY" in shown.err
    assert f"WAHAFLEET_GUARD_NODE_ID={LETTERS}" in shown.err
    assert SECRET not in shown.out + shown.err


@pytest.mark.parametrize(
    ("node", "secret", "said"), [("host-1", SECRET, "no whole node id"), (NODE, "", "is not set")]
)
def test_no_key_is_made_up(
    node: str, secret: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", "postgresql+asyncpg://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("WAHAFLEET_GUARD_SECRET", secret)
    code, told = run(capsys, "key", node)
    assert code == 1
    assert said in told
