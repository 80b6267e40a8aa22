"""What Nomad refuses when a job is registered (validators of Nomad 1.10.5; only those a job of ours can meet)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sandbox.nomad_double.errors import multierror
from sandbox.nomad_double.jobspec import SECOND
from sandbox.nomad_double.model import Json
from sandbox.nomad_double.templates import TemplateError, parse_template

_SERVICE_NAME = re.compile(r"^(?i:[a-z0-9]|[a-z0-9][a-z0-9\-]{0,61}[a-z0-9])$")
_TYPES = ("_core", "service", "batch", "system", "sysbatch")
_OPERANDS = frozenset(
    {
        "=",
        "==",
        "is",
        "!=",
        "not",
        "<",
        "<=",
        ">",
        ">=",
        "regexp",
        "version",
        "semver",
        "set_contains",
        "set_contains_all",
        "set_contains_any",
        "distinct_hosts",
        "distinct_property",
        "is_set",
        "is_not_set",
    }
)


def validate(job: Json) -> list[str]:
    """Every problem of a canonical job, in Nomad's words; empty when it may be registered."""
    problems: list[str] = []
    if not job["ID"]:
        problems.append("Missing job ID")
    elif " " in job["ID"]:
        problems.append("Job ID contains a space")
    elif "\x00" in job["ID"]:
        problems.append("Job ID contains a null character")
    if "\x00" in job["Name"]:
        problems.append("Job Name contains a null character")
    if job["Type"] not in _TYPES:
        problems.append(f'Invalid job type: "{job["Type"]}"')
    if any(not datacenter for datacenter in job["Datacenters"]):
        problems.append("Job datacenter must be non-empty string")
    if not 1 <= job["Priority"] <= 100:
        problems.append("job priority must be between [1, 100]")
    groups = job["TaskGroups"]
    if not groups:
        problems.append("Missing job task groups")
    problems += _constraints(job["Constraints"])
    if job["UI"] and len(job["UI"]["Description"]) > 1000:
        problems.append(
            f"UI description must be under 1000 characters, currently {len(job['UI']['Description'])}"
        )
    problems += _duplicates(groups, "Job task group", "group")
    for group in groups:
        inner = _group_problems(group, job)
        if inner:
            problems.append(f"Task group {group['Name']} validation failed: {multierror(inner)}")
    return problems


def unsupported(job: Json) -> list[str]:
    """What a real Nomad would accept and this double cannot run; said at register, not found out later."""
    found = []
    if job["Type"] not in ("service", "batch"):
        found.append(f'the Nomad double schedules only service and batch jobs, not "{job["Type"]}"')
    if job["Periodic"] or job["ParameterizedJob"]:
        found.append("the Nomad double does not run periodic or parameterized jobs")
    for group in job["TaskGroups"]:
        for task in group["Tasks"] or ():
            for template in task["Templates"] or ():
                if template["LeftDelim"] != "{{" or template["SourcePath"]:
                    found.append(
                        f"task {task['Name']}: the Nomad double renders only embedded templates with {{{{ }}}}"
                    )
                    continue
                try:
                    parse_template(template["EmbeddedTmpl"])
                except TemplateError as error:
                    found.append(f"task {task['Name']}: {error}")
            if task["Artifacts"]:
                found.append(f"task {task['Name']}: the Nomad double does not download artifacts")
            if task["Lifecycle"]:
                found.append(f"task {task['Name']}: the Nomad double knows no task lifecycle hooks")
    return found


def warnings(job: Json) -> list[str]:
    """Texts for the register reply's `Warnings`."""
    found = []
    for group in job["TaskGroups"]:
        for field, old in (
            ("StopAfterClientDisconnect", "stop_after_client_disconnect"),
            ("MaxClientDisconnect", "max_client_disconnect"),
        ):
            if group[field]:
                found.append(
                    f'Group "{group["Name"]}" has warnings: {old} is deprecated and ignored since Nomad 1.10'
                )
    return found


def _group_problems(group: Json, job: Json) -> list[str]:
    problems: list[str] = []
    if not group["Name"]:
        problems.append("Missing task group name")
    if group["Count"] < 0:
        problems.append("Task group count can't be negative")
    tasks = group["Tasks"] or []
    if not tasks:
        problems.append("Missing tasks for task group")
    disconnect = group["Disconnect"]
    if disconnect:
        problems += _disconnect(disconnect, job)
    problems += _constraints(group["Constraints"])
    problems += _restart(group["RestartPolicy"])
    if group["ReschedulePolicy"]:
        problems += _reschedule(group["ReschedulePolicy"])
    if group["EphemeralDisk"]["SizeMB"] < 10:
        problems.append("Ephemeral disk size must be at least 10MB")
    update = group["Update"]
    if update and update["MaxParallel"]:
        if update["MinHealthyTime"] >= update["HealthyDeadline"]:
            problems.append("Minimum healthy time must be less than healthy deadline")
        if update["ProgressDeadline"] and update["HealthyDeadline"] >= update["ProgressDeadline"]:
            problems.append("Healthy deadline must be less than progress deadline")
    problems += _duplicates(tasks, "Task", "task")
    if sum(task["Leader"] for task in tasks) > 1:
        problems.append("Only one task may be marked as leader")
    network = _network_problems(group)
    if network:
        problems.append(f"Task group network validation failed: {multierror(network)}")
    service = _service_problems(group)
    if service:
        problems.append(f"Task group service validation failed: {multierror(service)}")
    for task in tasks:
        inner = _task_problems(task, group)
        if inner:
            problems.append(f"Task {task['Name']} validation failed: {multierror(inner)}")
    return problems


