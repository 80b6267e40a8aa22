"""Webhooks of WAHA: authenticated, kept once in the inbox, and nothing more. They are hints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from litestar import Request
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath

from api.deadline import in_time
from api.hooks import Unsigned
from api.openapi import errors
from api.routing import post
from api.schemas import Stored
from api.services import services_of
from core.domain.names import parse_id
from core.errors import Unauthenticated

BODY_LIMIT_BYTES: Final = 1024 * 1024


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
    known, claimed = parse_id(user_id), request.headers.get("x-webhook-hmac", "")
    raw = await request.body()
    if known is None:
        raise await _unsigned(request)
    try:
        new = await in_time(services_of(request).hooks.received(known, raw, claimed))
    except Unsigned as error:
        raise await _unsigned(request) from error
    return Stored("stored" if new else "duplicate")


async def _unsigned(request: Request[Any, Any, Any]) -> Unauthenticated:
    """What is not signed counts for its address; what is, never does. Raises TooManyRequests."""
    services = services_of(request)
    await services.limits.of_address(services.proxies.client_address(request.scope))
    return Unauthenticated("Assinatura do webhook inválida.", code="bad_signature")
