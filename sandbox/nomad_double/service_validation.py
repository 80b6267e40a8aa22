"""What Nomad refuses about the networks and services of a group (validators of Nomad 1.10.5)."""

from __future__ import annotations

import re

from sandbox.nomad_double.durations import go_duration
from sandbox.nomad_double.errors import multierror
from sandbox.nomad_double.job_defaults import SECOND
from sandbox.nomad_double.model import Json

_SERVICE_NAME = re.compile(r"^(?i:[a-z0-9]|[a-z0-9][a-z0-9\-]{0,61}[a-z0-9])$")


def network_problems(group: Json) -> list[str]:
    problems: list[str] = []
    labels: set[str] = set()
    for network in group["Networks"] or ():
        for port in [*network.get("ReservedPorts", ()), *network.get("DynamicPorts", ())]:
            label = port["Label"]
            if label in labels:
                problems.append(f"Port label {label} already in use by taskgroup network")
            labels.add(label)
    return problems


def service_problems(group: Json) -> list[str]:
    problems: list[str] = []
    for number, service in enumerate(group["Services"] or ()):
        inner: list[str] = []
        name = service["Name"]
        if not _SERVICE_NAME.match(re.sub(r"\$\{[^}]*\}", "ENV-VAR", name)):
            inner.append(
                "Service name must be valid per RFC 1123 and can contain only alphanumeric characters or dashes "
                f'and must be no longer than 63 characters: "{name}"'
            )
        if service["Provider"] not in ("consul", "nomad"):
            inner.append(f'Service provider must be "consul", or "nomad"; not "{service["Provider"]}"')
        for check in service["Checks"] or ():
            problem = _check_problem(check, service)
            if problem:
                inner.append(f"Check {check['Name']} invalid: {problem}")
        if inner:
            problems.append(f"Service[{number}] {name} validation failed: {multierror(inner)}")
    if not problems and len({service["Provider"] for service in group["Services"] or ()}) > 1:
        problems.append("Multiple service providers used: task group services must use the same provider")
    return problems


def _check_problem(check: Json, service: Json) -> str | None:
    kind, interval, timeout = check["Type"], check["Interval"], check["Timeout"]
    kinds = ("grpc", "tcp", "http", "script") if service["Provider"] == "consul" else ("tcp", "http")
    if kind not in kinds:
        return f'invalid check type ("{kind}"), must be one of {", ".join(kinds)}'
    if kind == "http" and not check["Path"]:
        return "http type must have http path"
    if kind == "script" and not check["Command"]:
        return "script type must have a valid script path"
    if not interval:
        return "missing required value interval. Interval cannot be less than 1s"
    if interval < SECOND:
        return f"interval ({go_duration(interval)}) cannot be lower than 1s"
    if not timeout:
        return "missing required value timeout. Timeout cannot be less than 1s"
    if timeout < SECOND:
        return f"timeout ({go_duration(timeout)}) is lower than required minimum timeout 1s"
    if check["InitialStatus"] not in ("", "passing", "warning", "critical"):
        return (
            f"invalid initial check state ({check['InitialStatus']}), must be one of "
            '"passing", "warning", "critical" or empty'
        )
    return None
