"""Jobs as Nomad stores them: defaults filled in, unknown fields dropped, empty ones spelled out.

Field names and defaults as in the `api` and `structs` packages of Nomad 1.10.5, compared with what a real agent
gives back (tests/contract/nomad).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sandbox.nomad_double.job_defaults import (
    CHECK,
    CONSUL_CONSTRAINT,
    DISCONNECT,
    GROUP,
    IDENTITY,
    JOB,
    JOB_UPDATE_EMPTY,
    MIGRATE,
    RESCHEDULE,
    RESOURCES,
    RESTART,
    SECOND,
    SERVICE,
    TASK,
    TEMPLATE,
    UPDATE,
)
from sandbox.nomad_double.model import Json

# What the store sets itself; two specs are the same job when they differ in nothing else.
BOOKKEEPING = frozenset(
    {
        "Status",
        "StatusDescription",
        "Stable",
        "Version",
        "SubmitTime",
        "CreateIndex",
        "ModifyIndex",
        "JobModifyIndex",
    }
)


def canonical(raw: Json, namespace: str, release: tuple[int, ...] = (1, 10, 5)) -> Json:
    """The stored form of a submitted job in a release of Nomad. `raw` is not changed."""
    given = {key: value for key, value in raw.items() if key in JOB and value is not None}
    job: Json = copy.deepcopy({**JOB, **given})
    job["Namespace"] = namespace
    job["Region"] = raw.get("Region") or "global"
    job["Name"] = raw.get("Name") or job["ID"]
    if not job["Datacenters"]:
        job["Datacenters"] = ["*"]
    for field in BOOKKEEPING:
        job[field] = JOB[field]
    job["Stop"] = bool(raw.get("Stop"))
    job["Meta"] = job["Meta"] or None
    kind = job["Type"]
    service = kind == "service"
    submitted_update = raw.get("Update")
    job["TaskGroups"] = [_group(group, job, submitted_update) for group in raw.get("TaskGroups") or ()]
    if service:
        parallel = (submitted_update or {}).get("MaxParallel", 1)
        stagger = (submitted_update or {}).get("Stagger", 30 * SECOND)
        job["Update"] = {**JOB_UPDATE_EMPTY, "MaxParallel": parallel, "Stagger": stagger}
    else:
        job["Update"] = dict(JOB_UPDATE_EMPTY)
    for list_field in ("Constraints", "Affinities", "Spreads"):
        job[list_field] = job[list_field] or None
    if job["UI"]:
        job["UI"] = {"Description": job["UI"].get("Description", ""), "Links": job["UI"].get("Links")}
    if release >= (2,):
        _add_fields_of_2_0(job)
    return job


def _add_fields_of_2_0(job: Json) -> None:
    """Fields that came between 1.11 and 2.0; the double only shows that they are empty."""
    for group in job["TaskGroups"]:
        group["MaxRunDuration"] = None
        for task in group["Tasks"] or ():
            task["Secrets"] = None
            task["Identity"]["ExtraClaims"] = None


def _group(raw: Json, job: Json, job_update: Json | None) -> Json:
    kind = job["Type"]
    group = _filled(GROUP, raw)
    group["RestartPolicy"] = _filled(RESTART.get(kind, RESTART["service"]), raw.get("RestartPolicy"))
    if kind in RESCHEDULE:
        group["ReschedulePolicy"] = _reschedule(kind, raw.get("ReschedulePolicy"))
    if kind == "service":
        group["Migrate"] = _filled(MIGRATE, raw.get("Migrate"))
        group["Update"] = _filled(_filled(UPDATE, job_update), raw.get("Update"))
    elif raw.get("Update") is not None:
        # Kept for the validator to refuse.
        group["Update"] = _filled(UPDATE, raw["Update"])
    group["EphemeralDisk"] = _filled(
        {"Sticky": False, "SizeMB": 300, "Migrate": False}, raw.get("EphemeralDisk")
    )
    if raw.get("Disconnect") is not None:
        group["Disconnect"] = _filled(DISCONNECT, raw["Disconnect"])
    group["Networks"] = [_network(n) for n in raw.get("Networks") or ()] or None
    group["Services"] = [_service(s, job, group["Name"]) for s in raw.get("Services") or ()] or None
    group["Tasks"] = [_task(task, job, group) for task in raw.get("Tasks") or ()] or None
    services = [*(group["Services"] or ()), *(s for t in group["Tasks"] or () for s in t["Services"] or ())]
    wants_consul = any(service["Provider"] == "consul" for service in services)
    if wants_consul and CONSUL_CONSTRAINT not in (group["Constraints"] or ()):
        group["Constraints"] = [*(group["Constraints"] or ()), dict(CONSUL_CONSTRAINT)]
    for field in ("Meta", "Constraints", "Affinities", "Spreads"):
        group[field] = group[field] or None
    return group


def _task(raw: Json, job: Json, group: Json) -> Json:
    task = _filled(TASK, raw)
    task["Resources"] = _filled(RESOURCES, raw.get("Resources"))
    task["LogConfig"] = _filled(
        {"MaxFiles": 10, "MaxFileSizeMB": 10, "Disabled": False}, raw.get("LogConfig")
    )
    task["RestartPolicy"] = _filled(group["RestartPolicy"], raw.get("RestartPolicy"))
    task["Identity"] = _filled(IDENTITY, raw.get("Identity"))
    task["Templates"] = [_filled(TEMPLATE, template) for template in raw.get("Templates") or ()] or None
    task["Services"] = [
        _service(s, job, task["Name"], task["Name"]) for s in raw.get("Services") or ()
    ] or None
    for field in ("Env", "Meta", "Config", "Constraints", "VolumeMounts"):
        task[field] = task[field] or None
    return task


def _service(raw: Json, job: Json, parent: str, task: str = "") -> Json:
    service = _filled(SERVICE, raw)
    name = raw.get("Name") or f"{job['Name']}-{parent}{f'-{task}' if task and task != parent else ''}"
    for pattern, value in (
        ("${JOB}", job["Name"]),
        ("${TASKGROUP}", parent),
        ("${TASK}", task),
        ("${BASE}", parent),
    ):
        name = name.replace(pattern, value)
    service["Name"] = name
    service["TaskName"] = raw.get("TaskName") or task
    service["Namespace"] = "default" if service["Provider"] == "consul" else job["Namespace"]
    service["Checks"] = [_check(check, name) for check in raw.get("Checks") or ()] or None
    service["Tags"] = service["Tags"] or None
    service["Meta"] = service["Meta"] or None
    return service


def _check(raw: Json, service: str) -> Json:
    check = _filled(CHECK, raw)
    check["Name"] = raw.get("Name") or f'service: "{service}" check'
    check["InitialStatus"] = raw.get("InitialStatus") or ""
    if raw.get("CheckRestart"):
        check["CheckRestart"] = _filled(
            {"Limit": 0, "Grace": SECOND, "IgnoreWarnings": False}, raw["CheckRestart"]
        )
    return check


def _network(raw: Json) -> Json:
    """Networks carry only what is set, the ports always with their host network (as the real agent answers)."""
    network: Json = {key: value for key, value in raw.items() if value not in (None, "", 0, [])}
    for field in ("DynamicPorts", "ReservedPorts"):
        ports = network.pop(field, None)
        if ports:
            network[field] = [_port(port) for port in ports]
    return network


def _port(raw: Json) -> Json:
    port = {key: value for key, value in raw.items() if value not in (None, "", 0, False)}
    port["HostNetwork"] = raw.get("HostNetwork") or "default"
    return port


def _reschedule(kind: str, raw: Json | None) -> Json:
    return _filled(RESCHEDULE[kind], raw)


def _filled(defaults: Mapping[str, Any], given: Mapping[str, Any] | None) -> Json:
    """`defaults` with the known, non-null fields of `given` laid over them."""
    known = {k: v for k, v in (given or {}).items() if k in defaults and v is not None}
    return copy.deepcopy({**defaults, **known})


def spec_of(job: Json) -> Json:
    """What a person wrote, without what the store keeps about it."""
    return {key: value for key, value in job.items() if key not in BOOKKEEPING}


def group_of(job: Json, name: str) -> Json | None:
    return next((group for group in job["TaskGroups"] if group["Name"] == name), None)
