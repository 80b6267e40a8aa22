"""Every change that a route makes is on record, and no line of it holds a secret."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
import pytest

from api.openapi import with_examples
from tests.integration.api import proxied
from tests.integration.api.conftest import OPERATOR_TOKEN, PASSWORD, Person, Running

OPERATOR: Final = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
REQUEST_ID: Final = "walk-1"


class Walk:
    """One user with a placed chip, and what changes it."""

    def __init__(self, running: Running, person: Person, chip_id: str) -> None:
        self.running, self.person, self.chip_id = running, person, chip_id

    async def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        more = {} if body is None else {"json": body}
        headers = {**(headers or self.person.headers), "X-Request-ID": REQUEST_ID}
        return await self.running.client.request(method, f"/api/v1{path}", headers=headers, **more)


async def register(walk: Walk) -> httpx.Response:
    body = {"name": "Bia", "email": f"{uuid.uuid4().hex}@x.com.br", "password": PASSWORD}
    return await walk.send("POST", "/auth/register", {**body, "phone": "+5511999999999"})


async def login(walk: Walk) -> httpx.Response:
    return await walk.send("POST", "/auth/login", {"email": walk.person.email, "password": PASSWORD})


async def reconnect(walk: Walk) -> httpx.Response:
    return await walk.send("POST", f"/chips/{walk.chip_id}/reconnect", {"fresh": True})


async def logged_in(walk: Walk) -> dict[str, str]:
    """The cookie of a login that nothing has used yet; the line that it left is taken away."""
    token = (await login(walk)).json()["refresh_token"]
    walk.running.client.cookies.clear()
    await walk.running.sql("DELETE FROM audit_log")
    return {"cookie": f"whago_refresh_token={token}"}


async def refresh(walk: Walk) -> httpx.Response:
    return await walk.send("POST", "/auth/refresh", headers=await logged_in(walk))


async def logout(walk: Walk) -> httpx.Response:
    return await walk.send("POST", "/auth/logout", headers=await logged_in(walk))


async def create_key(walk: Walk) -> httpx.Response:
    return await walk.send("POST", "/api-keys", {"name": "CRM"})


async def revoke_key(walk: Walk) -> httpx.Response:
    made = await create_key(walk)
    await walk.running.sql("DELETE FROM audit_log")
    return await walk.send("DELETE", f"/api-keys/{made.json().get('id')}")


async def remove_annotation(walk: Walk) -> httpx.Response:
    path = f"/chips/{walk.chip_id}/annotations/heat_up"
    await walk.send("PUT", path, {"on": True}, OPERATOR)
    await walk.running.sql("DELETE FROM audit_log")
    return await walk.send("DELETE", path, headers=OPERATOR)


async def resume_fleet(walk: Walk) -> httpx.Response:
    await walk.send("POST", "/fleet/pause", headers=OPERATOR)
    await walk.running.sql("DELETE FROM audit_log")
    return await walk.send("POST", "/fleet/resume", headers=OPERATOR)


def provider_change(
    method: str, path: str = "", body: Any = None, *, first: str = ""
) -> Callable[[Walk], Awaitable[httpx.Response]]:
    """A request about a provider that is there, with a sub-user in whose place `{id}` stands.

    `first`: a statement that makes the change one.
    """

    async def ask(walk: Walk) -> httpx.Response:
        made = await proxied.provider(walk.running, uuid.uuid4().hex)
        mine = await proxied.sub_user(walk.running, made["slug"])
        if first:
            await walk.running.sql(first)
        await walk.running.sql("DELETE FROM audit_log")
        target = f"/fleet/providers/{made['slug']}{path.replace('{id}', mine['id'])}"
        return await walk.send(method, target, body, OPERATOR)

    return ask


async def create_provider(walk: Walk) -> httpx.Response:
    body = {"slug": uuid.uuid4().hex, "template": "dataimpulse"}
    return await walk.send("POST", "/fleet/providers", body, OPERATOR)


async def rotate_label(walk: Walk) -> httpx.Response:
    made = await proxied.provider(walk.running, uuid.uuid4().hex)
    mine = await proxied.sub_user(walk.running, made["slug"])
    await walk.running.sql("DELETE FROM labels")
    await proxied.label(walk.running, walk.person, walk.chip_id, mine)
    await walk.running.sql("DELETE FROM audit_log")
    return await walk.send("POST", f"/chips/{walk.chip_id}/proxy/rotate", headers=OPERATOR)


NOT_DEFAULT: Final = "UPDATE providers SET is_default = false"
OF_PROVIDERS: Final[dict[str, tuple[str, Callable[[Walk], Awaitable[httpx.Response]]]]] = {
    "createProvider": ("provider.create", create_provider),
    "changeProvider": ("provider.change", provider_change("PUT", body={"title": "Outro"})),
    "setDefaultProvider": ("provider.default", provider_change("POST", "/default", first=NOT_DEFAULT)),
    "clearProviderTrouble": (
        "provider.clear_trouble",
        provider_change("DELETE", "/trouble", first="UPDATE providers SET trouble = 'traffic_exhausted'"),
    ),
    "createSubUser": (
        "sub_user.create",
        provider_change("POST", "/sub-users", {"login": "outro", "password": proxied.PASSWORD}),
    ),
    "changeSubUser": (
        "sub_user.change",
        provider_change("PUT", "/sub-users/{id}", {"password": proxied.PASSWORD}),
    ),
    "clearSubUserTrouble": (
        "sub_user.clear_trouble",
        provider_change(
            "DELETE", "/sub-users/{id}/trouble", first="UPDATE sub_users SET trouble = 'proxy_auth'"
        ),
    ),
    "removeSubUser": ("sub_user.remove", provider_change("DELETE", "/sub-users/{id}")),
    "removeProvider": ("provider.remove", provider_change("DELETE")),
}

# operationId -> the action on record, and a request that succeeds and changes something.
WALK: Final[dict[str, tuple[str, Callable[[Walk], Awaitable[httpx.Response]]]]] = {
    "register": ("account.register", register),
    "login": ("account.login", login),
    "refresh": ("account.refresh", refresh),
    "logout": ("account.logout", logout),
    "createApiKey": ("api_key.create", create_key),
    "revokeApiKey": ("api_key.revoke", revoke_key),
    "changeMe": ("account.change", lambda walk: walk.send("PUT", "/users/me", {"name": "Bia Lima"})),
    "createChip": ("chip.create", lambda walk: walk.send("POST", "/chips", {"alias": "suporte"})),
    "disconnectChip": (
        "chip.disconnect",
        lambda walk: walk.send("POST", f"/chips/{walk.chip_id}/disconnect"),
    ),
    "reconnectChip": ("chip.reconnect", reconnect),
    "getContainerAccess": (
        "container.access",
        lambda walk: walk.send("GET", f"/containers/{walk.person.id}/access", headers=OPERATOR),
    ),
    "restartContainer": (
        "container.restart",
        lambda walk: walk.send("POST", f"/containers/{walk.person.id}/restart", headers=OPERATOR),
    ),
    "restartMyContainer": ("container.restart", lambda walk: walk.send("POST", "/me/container/restart")),
    "deleteChip": ("chip.delete", lambda walk: walk.send("DELETE", f"/chips/{walk.chip_id}")),
    "putAnnotation": (
        "chip.annotate",
        lambda walk: walk.send("PUT", f"/chips/{walk.chip_id}/annotations/heat_up", {"on": True}, OPERATOR),
    ),
    "deleteAnnotation": ("chip.annotation_delete", remove_annotation),
    "putContainer": (
        "container.pin",
        lambda walk: walk.send("PUT", f"/containers/{walk.person.id}", headers=OPERATOR),
    ),
    "deleteContainer": (
        "container.delete",
        lambda walk: walk.send("DELETE", f"/containers/{walk.person.id}", headers=OPERATOR),
    ),
    "pauseFleet": ("fleet.pause", lambda walk: walk.send("POST", "/fleet/pause", headers=OPERATOR)),
    "resumeFleet": ("fleet.resume", resume_fleet),
    "rotateChipLabel": ("chip.rotate_label", rotate_label),
    **OF_PROVIDERS,
}
OF_OPERATORS: Final = frozenset(
    {
        *("getContainerAccess", "restartContainer", "putContainer", "deleteContainer"),
        *("pauseFleet", "resumeFleet", "putAnnotation", "deleteAnnotation", "rotateChipLabel"),
        *OF_PROVIDERS,
    }
)
# These tell of what has happened already, or change nothing.
NO_CHANGE: Final = {
    "receiveWahaWebhook",
    "dryRunProvider",  # it only shows
}
# They need a WAHA and orphans: test_pairing_code.py, test_containers_admin.py.
WALKED_ELSEWHERE: Final = {"requestPairingCode", "cleanupContainers"}


def test_every_route_that_changes_something_is_walked(running_document: dict[str, Any]) -> None:
    changing = {
        operation["operationId"]
        for item in running_document["paths"].values()
        for method, operation in item.items()
        if method in ("post", "put", "patch", "delete")
    }
    told = "put a row into WALK (or NO_CHANGE, with the reason) for a new route"
    assert changing - NO_CHANGE - WALKED_ELSEWHERE - WALK.keys() == set(), told
    assert changing >= NO_CHANGE | WALKED_ELSEWHERE


@pytest.fixture
async def running_document(running: Running) -> dict[str, Any]:
    return with_examples(running.app.openapi_schema.to_schema())


@pytest.fixture
async def walk(running: Running) -> Walk:
    person = await running.person()
    chip = await person.chip()
    await running.daemon.saw(person.id, port=3104)
    return Walk(running, person, chip["id"])


@pytest.mark.parametrize("operation", WALK)
async def test_a_success_is_one_line(running: Running, walk: Walk, operation: str) -> None:
    action, ask = WALK[operation]
    await running.sql("DELETE FROM audit_log")
    answer = await ask(walk)
    running.client.cookies.clear()
    assert answer.status_code < 300, answer.text
    [line] = await running.sql("SELECT * FROM audit_log")
    assert line.action == action
    assert (line.address, line.request_id) == ("127.0.0.1", REQUEST_ID)
    visitor, operator = operation in ("register", "login"), operation in OF_OPERATORS
    assert line.actor_kind == ("visitor" if visitor else "operator" if operator else "user")
    assert line.actor_id == (None if visitor or operator else uuid.UUID(walk.person.id))
    if operation not in ("register", "pauseFleet", "resumeFleet", *OF_PROVIDERS):
        assert str(line.user_id) == walk.person.id


OPEN: Final = {"register", "login", "refresh", "logout"}
NO_REFUSAL_HERE: Final = OF_OPERATORS - {"getContainerAccess", "restartContainer"}


@pytest.mark.parametrize("operation", sorted(WALK.keys() - OPEN - NO_REFUSAL_HERE))
async def test_a_refusal_is_no_line(running: Running, walk: Walk, operation: str) -> None:
    walk.person.token = "not-a-token"
    await running.sql("DELETE FROM audit_log")
    _, ask = WALK[operation]
    if operation in ("getContainerAccess", "restartContainer"):
        await running.sql("DELETE FROM chips")
        await running.sql("UPDATE containers SET port = NULL, address = NULL, allocation_id = NULL")
    assert (await ask(walk)).status_code in (401, 409)
    assert await running.sql("SELECT * FROM audit_log") == []


async def test_refused_logins_are_on_record_without_what_was_typed(running: Running) -> None:
    person = await running.person()
    await running.sql("DELETE FROM audit_log")
    stranger = "errada@empresa.com.br"
    for email in (person.email, stranger, "minha-senha"):
        body = {"email": email, "password": "Errada@123"}
        assert (await running.client.post("/api/v1/auth/login", json=body)).status_code == 401
    await running.sql("UPDATE users SET suspended_at = now()")
    body = {"email": person.email, "password": PASSWORD}
    assert (await running.client.post("/api/v1/auth/login", json=body)).status_code == 403
    lines = await running.sql("SELECT * FROM audit_log ORDER BY id")
    assert {line.action for line in lines} == {"account.login_refused"}
    me = uuid.UUID(person.id)
    assert [(line.user_id, line.detail) for line in lines] == [
        (me, {"code": "wrong_login"}),
        (None, {"code": "wrong_login"}),
        (None, {"code": "wrong_login"}),
        (me, {"code": "account_suspended"}),
    ]
    told = str(lines)
    for typed in (stranger, "minha-senha", "Errada@123", PASSWORD):
        assert typed not in told


async def test_no_line_holds_a_secret(running: Running, walk: Walk) -> None:
    secrets, told = {PASSWORD, OPERATOR_TOKEN, walk.person.token, proxied.PASSWORD}, ""
    for _, ask in WALK.values():
        answer = await ask(walk)
        told += str(await running.sql("SELECT * FROM audit_log"))
        running.client.cookies.clear()
        if answer.content:
            body = answer.json()
            secrets |= {
                body[name] for name in ("access_token", "refresh_token", "api_key", "key") if name in body
            }
    assert len(secrets) >= 8
    assert "chip.create" in told
    for secret in secrets:
        assert secret not in told
        assert secret[:24] not in told or len(secret) < 24
