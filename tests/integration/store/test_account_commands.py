"""`wahafleet user`, `plan` and `key` on a real store."""

from __future__ import annotations

import asyncio
import io
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from api.passwords import Passwords
from cli.main import main
from core.crypto import hashed_access_key
from core.store import refresh_families
from core.store.engine import engine_for
from tests.contract.store.harness import PostgresHarness

Run = Callable[..., tuple[int, str, str]]
ANA = ("ana@empresa.com.br", "--name", "Ana Souza", "--phone", "+55 11 99999-9999")


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("WAHAFLEET_DATABASE_URL", database_url)
    monkeypatch.delenv("WAHAFLEET_ACCOUNTS", raising=False)

    def run(*arguments: str, typed: str = "Senha@123\n") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        assert "Traceback" not in shown.err
        return ended.value.code, shown.out, shown.err

    return run


def sql(url: str, statement: str, **values: Any) -> list[Any]:
    async def ask() -> list[Any]:
        engine = engine_for(url)
        try:
            async with engine.begin() as connection:
                result = await connection.execute(text(statement), values)
                return list(result.all()) if result.returns_rows else []
        finally:
            await engine.dispose()

    return asyncio.run(ask())


def actions(url: str) -> list[str]:
    rows = sql(url, "SELECT action, actor_kind FROM audit_log ORDER BY id")
    assert {row.actor_kind for row in rows} <= {"command_line"}
    return [row.action for row in rows]


def test_an_account_is_made_shown_and_listed(run: Run, database_url: str) -> None:
    code, out, _ = run("user", "create", *ANA, "--plan", "business", "--document", "529.982.247-25")
    assert code == 0
    user_id = out.strip()
    [row] = sql(database_url, "SELECT * FROM users")
    assert (str(row.id), row.plan_slug, row.phone) == (user_id, "business", "+5511999999999")
    assert asyncio.run(Passwords().verify(row.password_hash, "Senha@123")).matches
    for named in (user_id, "ANA@empresa.com.br"):
        code, out, _ = run("user", "show", named, "--json")
        shown = json.loads(out)
        assert (shown["id"], shown["document"], shown["chips"]) == (user_id, "52998224725", 0)
        assert "password" not in out
        assert row.password_hash not in out
    assert "ana@empresa.com.br" in run("user", "show", user_id)[1]
    for arguments, found in (((), 1), (("souza",), 1), (("%",), 0), (("--plan", "free"), 0)):
        assert len(json.loads(run("user", "list", *arguments, "--json")[1])) == found
    assert run("user", "list", "nobody") == (0, "no users\n", "")
    code, out, err = run("user", "list", "-n", "1")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "only the first 1" in err
    assert actions(database_url) == ["account.create"]


@pytest.mark.parametrize(
    ("arguments", "typed", "words"),
    [
        (ANA, "short\n", "too weak"),
        (("ana", *ANA[1:]), "Senha@123\n", "an e-mail"),
        ((*ANA[:3], "--phone", "123"), "Senha@123\n", "--phone"),
        ((*ANA, "--document", "1"), "Senha@123\n", "--document"),
        ((*ANA, "--plan", "gold"), "Senha@123\n", "wahafleet plan list"),
    ],
)
def test_accounts_that_are_refused(
    run: Run, database_url: str, arguments: tuple[str, ...], typed: str, words: str
) -> None:
    code, out, err = run("user", "create", *arguments, typed=typed)
    assert (code, out) == (1, "")
    assert words in err
    assert typed.strip() not in err
    assert sql(database_url, "SELECT 1 FROM users") == []


def test_an_e_mail_is_one_account(run: Run) -> None:
    assert run("user", "create", *ANA)[0] == 0
    code, _, err = run("user", "create", "Ana@Empresa.com.br", *ANA[1:])
    assert code == 1
    assert "has an account already" in err


def begin_login(url: str, user_id: str) -> None:
    async def begin() -> None:
        engine = engine_for(url)
        soon = (await PostgresHarness(engine).now()).replace(year=2100)
        token = refresh_families.Token(str(uuid.uuid4()), b"hash", soon)
        async with engine.begin() as connection:
            known = await connection.scalar(text("SELECT password_hash FROM users"))
        assert not await refresh_families.begin(engine, user_id, token, password_hash="another")
        assert await refresh_families.begin(engine, user_id, token, password_hash=known)
        await engine.dispose()

    asyncio.run(begin())


def live_logins(url: str) -> int:
    return len(sql(url, "SELECT 1 FROM refresh_families WHERE ended_at IS NULL"))


def test_a_password_and_a_suspension_end_logins(run: Run, database_url: str) -> None:
    user_id = run("user", "create", *ANA)[1].strip()
    begin_login(database_url, user_id)
    assert run("user", "password", "Ana@Empresa.com.br", typed="Outra@456\n")[0] == 0
    [row] = sql(database_url, "SELECT password_hash FROM users")
    assert asyncio.run(Passwords().verify(row.password_hash, "Outra@456")).matches
    assert live_logins(database_url) == 0
    begin_login(database_url, user_id)
    assert run("user", "suspend", user_id)[0] == 0
    assert live_logins(database_url) == 0
    [row] = sql(database_url, "SELECT suspended_at FROM users")
    assert row.suspended_at is not None
    assert "is suspended already" in run("user", "suspend", user_id)[2]
    assert run("user", "unsuspend", "ana@empresa.com.br")[0] == 0
    assert "is not suspended" in run("user", "unsuspend", user_id)[2]
    assert actions(database_url) == [
        "account.create",
        "account.password",
        "account.suspend",
        "account.unsuspend",
    ]


