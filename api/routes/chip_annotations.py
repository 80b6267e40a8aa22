"""What trusted services keep at chips, of whatever user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar import Request
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.params import FromPath

from api.auth import actor_of, requires_service
from api.deadline import in_time
from api.intents import known_id
from api.openapi import SERVICE_SECURED, errors
from api.routing import delete, put
from api.services import services_of
from core.domain.annotations import KEYS_LIMIT, TOTAL_LIMIT_BYTES, VALUE_LIMIT_BYTES, clean_key, read_value
from core.store import chip_annotations

TAGS = ["services"]
_LIMITS = (
    f"Any JSON up to {VALUE_LIMIT_BYTES // 1024} KiB; {KEYS_LIMIT} keys and {TOTAL_LIMIT_BYTES // 1024} KiB a chip. "
    "It stands in `extra_data` under its key; keys of ours and those that begin with `waha` are refused."
)


@dataclass
class AnyJson(Operation):
    """The body is read raw: it may be any JSON, and its size counts."""

    def __post_init__(self) -> None:
        media = OpenAPIMediaType(schema=Schema(description="Any JSON."))
        self.request_body = RequestBody(content={"application/json": media}, required=True)


@put(
    "/chips/{chip_id:str}/annotations/{key:str}",
    status_code=204,
    guards=[requires_service],
    operation_class=AnyJson,
    operation_id="putAnnotation",
    summary="Keep something at a chip",
    description=_LIMITS,
    tags=TAGS,
    security=SERVICE_SECURED,
    responses=errors(400, 401, 403, 404, 409, 413, 422, 503),
)
async def put_annotation(request: Request[Any, Any, Any], chip_id: FromPath[str], key: FromPath[str]) -> None:
    known, name = known_id(chip_id), clean_key(key)
    value = read_value(await request.body())
    await in_time(
        chip_annotations.annotate_chip_of_anybody(
            services_of(request).engine, known, name, value, actor=actor_of(request)
        )
    )


@delete(
    "/chips/{chip_id:str}/annotations/{key:str}",
    guards=[requires_service],
    operation_id="deleteAnnotation",
    summary="Forget what was kept at a chip; fine when it is not there",
    tags=TAGS,
    security=SERVICE_SECURED,
    responses=errors(401, 403, 404, 422, 503),
)
async def delete_annotation(
    request: Request[Any, Any, Any], chip_id: FromPath[str], key: FromPath[str]
) -> None:
    known, name = known_id(chip_id), clean_key(key)
    await in_time(
        chip_annotations.remove_annotation_of_anybody(
            services_of(request).engine, known, name, actor=actor_of(request)
        )
    )