def _task_problems(task: Json, group: Json) -> list[str]:
    problems: list[str] = []
    if not task["Name"]:
        problems.append("Missing task name")
    if "/" in task["Name"] or "\\" in task["Name"]:
        problems.append("Task name cannot include slashes")
    if not task["Driver"]:
        problems.append("Missing task driver")
    if task["KillTimeout"] < 0:
        problems.append("KillTimeout must be a positive value")
    if task["ShutdownDelay"] < 0:
        problems.append("ShutdownDelay must be a positive value")
    resources = task["Resources"]
    minimums = []
    if not resources["Cores"] and resources["CPU"] < 1:
        minimums.append(f"minimum CPU value is 1; got {resources['CPU']}")
    if resources["MemoryMB"] < 10:
        minimums.append(f"minimum MemoryMB value is 10; got {resources['MemoryMB']}")
    if minimums:
        problems.append(multierror(minimums))
    if resources["MemoryMaxMB"] and resources["MemoryMaxMB"] < resources["MemoryMB"]:
        problems.append(
            f"MemoryMaxMB value ({resources['MemoryMaxMB']}) should be larger than MemoryMB value "
            f"({resources['MemoryMB']}"
        )
    logs = task["LogConfig"]
    log_problems = []
    if logs["MaxFiles"] < 1:
        log_problems.append(f"minimum number of files is 1; got {logs['MaxFiles']}")
    if logs["MaxFileSizeMB"] < 1:
        log_problems.append(f"minimum file size is 1MB; got {logs['MaxFileSizeMB']}")
    if log_problems:
        problems.append(multierror(log_problems))
    usage = logs["MaxFiles"] * logs["MaxFileSizeMB"]
    disk = group["EphemeralDisk"]["SizeMB"]
    if disk <= usage:
        problems.append(f"log storage ({usage} MB) must be less than requested disk capacity ({disk} MB)")
    for number, template in enumerate(task["Templates"] or (), start=1):
        inner = _template_problems(template)
        if inner:
            problems.append(f"Template {number} validation failed: {multierror(inner)}")
    for constraint_problem in _constraints(task["Constraints"]):
        problems.append(constraint_problem)
    return problems


def _template_problems(template: Json) -> list[str]:
    problems = []
    if not template["SourcePath"] and not template["EmbeddedTmpl"]:
        problems.append("Must specify a source path or have an embedded template")
    if not template["DestPath"]:
        problems.append("Must specify a destination for the template")
    mode = template["ChangeMode"]
    if mode not in ("noop", "restart", "signal", "script"):
        problems.append("Must specify change mode as one of: noop, restart, signal, script")
    if mode == "signal":
        if not template["ChangeSignal"]:
            problems.append("Must specify signal value when change mode is signal")
        if template["Envvars"]:
            problems.append("cannot use signals with env var templates")
    if template["Splay"] < 0:
        problems.append("Must specify positive splay value")
    return problems


def _network_problems(group: Json) -> list[str]:
    problems: list[str] = []
    labels: set[str] = set()
    for network in group["Networks"] or ():
        for port in [*network.get("ReservedPorts", ()), *network.get("DynamicPorts", ())]:
            label = port["Label"]
            if label in labels:
                problems.append(f"Port label {label} already in use")
            labels.add(label)
            if port.get("To", 0) < -1 or port.get("To", 0) > 65535:
                problems.append(f'Port "{label}" "to" must be between -1 and 65535')
        for port in network.get("ReservedPorts", ()):
            if not 0 < port.get("Value", 0) < 65536:
                problems.append(f"Port {port['Label']} has invalid value {port.get('Value', 0)}")
    return problems


def _service_problems(group: Json) -> list[str]:
    problems: list[str] = []
    labels = {
        port["Label"]
        for network in group["Networks"] or ()
        for port in [*network.get("ReservedPorts", ()), *network.get("DynamicPorts", ())]
    }
    providers = {service["Provider"] for service in group["Services"] or ()}
    if len(providers) > 1:
        problems.append("Multiple service providers used: task group services must use the same provider")
    for service in [
        *(group["Services"] or ()),
        *(s for t in group["Tasks"] or () for s in t["Services"] or ()),
    ]:
        name = service["Name"]
        plain = name.replace("${", "").replace("}", "").replace(".", "").replace("_", "")
        if not _SERVICE_NAME.match(plain):
            problems.append(
                "Service name must be valid per RFC 1123 and can contain only alphanumeric characters or dashes "
                "and must be no longer than 63 characters"
            )
        if service["Provider"] not in ("consul", "nomad"):
            problems.append(f'Service provider must be "consul" or "nomad", but got "{service["Provider"]}"')
        label = service["PortLabel"]
        if label and not label.isdigit() and label not in labels:
            problems.append(f'port label "{label}" referenced by services {name} does not exist')
        for check in service["Checks"] or ():
            problems += _check_problems(check, service)
    return problems


