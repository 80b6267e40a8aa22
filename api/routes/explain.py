"""Why a chip is where it is."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request
from litestar.params import FromPath

from api.auth import requires_user_or_command_line
from api.deadline import in_time
from api.intents import known_id
from api.openapi import CHIP_ERRORS, SECURED
from api.rendering import wants_lower_case
from api.routing import get
from api.services import services_of
from core.domain.explain import Explanation, explain
from core.policies import policy_of
from core.store import chips_admin, queries
from core.store.intents import unknown_chip


@get(
    "/chips/{chip_id:str}/explain",
    guards=[requires_user_or_command_line],
    operation_id="explainChip",
    summary="Why a chip is where it is, what happens next, and what people can do",
    description=(
        "Causes with the root first, each with what was seen of it; budgets left; the next automatic step and "
        "when. `text`, `next` and `person` are for the chip's owner, `operator` is for whoever runs the fleet. "
        "Everything is answered from the store: `observed_at` says when somebody last looked."
    ),
    tags=["chips"],
    security=[*SECURED, {"operator": []}],
    responses=CHIP_ERRORS,
)
async def explain_chip(request: Request[Any, Any, Any], chip_id: FromPath[str]) -> Explanation:
    services = services_of(request)
    known, account = known_id(chip_id), request.scope.get("user")
    owner = account.id if account is not None else await in_time(chips_admin.owner_of(services.engine, known))
    story = None if owner is None else await in_time(queries.read_story(services.engine, owner, known))
    if story is None:
        raise unknown_chip()
    told = explain(story, services.clock.now(), policy_of(services.settings.loop))
    if wants_lower_case(request):
        told = msgspec.structs.replace(told, status=told.status.lower())
    return told