def test_plan_and_role_of_a_user(run: Run, database_url: str) -> None:
    user_id = run("user", "create", *ANA)[1].strip()
    assert run("user", "plan", user_id, "enterprise") == (0, f"{user_id} on enterprise\n", "")
    assert "already" in run("user", "plan", user_id, "enterprise")[2]
    assert "wahafleet plan list" in run("user", "plan", user_id, "gold")[2]
    assert run("user", "role", user_id, "operator")[0] == 0
    assert "already" in run("user", "role", user_id, "operator")[2]
    assert run("user", "role", user_id, "admin")[0] == 2
    [row] = sql(database_url, "SELECT plan_slug, role FROM users")
    assert tuple(row) == ("enterprise", "operator")
    for verb in (("suspend", "x@y.com"), ("plan", "x@y.com", "free"), ("role", "x", "user"), ("show", "x")):
        code, _, err = run("user", *verb)
        assert code == 1
        assert "wahafleet user list" in err
    assert actions(database_url) == ["account.create", "account.plan", "account.role"]


def test_accounts_of_another_backend_are_changed_there(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = run("user", "create", *ANA)[1].strip()
    monkeypatch.setenv("WAHAFLEET_ACCOUNTS", "attached")
    for verb in (("create", "b@x.com", *ANA[1:]), ("password", ANA[0]), ("plan", user_id, "business")):
        code, _, err = run("user", *verb)
        assert code == 1
        assert "WHAGO" in err
    assert run("user", "suspend", user_id)[0] == 0


def test_plans(run: Run, database_url: str) -> None:
    code, out, _ = run("plan", "list")
    assert [line.split()[0] for line in out.splitlines()] == ["slug", "free", "business", "enterprise"]
    assert run("plan", "set", "free", "--chips", "2") == (0, "free changed\n", "")
    assert (
        run("plan", "set", "max", "--title", "Plano Max", "--chips", "10", "--api-access")[1] == "max made\n"
    )
    code, out, err = run("plan", "set", "max", "--chips", "25", "--proxy-gb", "2.5")
    assert (code, out) == (0, "max changed\n")
    assert err.startswith("warning: 25 chips")
    plans = {plan["slug"]: plan for plan in json.loads(run("plan", "list", "--json")[1])}
    assert plans["free"]["max_chips"] == 2
    assert plans["max"] == {
        "slug": "max",
        "title": "Plano Max",
        "max_chips": 25,
        "api_access": True,
        "cpu_mhz": 200,
        "memory_mb": 300,
        "memory_max_mb": 1024,
        "proxy_gb_limit": 2.5,
        "start_order": 20,
        "users": 0,
    }
    for arguments, words in (
        (("gold", "--chips", "3"), "--title and --chips"),
        (("free",), "nothing to change"),
        (("Gold!", "--chips", "3", "--title", "x"), "a plan's key"),
        (("free", "--memory-max-mb", "100"), "--memory-mb"),
        (("free", "--title", "a\nb"), "a plan's title"),
    ):
        code, _, err = run("plan", "set", *arguments)
        assert code == 1
        assert words in err
    assert actions(database_url) == ["plan.set"] * 3


def test_daemons_hear_of_a_changed_plan(run: Run, database_url: str) -> None:
    async def heard() -> list[str]:
        engine = engine_for(database_url)
        harness = PostgresHarness(engine)
        user_id = await harness.user("business")
        await harness.chip(user_id)
        await harness.user("business")  # without a container
        async with harness.listening("intents") as news:
            await asyncio.to_thread(run, "plan", "set", "business", "--chips", "4")
            told = await news()
            await asyncio.to_thread(run, "user", "plan", user_id, "enterprise")
            told += await news()
        await engine.dispose()
        assert set(told) == {user_id}
        return told

    assert len(asyncio.run(heard())) == 2


def test_keys_of_services_and_operators(run: Run, database_url: str) -> None:
    code, out, err = run("key", "create", " heat-up ", "--role", "service")
    assert code == 0
    plain = out.strip()
    assert re.fullmatch(r"whago_[0-9a-f]{8}_[0-9a-f]{64}", plain)
    assert plain not in err
    [row] = sql(database_url, "SELECT * FROM api_keys")
    assert (row.name, row.role, row.user_id, row.key_hash) == (
        "heat-up",
        "service",
        None,
        hashed_access_key(plain),
    )
    operator = run("key", "create", "console", "--role", "operator")[1].strip()
    code, out, _ = run("key", "list")
    assert (code, len(out.splitlines())) == (0, 3)
    for secret in (plain, operator):
        assert secret not in out
        assert secret[:14] in out
    assert run("key", "revoke", plain[:14]) == (0, f"{plain[:14]} heat-up revoked\n", "")
    [row] = sql(database_url, "SELECT id::text FROM api_keys WHERE revoked_at IS NULL")
    assert run("key", "revoke", row.id)[0] == 0
    assert [key["revoked_at"] is None for key in json.loads(run("key", "list", "--json")[1])] == [
        False,
        False,
    ]
    for nothing in ("whago_00000000", str(uuid.uuid4()), "x"):
        code, _, err = run("key", "revoke", nothing)
        assert code == 1
        assert "wahafleet key list" in err
    assert run("key", "create", "x", "--role", "service")[0] == 1
    assert run("key", "create", "heat-up")[0] == 2
    assert run("key", "create", "heat-up", "--role", "user")[0] == 2
    assert actions(database_url) == ["api_key.create"] * 2 + ["api_key.revoke"] * 2
