"""What operators wish of containers, all of them in a list, and what nobody explains."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from litestar import Request, Response
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery

from api.auth import actor_of, requires_operator
from api.deadline import in_time
from api.openapi import errors
from api.parameters import cursor_of, flag_of, limit_of, next_link
from api.routes.containers import SECURED, TAGS, container_of, rendered, unknown_container, user_of
from api.routing import delete, get, post, put
from api.schemas import Container
from api.schemas_operators import Cleanup, ContainerGoing, OrphanItem
from api.services import services_of
from core.domain.actor import Actor
from core.domain.orphans import Orphan, State
from core.domain.states import ContainerPhase
from core.errors import InvalidInput, NotFound
from core.store.containers import list_containers, read_container
from core.store.containers_admin import NO_SUCH_USER, delete_container, pin_container
from core.store.orphans import PostgresOrphans

_PHASES: Final = ", ".join(ContainerPhase)
_GOES: Final = "O container e todos os seus chips foram excluídos; a remoção segue em segundo plano."


@put(
    "/containers/{user_id:str}",
    guards=[requires_operator],
    operation_id="putContainer",
    summary="Keep a container for a user even without chips; made when there is none",
    description=(
        "`user_id` may also be the user's e-mail. 201 when the container was made by this call, 200 when it was "
        "there. From then on it stays until it is deleted, with or without chips."
    ),
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 404, 503)
    | {201: ResponseSpec(Container, description="The container was made", generate_examples=False)},
)
async def put_container(request: Request[Any, Any, Any], user_id: FromPath[str]) -> Response[Container]:
    services = services_of(request)
    known = await user_of(services, user_id)
    if known is None:
        raise NotFound(NO_SUCH_USER, code="user_not_found")
    made = await in_time(
        pin_container(
            services.engine,
            services.vault.sealer,
            services.settings.job.storage_id,
            known,
            pinned=True,
            actor=actor_of(request),
        )
    )
    found = await in_time(read_container(services.engine, known))
    if found is None:
        raise unknown_container()  # deleted again in the same moment
    return Response(rendered(services, found), status_code=201 if made else 200)


@delete(
    "/containers/{user_id:str}",
    status_code=202,
    guards=[requires_operator],
    operation_id="deleteContainer",
    summary="Remove a user's container with all chips in it",
    description=(
        "All chips of the user are deleted: logged out where WAHA answers, then gone with their credentials, the "
        "container's job, its secrets in Nomad and its storage. The account stays, and a chip that the user "
        "creates later begins a new container. While it goes it is 404 as what is gone."
    ),
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 404, 503),
)
async def delete_container_of(request: Request[Any, Any, Any], user_id: FromPath[str]) -> ContainerGoing:
    services = services_of(request)
    found = await container_of(services, user_id)
    gone = await in_time(delete_container(services.engine, found.user_id, actor=actor_of(request)))
    if gone is None:
        raise unknown_container()
    for chip_id in gone:
        await services.qr.forget_chip(chip_id)
    return ContainerGoing(found.user_id, found.container_name, "removing", list(gone), _GOES)


@get(
    "/containers",
    guards=[requires_operator],
    operation_id="listContainers",
    summary="All containers, by user id, in pages",
    description=(
        f"`phase`: one of {_PHASES}. `node`: a host's name. `limit`: 1 to 200. The next page stands in "
        '`Link: <...>; rel="next"`; no page repeats or skips what stays meanwhile.'
    ),
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 422, 503),
)
async def list_all_containers(
    request: Request[Any, Any, Any],
    phase: FromQuery[str | None] = None,
    node: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: FromQuery[str] = "50",
) -> Response[list[Container]]:
    services = services_of(request)
    if phase is not None and phase not in tuple(ContainerPhase):
        told = f"Use uma destas: {_PHASES}."
        raise InvalidInput(f"phase: {told}", fields={"phase": told})
    if node is not None and "\0" in node:
        raise InvalidInput("node: Nome inválido.", fields={"node": "Nome inválido."})
    size, after = limit_of(limit), cursor_of(cursor)
    found = await in_time(
        list_containers(services.engine, after=after, limit=size + 1, phase=phase, node=node)
    )
    page = found[:size]
    more = len(found) > size
    headers = (
        next_link(request.url.path, phase=phase, node=node, limit=str(size), cursor=page[-1].user_id)
        if more
        else {}
    )
    return Response([rendered(services, one) for one in page], headers=headers)


@post(
    "/containers/cleanup",
    status_code=200,
    guards=[requires_operator],
    operation_id="cleanupContainers",
    summary="What we own outside that no row explains; with `dry_run=false` its removal is approved",
    description=(
        "The janitor's newest sweep. Only what was seen for longer than the grace is listed. An approval is the "
        "operator's yes: a daemon removes each item step by step, and only while it is still as it was listed."
    ),
    tags=TAGS,
    security=SECURED,
    responses=errors(401, 403, 422, 503),
)
async def cleanup_containers(request: Request[Any, Any, Any], dry_run: FromQuery[str] = "true") -> Cleanup:
    dry = flag_of("dry_run", dry_run)
    store = PostgresOrphans(services_of(request).engine)
    book = await in_time(store.book())
    listed = [row for row in book.rows if row.state is State.WAITING]
    if not dry and listed:
        actor = actor_of(request)
        ids = [row.id for row in listed]
        approved = set(await in_time(store.decide(ids, approve=True, by=operator_name(actor), actor=actor)))
        book = await in_time(store.book())
        listed = [row for row in book.rows if row.id in approved]
    shown = {row.id for row in listed}
    others = Counter(row.state.value for row in book.rows if row.id not in shown)
    others.pop(State.REMOVED.value, None)
    return Cleanup(
        dry_run=dry,
        count=len(listed),
        items=[_item(row) for row in listed],
        others=dict(others),
        observed_at=max((row.last_seen for row in book.rows), default=None),
    )


def operator_name(actor: Actor) -> str:
    """Who decided, for columns that keep it in one word."""
    return actor.user_id or (f"key:{actor.key_id}" if actor.key_id else "operator_token")


def _item(row: Orphan) -> OrphanItem:
    found = row.found
    return OrphanItem(
        id=row.id,
        kind=found.kind.value,
        name=found.name,
        place=found.place or None,
        user_id=found.user_id,
        state=row.state.value,
        costs=dict(found.costs),
        first_seen=row.first_seen,
        last_seen=row.last_seen,
    )
