"""What clients send to /v1/agent/service/register and /v1/agent/check/register.

Field names are matched as Go does, whatever their case; a field that Consul does not know is refused.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sandbox.consul_double.catalog import CRITICAL, PASSING, WARNING, Check, Json, Service
from sandbox.consul_double.refusal import RefusalError, duration_s

DEFAULT_TIMEOUT_S: Final = 10.0
LEAST_REAP_S: Final = 60.0

_SERVICE_FIELDS: Final = {
    name.lower().replace("_", ""): name
    for name in (
        *("ID", "Name", "Tags", "Address", "Port", "Meta", "Weights", "EnableTagOverride", "Check", "Checks"),
        *("TaggedAddresses", "Token", "Kind", "Proxy", "Connect", "Namespace"),
    )
}
_CHECK_FIELDS: Final = {
    name.lower().replace("_", ""): name
    for name in (
        *("ID", "CheckID", "Name", "Notes", "Status", "HTTP", "Header", "Method", "Body", "TCP", "TTL"),
        *("Interval", "Timeout", "TLSSkipVerify", "SuccessBeforePassing", "FailuresBeforeCritical"),
        *("FailuresBeforeWarning", "DeregisterCriticalServiceAfter", "OutputMaxSize", "ServiceID", "Token"),
        *("GRPC", "GRPCUseTLS", "ScriptArgs", "Args", "Shell", "DockerContainerID", "AliasNode"),
        *("AliasService", "Namespace"),
    )
}
_NOT_POLLED: Final = ("GRPC", "ScriptArgs", "Args", "DockerContainerID", "AliasNode", "AliasService")


class Probe(msgspec.Struct, frozen=True):
    """How a check is looked at. `kind` is http, tcp or ttl; a ttl check is told by its owner."""

    kind: str
    target: str = ""
    interval_s: float = 0.0
    timeout_s: float = DEFAULT_TIMEOUT_S
    method: str = "GET"
    header: dict[str, list[str]] = {}
    body: str = ""
    verify: bool = True
    successes_needed: int = 0
    failures_needed: int = 0
    ttl_s: float = 0.0
    reap_after_s: float = 0.0


class CheckDefinition(msgspec.Struct, frozen=True):
    check: Check
    probe: Probe


def service_definition(body: object, node: str = "") -> tuple[Service, list[CheckDefinition]]:
    """Read a registration. Raises RefusalError (400)."""
    fields = _fields(body, _SERVICE_FIELDS)
    name = _text(fields, "Name")
    if not name:
        raise RefusalError(400, "Missing service name")
    weights = _object(fields, "Weights")
    service = Service(
        id=_text(fields, "ID") or name,
        name=name,
        address=_text(fields, "Address"),
        port=_number(fields, "Port"),
        tags=tuple(_texts(fields, "Tags")),
        meta={str(key): str(value) for key, value in _object(fields, "Meta").items()},
        passing_weight=_number(weights, "Passing") if "Passing" in weights else 1,
        warning_weight=_number(weights, "Warning") if "Warning" in weights else 1,
        enable_tag_override=bool(fields.get("EnableTagOverride")),
        node=node,
    )
    given = [one for one in (fields.get("Check"), *(fields.get("Checks") or ())) if one]
    checks = []
    for number, one in enumerate(given, start=1):
        default_id = f"service:{service.id}" + (f":{number}" if len(given) > 1 else "")
        checks.append(check_definition(one, service, default_id))
    return service, checks


def check_definition(body: object, service: Service | None, default_id: str = "") -> CheckDefinition:
    """Read one check, of `service` or of the node. Raises RefusalError (400)."""
    fields = _fields(body, _CHECK_FIELDS)
    if any(fields.get(kind) for kind in _NOT_POLLED):
        raise RefusalError(400, "The Consul double polls HTTP, TCP and TTL checks only: use one of those.")
    kind = next((kind for kind in ("HTTP", "TCP", "TTL") if fields.get(kind)), None)
    if kind is None:
        raise RefusalError(400, "Invalid check: TTL must be > 0 for TTL checks")
    interval_s = _seconds(fields, "Interval")
    ttl_s = _seconds(fields, "TTL")
    if kind == "TTL" and ttl_s <= 0:
        raise RefusalError(400, "Invalid check: TTL must be > 0 for TTL checks")
    if kind != "TTL" and interval_s <= 0:
        raise RefusalError(400, "Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks")
    status = _text(fields, "Status") or CRITICAL
    if status not in (PASSING, WARNING, CRITICAL):
        raise RefusalError(400, f"Status for checks must 'passing', 'warning', 'critical', not '{status}'")
    name = _text(fields, "Name") or (f"Service '{service.name}' check" if service else "")
    check_id = _text(fields, "CheckID") or _text(fields, "ID") or default_id or name
    if not check_id:
        raise RefusalError(400, "Missing check name")
    reap_s = _seconds(fields, "DeregisterCriticalServiceAfter")
    return CheckDefinition(
        check=Check(
            id=check_id,
            name=name,
            status=status,
            notes=_text(fields, "Notes"),
            kind=kind.lower(),
            service_id=service.id if service else "",
            node=service.node if service else "",
            service_name=service.name if service else "",
            service_tags=service.tags if service else (),
        ),
        probe=Probe(
            kind=kind.lower(),
            target=_text(fields, kind) if kind != "TTL" else "",
            interval_s=interval_s,
            timeout_s=_seconds(fields, "Timeout") or DEFAULT_TIMEOUT_S,
            method=_text(fields, "Method") or "GET",
            header={name: [str(one) for one in many] for name, many in _object(fields, "Header").items()},
            body=_text(fields, "Body"),
            verify=not fields.get("TLSSkipVerify"),
            successes_needed=_number(fields, "SuccessBeforePassing"),
            failures_needed=_number(fields, "FailuresBeforeCritical"),
            ttl_s=ttl_s,
            reap_after_s=max(LEAST_REAP_S, reap_s) if reap_s else 0.0,
        ),
    )


def _fields(body: object, known: dict[str, str]) -> Json:
    if not isinstance(body, dict):
        raise _undecodable("json: cannot unmarshal the body into a Go struct")
    fields: Json = {}
    for key, value in body.items():
        name = known.get(key.lower().replace("_", ""))
        if name is None:
            raise _undecodable(f'json: unknown field "{key}"')
        fields[name] = value
    return fields


def _text(fields: Json, name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong_type(value, name, "string")
    return value


def _number(fields: Json, name: str) -> int:
    value = fields.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(value, name, "int")
    return value


def _texts(fields: Json, name: str) -> list[str]:
    value = fields.get(name) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _wrong_type(value, name, "[]string")
    return value


def _object(fields: Json, name: str) -> Json:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise _wrong_type(value, name, "map")
    return value


def _seconds(fields: Json, name: str) -> float:
    value = fields.get(name)
    if value in (None, ""):
        return 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value / 1e9  # a bare number is nanoseconds, as everywhere in Go
    try:
        return duration_s(str(value))
    except ValueError as error:
        raise _undecodable(str(error)) from error


def _wrong_type(value: Any, name: str, wanted: str) -> RefusalError:
    kind = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    found = kind.get(type(value), "null")
    return _undecodable(f"json: cannot unmarshal {found} into Go struct field .{name} of type {wanted}")


def _undecodable(text: str) -> RefusalError:
    return RefusalError(400, f"Request decode failed: {text}")
