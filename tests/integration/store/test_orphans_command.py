"""`wahafleet orphans` on a real store."""

from __future__ import annotations

import asyncio
import json

import pytest
from cryptography.fernet import Fernet

from cli.main import main
from core.crypto import Sealer
from core.domain.belongings import Found, Kind
from core.domain.orphans import Moved, Saw, State
from core.store.engine import engine_for
from core.store.interface import Lease
from core.store.orphans import PostgresOrphans
from core.store.reconcile import PostgresReconcileStore

JOB = Found(Kind.JOB, "waha_plus_user_x", fingerprint="7", costs={"port": 3101, "node": "host-1"})
SPACE = Found(Kind.NAMESPACE, "u" + "1" * 15, "main", costs={"databases": 2, "bytes": 14_400_000})
YOUNG = Found(Kind.VARIABLES, "nomad/jobs/waha_plus_user_x")


async def _fill(url: str) -> None:
    engine = engine_for(url)
    store = PostgresReconcileStore(engine, Sealer((Fernet.generate_key().decode(),)))
    orphans = PostgresOrphans(engine)
    lease = await store.claim("fleet", "d1", 60)
    assert isinstance(lease, Lease)
    await orphans.apply(lease, [Saw(JOB), Saw(SPACE), Saw(YOUNG)])
    rows = (await orphans.book()).rows
    await orphans.apply(
        lease, [Moved(row.id, State.SEEN, State.WAITING) for row in rows if row.found != YOUNG]
    )
    await engine.dispose()


@pytest.fixture
def filled(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_fill(database_url))
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", database_url)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["orphans", *arguments])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out, shown.err


@pytest.mark.usefixtures("filled")
def test_list_approve_and_keep(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    job, space, young = out.splitlines()
    assert job.split()[:2] == ["1", "waiting"]
    assert "job       waha_plus_user_x [node host-1, port 3101]" in job
    assert "in main [bytes 14.4 MB, databases 2]" in space
    assert young.split()[:2] == ["3", "seen"]

    assert run(capsys, "approve", "1", "--by", "ana") == (0, "1 job waha_plus_user_x: approved\n", "")
    code, out, err = run(capsys, "approve", "3", "99", "1")
    assert (code, out) == (1, "")
    assert "orphan 1 is approved already; orphan 3 is younger than the grace" in err
    assert "there is no orphan 99" in err
    assert run(capsys, "keep", "1", "--by", "bia")[:2] == (0, "1 job waha_plus_user_x: kept\n")
    assert run(capsys, "approve", "--waiting")[1] == f"2 namespace {SPACE.name}: approved\n"
    assert run(capsys, "approve", "--waiting")[1] == "nothing waits for a yes\n"

    code, out, _ = run(capsys, "list", "--json")
    found = {row["id"]: row for row in json.loads(out)}
    assert {id_: row["state"] for id_, row in found.items()} == {1: "kept", 2: "approved", 3: "seen"}
    assert found[1]["decided_by"] == "bia"
    assert found[2]["costs"] == SPACE.costs
    assert found[2]["place"] == "main"


def test_an_empty_list_says_so(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", database_url)
    assert run(capsys, "list") == (0, "no orphans\n", "")
    assert json.loads(run(capsys, "list", "--json")[1]) == []


@pytest.mark.parametrize(
    "arguments", [("approve",), ("approve", "1", "--waiting"), ("keep",), ("approve", "x")]
)
def test_asked_in_a_wrong_way(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "--help" in err