def _check_problems(check: Json, service: Json) -> list[str]:
    problems = []
    kind = check["Type"]
    if kind not in ("http", "tcp", "grpc", "script"):
        problems.append(
            f'Check {check["Name"]} invalid: invalid check type ("{kind}"), must be one of "grpc", "http", "script", or "tcp" type'
        )
    if kind == "http" and not check["Path"]:
        problems.append(f"Check {check['Name']} invalid: http type must have http path")
    if check["Interval"] < SECOND:
        problems.append(
            f"Check {check['Name']} invalid: interval ({check['Interval'] // SECOND}s) cannot be lower than 1s"
        )
    if check["Timeout"] < SECOND:
        problems.append(
            f"Check {check['Name']} invalid: timeout ({check['Timeout'] // SECOND}s) is lower than required minimum timeout 1s"
        )
    if kind in ("http", "tcp", "grpc") and not (service["PortLabel"] or check["PortLabel"]):
        problems.append(f"Check {check['Name']} invalid: {kind} checks require an address")
    return problems


def _restart(policy: Json) -> list[str]:
    problems = []
    if policy["Mode"] not in ("delay", "fail"):
        problems.append(f'Unsupported restart mode: "{policy["Mode"]}"')
    if policy["Attempts"] == 0 and policy["Mode"] != "fail":
        problems.append(f'Restart policy "{policy["Mode"]}" with {policy["Attempts"]} attempts is ambiguous')
    if policy["Interval"] < 5 * SECOND:
        problems.append(f"Interval can not be less than 5s (got {policy['Interval'] / SECOND:g}s)")
    if policy["Interval"] and policy["Attempts"] * policy["Delay"] > policy["Interval"]:
        problems.append(
            f"Nomad can't restart the TaskGroup {policy['Attempts']} times in an interval of "
            f"{policy['Interval'] / SECOND:g}s with a delay of {policy['Delay'] / SECOND:g}s"
        )
    return problems


def _reschedule(policy: Json) -> list[str]:
    if not policy["Attempts"] and not policy["Unlimited"]:
        return []
    problems = []
    if policy["Delay"] < 5 * SECOND:
        problems.append(f"Delay cannot be less than 5s (got {policy['Delay'] / SECOND:g}s)")
    if policy["DelayFunction"] not in ("constant", "exponential", "fibonacci"):
        problems.append(
            f'Invalid delay function "{policy["DelayFunction"]}", must be one of ["constant" "exponential" "fibonacci"]'
        )
    if policy["DelayFunction"] != "constant" and policy["MaxDelay"] < 5 * SECOND:
        problems.append(f"Max Delay cannot be less than 5s (got {policy['MaxDelay'] / SECOND:g}s)")
    if policy["Unlimited"] and policy["Attempts"]:
        problems.append(
            f"Reschedule Policy with unlimited = true cannot have attempts (got {policy['Attempts']})"
        )
    return problems


def _disconnect(disconnect: Json, job: Json) -> list[str]:
    problems = []
    stop = disconnect["StopOnClientAfter"]
    if stop is not None:
        if stop < 0:
            problems.append("stop_on_client_after cannot be a negative duration")
        if job["Type"] not in ("service", "batch"):
            problems.append("stop_on_client_after is only valid for service and batch jobs")
        if disconnect["LostAfter"]:
            problems.append("Disconnect cannot be configured with both lost_after and stop_on_client_after")
    if disconnect["LostAfter"] < 0:
        problems.append("lost_after cannot be a negative duration")
    if disconnect["Reconcile"] not in (
        "",
        "keep_original",
        "keep_replacement",
        "best_score",
        "longest_running",
    ):
        problems.append(f"Invalid reconcile option: {disconnect['Reconcile']}")
    return problems


def _constraints(constraints: Iterable[Json] | None) -> list[str]:
    problems = []
    for number, constraint in enumerate(constraints or (), start=1):
        operand = constraint.get("Operand") or "="
        if operand not in _OPERANDS:
            problems.append(f'Constraint {number} validation failed: Unknown constraint type "{operand}"')
    return problems


def _duplicates(items: list[Json], noun: str, short: str) -> list[str]:
    problems = []
    seen: dict[str, int] = {}
    for number, item in enumerate(items, start=1):
        name = item["Name"]
        if not name:
            problems.append(f"{noun} {number} missing name")
        elif name in seen:
            problems.append(f"{noun} {number} redefines '{name}' from {short} {seen[name]}")
        else:
            seen[name] = number
    return problems
