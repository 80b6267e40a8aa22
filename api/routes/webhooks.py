"""Webhooks of WAHA: authenticated, kept once in the inbox, and nothing more. They are hints."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath

from api.deadline import in_time
from api.openapi import errors
from api.routing import post
from api.schemas import Stored
from api.services import services_of
from core.crypto import signature_matches
from core.domain.names import parse_id
from core.errors import InvalidInput, Unauthenticated
from core.store import webhooks
from core.store.webhooks import SESSION_STATUS, InboxEvent

BODY_LIMIT_BYTES: Final = 1024 * 1024
_ID_LIMIT: Final = 80
_EVENT_LIMIT: Final = 60
_SESSION_LIMIT: Final = 80
# What a hint needs of the envelope. `me` and `payload` may name people and hold what they wrote.
_KEPT: Final = ("id", "timestamp", "event", "session", "metadata", "engine", "environment")


@dataclass
class WebhookOperation(Operation):
    """The body is read raw for its signature, so the framework cannot know its shape."""

    def __post_init__(self) -> None:
        envelope = Schema(type=OpenAPIType.OBJECT, required=["id", "event", "session"])
        media = OpenAPIMediaType(schema=envelope)
        self.request_body = RequestBody(content={"application/json": media}, required=True)


@post(
    "/webhooks/waha/{user_id:str}",
    status_code=200,
    request_max_body_size=BODY_LIMIT_BYTES,
    operation_class=WebhookOperation,
    operation_id="receiveWahaWebhook",
    summary="An event of a user's container",
    description="Signed with `X-Webhook-Hmac`: hex HMAC-SHA512 of the raw body. 200 means that it is stored.",
    tags=["webhooks"],
    responses=errors(400, 401, 413, 503),
)
async def receive_waha_webhook(request: Request[Any, Any, Any], user_id: FromPath[str]) -> Stored:
    services = services_of(request)
    raw = await request.body()
    # Whoever waits here for longer than the store may take is told what the store's silence is told with.
    await in_time(services.hooks.acquire())
    try:
        return await _received(request, parse_id(user_id), raw)
    finally:
        services.hooks.release()


async def _received(request: Request[Any, Any, Any], known: str | None, raw: bytes) -> Stored:
    services = services_of(request)
    sealed = None if known is None else await in_time(webhooks.sealed_hook_key(services.engine, known))
    claimed = request.headers.get("x-webhook-hmac", "")
    if known is None or sealed is None or not claimed:
        raise await _unsigned(request)
    if not signature_matches(services.vault.open(known, sealed), raw, claimed):
        raise await _unsigned(request)
    event = inbox_event(raw)
    new = await in_time(webhooks.record(services.engine, known, event))
    await services.qr.heard(known, event, new=new)
    return Stored("stored" if new else "duplicate")


def inbox_event(raw: bytes) -> InboxEvent:
    """What is kept of a webhook's body. Raises InvalidInput, code `invalid_json`, on what is no event."""
    try:
        envelope = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("O corpo do webhook não é um JSON válido.", code="invalid_json") from error
    if not isinstance(envelope, dict):
        raise InvalidInput("O webhook deve ser um objeto JSON.", code="invalid_json")
    id_, event, session = (envelope.get(name) for name in ("id", "event", "session"))
    if not (isinstance(id_, str) and id_ and isinstance(event, str) and event and isinstance(session, str)):
        raise InvalidInput("O webhook precisa de id, event e session.", code="invalid_json")
    kept = {name: envelope[name] for name in _KEPT if name in envelope}
    if event == SESSION_STATUS:
        kept.update((name, envelope[name]) for name in ("me", "payload") if name in envelope)
    return InboxEvent(
        id=_short(id_, _ID_LIMIT),
        event=_storable(event)[:_EVENT_LIMIT],
        session=_storable(session)[:_SESSION_LIMIT],
        body=_storable_json(kept),
    )


async def _unsigned(request: Request[Any, Any, Any]) -> Unauthenticated:
    """What is not signed counts for its address; what is, never does. Raises TooManyRequests."""
    services = services_of(request)
    await services.limits.of_address(services.proxies.client_address(request.scope))
    return Unauthenticated("Assinatura do webhook inválida.", code="bad_signature")


def _short(id_: str, limit: int) -> str:
    """The id itself, or a fingerprint of one that is too long: two events must stay two."""
    id_ = _storable(id_)
    return id_ if len(id_) <= limit else "sha256:" + hashlib.sha256(id_.encode()).hexdigest()


def _storable(text: str) -> str:
    """PostgreSQL keeps no NUL in a text."""
    return text.replace("\0", "")


def _storable_json(value: Any) -> Any:
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, dict):
        return {_storable(key): _storable_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable_json(inner) for inner in value]
    return value
