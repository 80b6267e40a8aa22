"""A chip's history and what happens to it now."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response
from litestar.params import FromPath, FromQuery, HeaderParameter
from litestar.response import Stream

from api.auth import Principal, requires_user
from api.chip_watch import ChipWatch
from api.deadline import in_time
from api.intents import known_id
from api.openapi import CHIP_ERRORS, SECURED, STREAMED, errors
from api.parameters import MOST, limit_of, next_link
from api.rendering import wants_lower_case
from api.routing import get
from api.services import services_of
from api.streams import EventStream
from core.domain.history import EventView, event_number, event_view
from core.errors import InvalidInput
from core.store import history, queries
from core.store.accounts import Account
from core.store.intents import unknown_chip

TAGS = ["chips"]
UserRequest = Request[Account, Principal, Any]


@get(
    "/chips/{chip_id:str}/events",
    guards=[requires_user],
    operation_id="listChipEvents",
    summary="What happened to a chip, newest first",
    description=(
        f'`limit`: 1 to {MOST}. The next page is named in `Link: <...>; rel="next"`; its `cursor` is the id '
        "of the last event here. Status words in `extra_data` (`from`, `to`, `status`) have the caller's letter case."
    ),
    tags=TAGS,
    security=SECURED,
    responses=CHIP_ERRORS | errors(422),
)
async def list_chip_events(
    request: UserRequest,
    chip_id: FromPath[str],
    limit: FromQuery[str] = "50",
    cursor: FromQuery[str | None] = None,
) -> Response[list[EventView]]:
    services = services_of(request)
    known, wanted, before = known_id(chip_id), limit_of(limit), _before(cursor)
    found = await in_time(
        history.list_events(services.engine, request.user.id, known, before=before, limit=wanted + 1)
    )
    if found is None:
        raise unknown_chip()
    lower_case = wants_lower_case(request)
    page = [event_view(event, lower_case=lower_case) for event in found[:wanted]]
    path, more = f"/api/v1/chips/{known}/events", len(found) > wanted
    headers = next_link(path, limit=str(wanted), cursor=page[-1].id) if more else {}
    return Response(page, headers=headers)


@get(
    "/chips/{chip_id:str}/stream",
    guards=[requires_user],
    operation_id="streamChip",
    summary="What happens to a chip, as server-sent events",
    description=(
        "`text/event-stream` with events `status`, `phase`, `qr` (with `seconds_left`) and `event` (as in `/events`). "
        "State is sent at the start and whenever it changed; events carry ids, and `Last-Event-ID` goes on behind "
        "one: none is lost, none comes twice. A comment comes at least every 15 s. The last event is `end`, with "
        "`reason` `chip_deleted`, `token_expired` or `reconnect` (a stream ends after "
        "`WAHAFLEET_STREAM_LIFE_S`; open it again, which browsers do by themselves)."
    ),
    tags=TAGS,
    security=SECURED,
    responses=CHIP_ERRORS | errors(429) | {200: STREAMED},
)
async def stream_chip(
    request: UserRequest,
    chip_id: FromPath[str],
    last_event_id: Annotated[str, HeaderParameter(name="Last-Event-ID")] = "",
) -> Stream:
    services = services_of(request)
    known, user_id = known_id(chip_id), request.user.id
    if await in_time(queries.read_chip(services.engine, user_id, known)) is None:
        raise unknown_chip()
    watch = ChipWatch(
        services,
        user_id,
        known,
        lower_case=wants_lower_case(request),
        after=event_number(last_event_id.strip()),
    )
    sources = [watch.messages(), watch.codes()]
    return EventStream(services.streams, user_id, sources, request.auth.expires_at)


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    number = event_number(cursor)
    if number is None:
        message = "Use o cursor do cabeçalho Link da página anterior."
        raise InvalidInput(f"cursor: {message}", fields={"cursor": message})
    return number
