"""Who may call what: one row for each route of the application.

A new route needs one line here: the access its guard gives, and the status that the rightful caller of the
row gets with `body`. `{chip_id}`, `{user_id}` and `{key}` are filled in with things of the caller's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Access(StrEnum):
    """What a guard lets in.

    `EVERYBODY`: credentials play no part. `SIGNED`: only a signature or a guard's key counts. `USER`: users alone.
    `USER_OR_COMMAND_LINE`: the operator's token as well. `SERVICE`: trusted services and operators.
    """

    EVERYBODY = "everybody"
    SIGNED = "signed"
    USER = "user"
    USER_OR_COMMAND_LINE = "user or command line"
    SERVICE = "service"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Row:
    """`status`: what the rightful caller gets. `body`: sent as JSON, none if None. `stream`: it lasts."""

    access: Access
    status: int
    body: Any = None
    stream: bool = False


V1 = "/api/v1"
_A = Access

ACCOUNTS: dict[tuple[str, str], Row] = {
    ("POST", f"{V1}/auth/register"): Row(_A.EVERYBODY, 422, {}),
    ("POST", f"{V1}/auth/login"): Row(_A.EVERYBODY, 422, {}),
    # No refresh cookie: the one 401 of a route without a guard.
    ("POST", f"{V1}/auth/refresh"): Row(_A.EVERYBODY, 401),
    ("POST", f"{V1}/auth/logout"): Row(_A.EVERYBODY, 200),
    ("GET", f"{V1}/users/me"): Row(_A.USER, 200),
    ("PUT", f"{V1}/users/me"): Row(_A.USER, 200, {}),
    ("GET", f"{V1}/api-keys"): Row(_A.USER, 200),
    ("POST", f"{V1}/api-keys"): Row(_A.USER, 201, {"name": "painel"}),
    ("DELETE", f"{V1}/api-keys/{{key_id}}"): Row(_A.USER, 404),
    ("GET", f"{V1}/user/proxy/usage"): Row(_A.USER, 200),
}
CHIPS: dict[tuple[str, str], Row] = {
    ("GET", f"{V1}/chips"): Row(_A.USER, 200),
    ("POST", f"{V1}/chips"): Row(_A.USER, 422, {}),
    ("GET", f"{V1}/chips/{{chip_id}}"): Row(_A.USER, 200),
    ("DELETE", f"{V1}/chips/{{chip_id}}"): Row(_A.USER, 204),
    ("GET", f"{V1}/chips/{{chip_id}}/qr"): Row(_A.USER, 200),
    ("POST", f"{V1}/chips/{{chip_id}}/pairing-code"): Row(_A.USER, 503, {"phone_number": "+5511999999999"}),
    ("POST", f"{V1}/chips/{{chip_id}}/disconnect"): Row(_A.USER, 200),
    ("POST", f"{V1}/chips/{{chip_id}}/reconnect"): Row(_A.USER, 200),
    ("GET", f"{V1}/chips/{{chip_id}}/events"): Row(_A.USER, 200),
    ("GET", f"{V1}/chips/{{chip_id}}/explain"): Row(_A.USER_OR_COMMAND_LINE, 200),
    ("GET", f"{V1}/chips/{{chip_id}}/stream"): Row(_A.USER, 200, stream=True),
    ("GET", f"{V1}/chips/{{chip_id}}/proxy"): Row(_A.USER_OR_COMMAND_LINE, 200),
    ("GET", f"{V1}/chips/{{chip_id}}/proxy/history"): Row(_A.USER_OR_COMMAND_LINE, 200),
    # It has no label where no daemon runs.
    ("POST", f"{V1}/chips/{{chip_id}}/proxy/rotate"): Row(_A.OPERATOR, 409),
    ("PUT", f"{V1}/chips/{{chip_id}}/annotations/{{key}}"): Row(_A.SERVICE, 204, {"on": True}),
    ("DELETE", f"{V1}/chips/{{chip_id}}/annotations/{{key}}"): Row(_A.SERVICE, 204),
    ("WS", f"{V1}/chips/ws/{{chip_id}}/qr"): Row(_A.USER, 200, stream=True),
}
CONTAINERS: dict[tuple[str, str], Row] = {
    ("GET", f"{V1}/containers"): Row(_A.OPERATOR, 200),
    ("POST", f"{V1}/containers/cleanup"): Row(_A.OPERATOR, 200),
    ("GET", f"{V1}/containers/{{user_id}}"): Row(_A.OPERATOR, 200),
    ("PUT", f"{V1}/containers/{{user_id}}"): Row(_A.OPERATOR, 200),
    ("DELETE", f"{V1}/containers/{{user_id}}"): Row(_A.OPERATOR, 202),
    # Nothing is placed where no daemon runs.
    ("POST", f"{V1}/containers/{{user_id}}/restart"): Row(_A.OPERATOR, 409),
    ("GET", f"{V1}/containers/{{user_id}}/access"): Row(_A.OPERATOR, 409),
    ("GET", f"{V1}/containers/{{user_id}}/stats"): Row(_A.OPERATOR, 200),
    ("GET", f"{V1}/containers/{{user_id}}/logs"): Row(_A.OPERATOR, 200),
    ("GET", f"{V1}/me/container"): Row(_A.USER, 200),
    ("POST", f"{V1}/me/container/restart"): Row(_A.USER, 409),
    ("GET", f"{V1}/fleet"): Row(_A.OPERATOR, 200),
    ("GET", f"{V1}/fleet/events"): Row(_A.OPERATOR, 200, stream=True),
    ("GET", f"{V1}/fleet/plan"): Row(_A.OPERATOR, 200),
    ("POST", f"{V1}/fleet/pause"): Row(_A.OPERATOR, 200),
    ("POST", f"{V1}/fleet/resume"): Row(_A.OPERATOR, 200),
}
_PROVIDER = f"{V1}/fleet/providers/{{provider}}"
_SUB_USER = f"{_PROVIDER}/sub-users/{{sub_user_id}}"
# Their paths are filled in with providers that there are not.
PROVIDERS: dict[tuple[str, str], Row] = {
    ("GET", f"{V1}/fleet/proxy/usage"): Row(_A.OPERATOR, 200),
    ("GET", f"{V1}/fleet/provider-templates"): Row(_A.OPERATOR, 200),
    ("GET", f"{V1}/fleet/providers"): Row(_A.OPERATOR, 200),
    ("POST", f"{V1}/fleet/providers"): Row(_A.OPERATOR, 422, {}),
    ("GET", _PROVIDER): Row(_A.OPERATOR, 404),
    ("PUT", _PROVIDER): Row(_A.OPERATOR, 404, {}),
    ("DELETE", _PROVIDER): Row(_A.OPERATOR, 404),
    ("POST", f"{_PROVIDER}/default"): Row(_A.OPERATOR, 404),
    ("DELETE", f"{_PROVIDER}/trouble"): Row(_A.OPERATOR, 404),
    ("POST", f"{_PROVIDER}/dry-run"): Row(_A.OPERATOR, 404),
    ("GET", f"{_PROVIDER}/sub-users"): Row(_A.OPERATOR, 404),
    ("POST", f"{_PROVIDER}/sub-users"): Row(_A.OPERATOR, 422, {}),
    ("PUT", _SUB_USER): Row(_A.OPERATOR, 404, {}),
    ("DELETE", _SUB_USER): Row(_A.OPERATOR, 404),
    ("DELETE", f"{_SUB_USER}/trouble"): Row(_A.OPERATOR, 404),
}
SERVICE: dict[tuple[str, str], Row] = {
    ("POST", f"{V1}/webhooks/waha/{{user_id}}"): Row(_A.SIGNED, 401, {"id": "x"}),
    ("POST", "/internal/guard/renew"): Row(_A.SIGNED, 401),
    ("POST", "/internal/guard/usage"): Row(_A.SIGNED, 401),
    ("GET", "/health"): Row(_A.EVERYBODY, 200),
    ("GET", "/health/live"): Row(_A.EVERYBODY, 200),
    ("GET", "/health/ready"): Row(_A.EVERYBODY, 200),
    ("GET", "/metrics"): Row(_A.EVERYBODY, 200),
    ("GET", "/schema"): Row(_A.EVERYBODY, 200),
    ("GET", "/schema/openapi.json"): Row(_A.EVERYBODY, 200),
    ("GET", "/schema/docs"): Row(_A.EVERYBODY, 200),
    ("GET", "/schema/docs.js"): Row(_A.EVERYBODY, 200),
    ("GET", "/schema/docs.css"): Row(_A.EVERYBODY, 200),
}
ROWS = ACCOUNTS | CHIPS | CONTAINERS | PROVIDERS | SERVICE

# Paths that are nobody's here; the deployed pages ask for some of them on every page.
UNKNOWN_PATHS = (
    "/",
    "/api",
    "/api/v1",
    "/api/v1/notifications",
    "/api/v1/notifications/unread-count",
    "/api/v1/dashboard/overview",
    "/api/v1/billing/plans",
    "/api/v1/chipsx",
    "/api/v1/chips/{chip_id}/heat-up",
    "/api/v1/chips/{chip_id}/stop-heat-up",
    "/api/v1/chips/{chip_id}/maturation-stats",
    "/api/v1/containers/{user_id}/nothing",
    "/api/v2/chips",
    "/health/nothing",
    "/internal",
    "/internal/guard",
    "/schema/redoc",
    "/static/app.js",
)
