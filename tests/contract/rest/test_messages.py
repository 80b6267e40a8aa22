"""Section 2 of the contract: the sentences that the deployed pages show as they are.

Those that need more than a request (limits, keys, refresh tokens, an outage) have their tests elsewhere;
index.py names them.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from core.domain.quota import GIB
from tests.integration.api.conftest import PASSWORD, Person, Running
from tests.integration.api.fleet import QR
from tests.integration.api.test_authentication import EXPIRED, token

Ask = Callable[[Running, Person], Awaitable[httpx.Response]]


def _me(**headers: str) -> Ask:
    async def ask(running: Running, person: Person) -> httpx.Response:
        sent = {name.replace("_", "-"): value.replace("<id>", person.id) for name, value in headers.items()}
        return await running.client.get("/api/v1/users/me", headers=sent)

    return ask


def _bearer(make: Callable[[Person], str]) -> Ask:
    async def ask(running: Running, person: Person) -> httpx.Response:
        return await running.client.get(
            "/api/v1/users/me", headers={"Authorization": f"Bearer {make(person)}"}
        )

    return ask


def _post(path: str, body: dict[str, Any]) -> Ask:
    async def ask(running: Running, person: Person) -> httpx.Response:
        filled = {name: value.replace("<email>", person.email) for name, value in body.items()}
        return await running.client.post(f"/api/v1{path}", json=filled)

    return ask


async def _suspended(running: Running, person: Person) -> httpx.Response:
    await running.sql("UPDATE users SET suspended_at = now()")
    return await _post("/auth/login", {"email": "<email>", "password": PASSWORD})(running, person)


async def _inactive(running: Running, person: Person) -> httpx.Response:
    await running.sql("UPDATE users SET is_active = false")
    return await person.get("/users/me")


async def _foreign_chip(running: Running, person: Person) -> httpx.Response:
    return await (await running.person()).get(f"/chips/{(await person.chip())['id']}")


async def _unknown_chip(running: Running, person: Person) -> httpx.Response:
    return await person.get(f"/chips/{uuid.uuid4()}")


async def _alias_taken(running: Running, person: Person) -> httpx.Response:
    await person.chip("Vendas")
    return await person.post("/chips", json={"alias": "vENDAS"})


async def _plan_full(running: Running, person: Person) -> httpx.Response:
    free = await running.person("free")
    await free.chip()
    return await free.post("/chips", json={"alias": "mais um"})


REGISTRATION = {
    "name": "Ana Souza",
    "email": "<email>",
    "password": PASSWORD,
    "phone": "+5511999999999",
}
ROWS: list[tuple[str, Ask, int, str]] = [
    ("no token", _me(), 401, "Token de acesso não encontrado."),
    ("bad token", _me(authorization="Bearer x"), 401, "Token inválido ou expirado."),
    ("expired token", _bearer(lambda p: token(p.id, EXPIRED)), 401, "Token inválido ou expirado."),
    ("token without sub", _bearer(lambda p: token(None)), 401, "Token sem identificador de usuário."),
    (
        "token of unknown user",
        _bearer(lambda p: token(str(uuid.uuid4()))),
        401,
        "Usuário inválido ou inativo.",
    ),
    ("token of inactive user", _inactive, 401, "Usuário inválido ou inativo."),
    ("bad API key", _me(x_api_key="whago_x"), 401, "API Key inválida."),
    (
        "wrong login",
        _post("/auth/login", {"email": "<email>", "password": "Errada@123"}),
        401,
        "Email ou senha incorretos.",
    ),
    (
        "short password",
        _post("/auth/login", {"email": "<email>", "password": "x"}),
        401,
        "Email ou senha incorretos.",
    ),
    ("suspended", _suspended, 403, "Sua conta está suspensa. Entre em contato com o suporte."),
    ("e-mail taken", _post("/auth/register", REGISTRATION), 400, "Este email já está cadastrado."),
    (
        "unknown plan",
        _post("/auth/register", REGISTRATION | {"email": "novo@empresa.com.br", "plan_slug": "gold"}),
        400,
        "Plano selecionado é inválido.",
    ),
    ("chip unknown", _unknown_chip, 404, "Chip não encontrado."),
    ("chip not yours", _foreign_chip, 404, "Chip não encontrado."),
    ("alias used", _alias_taken, 400, "Já existe um chip com esse apelido."),
    ("plan limit", _plan_full, 403, "Limite de chips do plano atingido."),
]


@pytest.mark.parametrize(("ask", "status", "detail"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_each_refusal_in_its_own_words(running: Running, ask: Ask, status: int, detail: str) -> None:
    person = await running.person()
    answer = await ask(running, person)
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_quota_that_is_used_up(running: Running) -> None:
    await running.sql("UPDATE plans SET proxy_gb_limit = 5")
    person = await running.person()
    await running.sql(
        "INSERT INTO proxy_usage (month, user_id, chip_id, provider_slug, bytes_in, bytes_out, tunnels) VALUES "
        f"(date_trunc('month', clock_timestamp()), '{person.id}', '{person.id}', 'p', {5 * GIB}, {GIB // 4}, 1)"
    )
    answer = await person.post("/chips", json={"alias": "vendas"})
    assert (answer.status_code, answer.json()["code"]) == (402, "proxy_quota")
    assert answer.json()["detail"] == (
        "Limite de proxy excedido (5.25/5 GB). Faça upgrade ou aguarde renovação mensal."
    )


async def test_no_free_port_is_a_chip_that_waits(running: Running) -> None:
    person = await running.person()
    await person.chip("primeiro")
    await running.daemon.saw(person.id, phase="waiting", reason="no_port", port=None)
    answer = await person.post("/chips", json={"alias": "vendas"})
    assert (answer.status_code, answer.json()["status"]) == (201, "WAITING_QR")
    extra = answer.json()["extra_data"]
    assert (extra["waha_plus_port"], extra["reason"]) == (None, "no_port")
    assert (
        extra["reason_text"] == "Sem porta livre em nenhum host; o chip inicia assim que houver capacidade."
    )


@pytest.mark.parametrize("system", ["nomad", "consul", "redis", "waha"])
async def test_a_system_that_is_away_refuses_nothing(running: Running, system: str) -> None:
    text = "O serviço do WhatsApp está iniciando ou indisponível. Tentando novamente..."
    person = await running.person()
    chip = await person.chip()
    reason = f"dependency_{system}"
    await running.daemon.saw(
        person.id, phase="booting", reason=reason, port=None, endpoint=False, chips={chip["id"]: QR}
    )
    path = f"/chips/{chip['id']}"
    created = await person.post("/chips", json={"alias": "outro"})
    assert (created.status_code, created.json()["extra_data"]["reason_text"]) == (201, text)
    asked = await person.get(f"{path}/qr")
    assert (asked.status_code, asked.json()["status"], asked.json()["message"]) == (200, None, text)
    assert (await person.post(f"{path}/disconnect")).status_code == 200
    assert (await person.post(f"{path}/reconnect")).status_code == 200
    assert (await person.delete(path)).status_code == 204
