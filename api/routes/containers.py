"""Containers, for operators."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request
from litestar.params import FromPath

from api.auth import actor_of, requires_operator
from api.deadline import in_time
from api.openapi import errors
from api.routing import get
from api.schemas import Container, ContainerAccess
from api.services import Services, services_of
from core.domain.accounts import FieldError, clean_email
from core.domain.facts import Endpoint
from core.domain.names import parse_id
from core.errors import Conflict, NotFound
from core.store import accounts
from core.store.containers import ContainerView, hand_out_access, read_container

TAGS = ["containers"]
SECURED: Final[list[dict[str, list[str]]]] = [{"operator": []}]


@get(
    "/containers/{user_id:str}",
    guards=[requires_operator],
    operation_id="getContainer",
    summary="A user's container; `user_id` may also be the user's e-mail",
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 404, 503),
)
async def get_container(request: Request[Any, Any, Any], user_id: FromPath[str]) -> Container:
    services = services_of(request)
    return rendered(services, await container_of(services, user_id))


@get(
    "/containers/{user_id:str}/access",
    guards=[requires_operator],
    operation_id="getContainerAccess",
    summary="Address, port and API key of a user's WAHA, for trusted services",
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 404, 409, 503),
)
async def get_container_access(request: Request[Any, Any, Any], user_id: FromPath[str]) -> ContainerAccess:
    services = services_of(request)
    found = await container_of(services, user_id)
    if found.address is None or found.port is None:
        raise Conflict(
            "O container ainda não tem porta. Tente novamente em instantes.", code="container_not_placed"
        )
    secrets = await in_time(
        hand_out_access(services.engine, found.user_id, services.vault.sealer, actor=actor_of(request))
    )
    if secrets is None:
        raise unknown_container()
    return ContainerAccess(
        user_id=found.user_id,
        address=found.address,
        port=found.port,
        base_url=Endpoint(found.address, found.port, found.container_id or "").base_url,
        api_key=secrets.api_key,
    )


def rendered(services: Services, found: ContainerView) -> Container:
    """As operators see it."""
    return Container(
        user_id=found.user_id,
        container_name=found.container_name,
        container_id=found.container_id,
        job=found.job,
        node=found.node,
        address=found.address,
        port=found.port,
        base_url=found.base_url,
        status=found.status,
        phase=found.phase,
        reason=found.reason,
        image=services.settings.job.image,
        engine=services.settings.job.engine,
        epoch=found.epoch,
        chips=found.chips,
        created_at=found.created_at,
    )


async def container_of(services: Services, user: str) -> ContainerView:
    """The container of a user, by id or e-mail. Raises NotFound."""
    user_id = await user_of(services, user)
    found = None if user_id is None else await in_time(read_container(services.engine, user_id))
    if found is None or found.deleted:
        raise unknown_container()
    return found


async def user_of(services: Services, user: str) -> str | None:
    """The id behind an id or an e-mail; None for what is neither, or no account's e-mail."""
    user_id = parse_id(user)
    if user_id is None and "@" in user:
        try:
            user_id = await in_time(accounts.find_id(services.engine, clean_email(user)))
        except FieldError:
            return None
    return user_id


def unknown_container() -> NotFound:
    return NotFound("Container não encontrado.", code="container_not_found")
