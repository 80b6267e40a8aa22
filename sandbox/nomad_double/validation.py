"""What Nomad refuses when a job is registered (validators of Nomad 1.10.5; only those a job of ours can meet)."""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.nomad_double.durations import go_duration
from sandbox.nomad_double.errors import multierror
from sandbox.nomad_double.job_defaults import SECOND
from sandbox.nomad_double.model import Json
from sandbox.nomad_double.service_validation import network_problems, service_problems
from sandbox.nomad_double.templates import TemplateError, parse_template

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
    if not 1 <= job["Priority"] <= 100:
        problems.append("job priority must be between [1, 100]")
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


_DEPRECATED = {
    "MaxClientDisconnect": "MaxClientDisconnect is deprecated and ignored in favor of Disconnect.LostAfter",
    "StopAfterClientDisconnect": (
        "StopAfterClientDisconnect is deprecated and ignored favor of Disconnect.StopOnClientAfter"
    ),
    "PreventRescheduleOnLost": "PreventRescheduleOnLost is deprecated and ignored in favor of Disconnect.Replace",
}


def warnings(job: Json, release: tuple[int, ...]) -> str:
    """The register reply's `Warnings`."""
    found = []
    for group in job["TaskGroups"]:
        inner = [text for field, text in _DEPRECATED.items() if group[field]]
        if inner:
            found.append(f'Group "{group["Name"]}" has warnings: {multierror(inner)}'.strip())
        delays = [group["ShutdownDelay"], *(task["ShutdownDelay"] for task in group["Tasks"])]
        services = group["Services"] or any(task["Services"] for task in group["Tasks"])
        if release >= (2, 0, 1) and services and not any(delays):
            found.append(
                f'group "{group["Name"]}" defines services, but neither the group nor any of its tasks have '
                "shutdown_delay set"
            )
    if not found:
        return ""
    noun = "1 warning" if len(found) == 1 else f"{len(found)} warnings"
    return f"{noun}:\n" + "".join(f"\n* {text}" for text in found)


def _group_problems(group: Json, job: Json) -> list[str]:
    problems: list[str] = []
    if not group["Name"]:
        problems.append("Missing task group name")
    if group["Count"] < 0:
        problems.append("Task group count can't be negative")
    tasks = group["Tasks"] or []
    if not tasks:
        problems.append("Missing tasks for task group")
    if group["Disconnect"]:
        problems += _disconnect(group["Disconnect"], job)
    problems += _constraints(group["Constraints"])
    problems += _restart(group["RestartPolicy"])
    if group["ReschedulePolicy"]:
        problems += _reschedule(group["ReschedulePolicy"])
    if group["EphemeralDisk"]["SizeMB"] < 10:
        problems.append(f"minimum DiskMB value is 10; got {group['EphemeralDisk']['SizeMB']}")
    if group["Update"]:
        if job["Type"] not in ("service", "system"):
            problems.append(f'Job type "{job["Type"]}" does not allow update block')
        problems += _update(group["Update"])
    problems += _duplicates(tasks, "Task", "task")
    if sum(task["Leader"] for task in tasks) > 1:
        problems.append("Only one task may be marked as leader")
    network = network_problems(group)
    if network:
        problems.append(f"Task group network validation failed: {multierror(network)}")
    service = service_problems(group)
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
    resources = _resources(task["Resources"])
    if resources:
        problems.append(multierror(resources))
    logs = _logs(task["LogConfig"], group["EphemeralDisk"]["SizeMB"])
    if logs:
        problems.append(multierror(logs))
    problems += _constraints(task["Constraints"])
    for number, template in enumerate(task["Templates"] or (), start=1):
        inner = _template_problems(template)
        if inner:
            problems.append(f"Template {number} validation failed: {multierror(inner)}")
    return problems


def _resources(resources: Json) -> list[str]:
    problems = []
    minimums = []
    if not resources["Cores"] and resources["CPU"] < 1:
        minimums.append(f"minimum CPU value is 1; got {resources['CPU']}")
    if resources["MemoryMB"] < 10:
        minimums.append(f"minimum MemoryMB value is 10; got {resources['MemoryMB']}")
    if minimums:
        problems.append(multierror(minimums))
    maximum, memory = resources["MemoryMaxMB"], resources["MemoryMB"]
    if maximum and maximum < memory:
        problems.append(f"MemoryMaxMB value ({maximum}) should be larger than MemoryMB value ({memory})")
    return problems


def _logs(logs: Json, disk_mb: int) -> list[str]:
    problems = []
    if logs["MaxFiles"] < 1:
        problems.append(f"minimum number of files is 1; got {logs['MaxFiles']}")
    if logs["MaxFileSizeMB"] < 1:
        problems.append(f"minimum file size is 1MB; got {logs['MaxFileSizeMB']}")
    usage = logs["MaxFiles"] * logs["MaxFileSizeMB"]
    if disk_mb <= usage:
        problems.append(f"log storage ({usage} MB) must be less than requested disk capacity ({disk_mb} MB)")
    return problems


