"""Task events: what a client tells about one task, with all the empty fields that Nomad's JSON carries."""

from __future__ import annotations

from sandbox.nomad_double.drivers import ExitResult
from sandbox.nomad_double.durations import go_duration
from sandbox.nomad_double.model import Json
from sandbox.nomad_double.restart import WITHIN_POLICY

MAX_EVENTS = 10
"""A client keeps the newest ten events of a task."""

_EMPTY: Json = {
    "Type": "",
    "Time": 0,
    "Message": "",
    "DisplayMessage": "",
    "Details": {},
    "FailsTask": False,
    "RestartReason": "",
    "SetupError": "",
    "DriverError": "",
    "ExitCode": 0,
    "Signal": 0,
    "KillTimeout": 0,
    "KillError": "",
    "KillReason": "",
    "StartDelay": 0,
    "DownloadError": "",
    "ValidationError": "",
    "DiskLimit": 0,
    "FailedSibling": "",
    "VaultError": "",
    "TaskSignalReason": "",
    "TaskSignal": "",
    "DriverMessage": "",
    "GenericSource": "",
}


def _event(kind: str, display: str, details: dict[str, str] | None = None, **fields: object) -> Json:
    return {**_EMPTY, "Type": kind, "DisplayMessage": display, "Details": details or {}, **fields}


def received() -> Json:
    return _event("Received", "Task received by client")


def task_setup() -> Json:
    text = "Building Task Directory"
    return _event("Task Setup", text, {"message": text}, Message=text)


def failed_restoring() -> Json:
    text = "failed to restore task; will not run until server is contacted"
    return _event("Failed Restoring Task", text)


def template_missing(paths: list[str], namespace: str) -> Json:
    names = ", ".join(f"nomad.var.block({path}@{namespace}.global)" for path in paths)
    text = f"Missing: {names}"
    return _event("Template", text, {"message": text}, Message=text)


def started() -> Json:
    return _event("Started", "Task started by client")


def driver_failure(error: str) -> Json:
    return _event("Driver Failure", error, {"driver_error": error}, DriverError=error)


def terminated(result: ExitResult) -> Json:
    display = f"Exit Code: {result.exit_code}"
    if result.signal:
        display += f", Signal: {result.signal}"
    details = {"exit_code": str(result.exit_code), "signal": str(result.signal), "oom_killed": "false"}
    return _event("Terminated", display, details, ExitCode=result.exit_code, Signal=result.signal)


def restart_signaled(reason: str) -> Json:
    return _event("Restart Signaled", reason, {"restart_reason": reason}, RestartReason=reason)


def restarting(delay_ns: int, reason: str) -> Json:
    details = {"start_delay": str(delay_ns), "restart_reason": reason}
    display = f"Task restarting in {go_duration(delay_ns)}"
    if reason not in ("", WITHIN_POLICY):
        display = f"{reason} - {display}"
    return _event("Restarting", display, details, RestartReason=reason, StartDelay=delay_ns)


def not_restarting(reason: str) -> Json:
    details = {"fails_task": "true", "restart_reason": reason}
    return _event("Not Restarting", reason, details, RestartReason=reason, FailsTask=True)


def killing(timeout_ns: int) -> Json:
    text = go_duration(timeout_ns)
    display = f"Sent interrupt. Waiting {text} before force killing"
    return _event("Killing", display, {"kill_timeout": text}, KillTimeout=timeout_ns)


def killed() -> Json:
    return _event("Killed", "Task successfully killed")


def sibling_failed(task: str) -> Json:
    return _event(
        "Sibling Task Failed",
        f'Task\'s sibling "{task}" failed',
        {"failed_sibling": task},
        FailedSibling=task,
    )
