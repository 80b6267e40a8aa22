"""`Idempotency-Key`: the same POST once more has its effect once and gives the first answer.

For routes whose caller is known; without a caller (login, register, refresh, logout) there is nobody's key to keep.
Answers of 5xx and 429 are not kept: they are there to be tried again. Bodies are kept sealed, all of them: some hold a
key that is shown once, and no list of those can be forgotten this way.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from api.auth import CLAIM, Principal
from api.deadline import in_time
from api.services import Services
from core.crypto import SecretUnreadable
from core.domain.actor import Claim
from core.domain.problem_codes import PROBLEM_KINDS
from core.errors import Conflict, DependencyError, InvalidInput
from core.store import idempotency
from core.store.idempotency import Answer, Taken

HEADER: Final = "idempotency-key"
# The first request may wait for a chip's port; its twin waits about as long, and is sent away then.
WAIT_S: Final = 10.0
_RETRY_AFTER_S: Final = 2
_POLL_FIRST_S: Final = 0.05
_POLL_CAP_S: Final = 0.5
_KEY: Final = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?\Z")
_KEY_TEXT: Final = "Use de 1 a 200 caracteres ASCII visíveis."
_KEPT: Final = frozenset({"content-type", "location", "preference-applied", "cache-control", "vary"})

_log = structlog.get_logger("api")


async def begin(request: Request[Any, Any, Any]) -> Response[Any] | None:
    """Before a handler: the first answer when there is one; else the request holds the key from here on.

    Raises InvalidInput for what is no key, Conflict for one that is taken, Unavailable.
    """
    principal: Principal | None = request.scope.get("auth")
    if request.method != "POST" or principal is None:
        return None
    keys = request.headers.getall(HEADER, [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.match(keys[0]):
        raise InvalidInput(f"Idempotency-Key: {_KEY_TEXT}", fields={"Idempotency-Key": _KEY_TEXT})
    services: Services = request.app.state.services
    outcome = await _claimed(services, _owner(principal), keys[0], await _fingerprint(request))
    if isinstance(outcome, Answer):
        return _replayed(services, outcome)
    scope: Any = request.scope
    scope[CLAIM] = outcome
    return None


async def _claimed(services: Services, owner: str, key: str, fingerprint: str) -> Claim | Answer:
    """The claim or the first answer, waiting a while for the latter. Raises Conflict, Unavailable."""
    loop = asyncio.get_running_loop()
    ends_at, pause_s = loop.time() + WAIT_S, _POLL_FIRST_S
    while True:
        outcome = await in_time(idempotency.claim(services.engine, owner, key, fingerprint))
        if outcome is Taken.REUSED:
            raise Conflict(
                "Esta Idempotency-Key já foi usada com outra requisição. Use uma nova chave.",
                code="idempotency_key_reused",
            )
        if outcome is Taken.LOST:
            raise _lost()
        if not isinstance(outcome, Taken):
            return outcome
        if loop.time() >= ends_at:
            raise Conflict(
                "A primeira requisição com esta Idempotency-Key ainda está em andamento. "
                f"Tente novamente em {_RETRY_AFTER_S} segundos.",
                code="idempotency_in_progress",
                after_s=_RETRY_AFTER_S,
            )
        await asyncio.sleep(pause_s)
        pause_s = min(_POLL_CAP_S, pause_s * 1.5)


def _lost() -> Conflict:
    detail = PROBLEM_KINDS["idempotency_answer_lost"].detail
    return Conflict(detail, code="idempotency_answer_lost")


def _replayed(services: Services, answer: Answer) -> Response[Any]:
    try:
        body = services.vault.sealer.open(answer.sealed_body)
    except SecretUnreadable:
        raise _lost() from None  # the key that it was sealed with is gone
    headers = {name: value for name, value in answer.headers.items() if name != "content-type"}
    return Response(
        body.encode(),
        status_code=answer.status,
        headers={**headers, "Idempotency-Replayed": "true"},
        media_type=answer.headers.get("content-type"),
    )


def _owner(principal: Principal) -> str:
    if principal.account is not None:
        return principal.account.id
    return "operator" if principal.key_id is None else f"key:{principal.key_id}"


async def _fingerprint(request: Request[Any, Any, Any]) -> str:
    what = hashlib.sha256()
    for part in (request.scope["path"].encode(), request.scope["query_string"], await request.body()):
        what.update(len(part).to_bytes(8) + part)
    return what.hexdigest()


class KeptAnswers:
    """Wraps an ASGI application: writes the answer of a request that holds a key before anybody gets it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["method"] == "POST":
            await self._post(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _post(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        held: list[Message] = []
        settled = False

        async def sending(message: Message) -> None:
            nonlocal settled
            claim: Claim | None = scope.get(CLAIM)  # type: ignore[assignment]
            if claim is None:
                await send(message)
                return
            held.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                settled = True
                await _settle(scope, claim, held)
                for one in held:
                    await send(one)

        try:
            await self._app(scope, receive, sending)
        finally:
            claim: Claim | None = scope.get(CLAIM)  # type: ignore[assignment]
            if claim is not None and not settled:
                await _settle(scope, claim, [])


async def _settle(scope: HTTPScope, claim: Claim, messages: list[Message]) -> None:
    """Keep the answer, or free the key when there is none worth keeping."""
    services: Services = scope["litestar_app"].state.services
    answer = _kept(services, messages)
    try:
        if answer is None:
            await in_time(idempotency.give_up(services.engine, claim))
        elif not await in_time(idempotency.keep(services.engine, claim, answer)):
            _log.warning("idempotency_claim_lost", path=scope["path"])
    except DependencyError as error:
        # The request had its effect and its caller has the answer; whoever repeats it is told that it is lost.
        _log.warning("idempotency_answer_not_kept", path=scope["path"], error=error.message)


def _kept(services: Services, messages: list[Message]) -> Answer | None:
    status, headers, body = 500, {}, b""
    for message in messages:
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message["headers"]
                if name.decode("latin-1").lower() in _KEPT
            }
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")
    if status >= 500 or status == 429:
        return None
    return Answer(status, headers, services.vault.sealer.seal(body.decode()))