def _template_problems(template: Json) -> list[str]:
    problems = []
    if not template["SourcePath"] and not template["EmbeddedTmpl"]:
        problems.append("Must specify a source path or have an embedded template")
    if not template["DestPath"]:
        problems.append("Must specify a destination for the template")
    mode = template["ChangeMode"]
    if mode == "signal":
        if not template["ChangeSignal"]:
            problems.append("Must specify signal value when change mode is signal")
        if template["Envvars"]:
            problems.append("cannot use signals with env var templates")
    elif mode not in ("noop", "restart", "script"):
        problems.append("Invalid change mode. Must be one of the following: noop, signal, script, restart")
    if template["Splay"] < 0:
        problems.append("Must specify positive splay value")
    return problems


def _update(update: Json) -> list[str]:
    problems = []
    healthy, deadline = update["MinHealthyTime"], update["HealthyDeadline"]
    progress = update["ProgressDeadline"]
    if update["HealthCheck"] not in ("checks", "task_states", "manual"):
        problems.append(f'Invalid health check given: "{update["HealthCheck"]}"')
    if update["MaxParallel"] < 0:
        problems.append(f"Max parallel can not be less than zero: {update['MaxParallel']} < 0")
    if update["Canary"] < 0:
        problems.append(f"Canary count can not be less than zero: {update['Canary']} < 0")
    if not update["Canary"] and update["AutoPromote"]:
        problems.append("Auto Promote requires a Canary count greater than zero")
    if healthy < 0:
        problems.append(f"Minimum healthy time may not be less than zero: {go_duration(healthy)}")
    if deadline <= 0:
        problems.append(f"Healthy deadline must be greater than zero: {go_duration(deadline)}")
    if progress < 0:
        problems.append(f"Progress deadline must be zero or greater: {go_duration(progress)}")
    if healthy >= deadline:
        problems.append(
            "Minimum healthy time must be less than healthy deadline: "
            f"{go_duration(healthy)} > {go_duration(deadline)}"
        )
    if progress and deadline >= progress:
        problems.append(
            f"Healthy deadline must be less than progress deadline: {go_duration(deadline)} > {go_duration(progress)}"
        )
    if update["Stagger"] <= 0:
        problems.append(f"Stagger must be greater than zero: {go_duration(update['Stagger'])}")
    return problems


def _restart(policy: Json) -> list[str]:
    problems = []
    mode, attempts = policy["Mode"], policy["Attempts"]
    interval, delay = policy["Interval"], policy["Delay"]
    if mode not in ("delay", "fail"):
        problems.append(f'Unsupported restart mode: "{mode}"')
    if attempts == 0 and mode != "fail":
        problems.append(f'Restart policy "{mode}" with {attempts} attempts is ambiguous')
    if interval < 5 * SECOND:
        problems.append(f"Interval can not be less than 5s (got {go_duration(interval)})")
    if attempts * delay > interval:
        problems.append(
            f"Nomad can't restart the TaskGroup {attempts} times in an interval of {go_duration(interval)} "
            f"with a delay of {go_duration(delay)}"
        )
    return problems


def _reschedule(policy: Json) -> list[str]:
    attempts, unlimited = policy["Attempts"], policy["Unlimited"]
    if not attempts and not unlimited:
        return []
    problems = []
    interval, delay, longest = policy["Interval"], policy["Delay"], policy["MaxDelay"]
    if attempts > 0:
        if interval <= 0:
            problems.append("Interval must be a non zero value if Attempts > 0")
        if unlimited:
            problems.append(
                f"Reschedule Policy with Attempts = {attempts}, Interval = {go_duration(interval)}, "
                "and Unlimited = true is ambiguous"
            )
            problems.append("If Attempts >0, Unlimited cannot also be set to true")
    if delay < 5 * SECOND:
        problems.append(f"Delay cannot be less than 5s (got {go_duration(delay)})")
    function = policy["DelayFunction"]
    if function not in ("constant", "exponential", "fibonacci"):
        problems.append(
            f'Invalid delay function "{function}", must be one of ["constant" "exponential" "fibonacci"]'
        )
    if function != "constant":
        if longest < 5 * SECOND:
            problems.append(f"Max Delay cannot be less than 5s (got {go_duration(delay)})")
        if longest < delay:
            problems.append(
                f"Max Delay cannot be less than Delay {go_duration(delay)} (got {go_duration(longest)})"
            )
    if not unlimited and interval < 5 * SECOND:
        problems.append(f"Interval cannot be less than 5s (got {go_duration(interval)})")
    return problems


def _disconnect(disconnect: Json, job: Json) -> list[str]:
    problems = []
    stop = disconnect["StopOnClientAfter"]
    if stop is not None:
        if stop < 0:
            problems.append("stop_after cannot be a negative duration")
        if job["Type"] not in ("service", "batch"):
            problems.append("stop_after can only be used with service or batch job types")
        if disconnect["LostAfter"]:
            problems.append("Disconnect cannot be configured with both lost_after and stop_after")
    if disconnect["LostAfter"] < 0:
        problems.append("lost_after cannot be a negative duration")
    return problems


def _constraints(constraints: Iterable[Json] | None) -> list[str]:
    problems = []
    for number, constraint in enumerate(constraints or (), start=1):
        operand = constraint.get("Operand") or "="
        if operand not in _OPERANDS:
            inner = multierror([f'Unknown constraint type "{operand}"'])
            problems.append(f"Constraint {number} validation failed: {inner}")
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
