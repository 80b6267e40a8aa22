"""Can an allocation take a new spec in place, or must it be replaced? (`tasksUpdated` of Nomad 1.10.5.)"""

from __future__ import annotations

from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Json

_GROUP_FIELDS = ("EphemeralDisk", "Consul", "Volumes")
_TASK_FIELDS = (
    "Driver",
    "User",
    "Config",
    "Env",
    "Artifacts",
    "Vault",
    "Consul",
    "Templates",
    "CSIPluginConfig",
    "VolumeMounts",
    "Identity",
    "Identities",
)
_RESOURCE_FIELDS = ("CPU", "Cores", "MemoryMB", "MemoryMaxMB", "Devices", "NUMA", "SecretsMB")


def destructive_change(old: Json, new: Json, group_name: str) -> str | None:
    """Name the first difference that forces a replacement; None when the update can be done in place."""
    a, b = group_of(old, group_name), group_of(new, group_name)
    if a is None or b is None:
        return "task group"
    if len(a["Tasks"]) != len(b["Tasks"]):
        return "number of tasks"
    for field in _GROUP_FIELDS:
        if a[field] != b[field]:
            return f"group {field}"
    if _networks(a) != _networks(b):
        return "group network"
    if a["RestartPolicy"]["RenderTemplates"] != b["RestartPolicy"]["RenderTemplates"]:
        return "group restart render_templates"
    tasks = {task["Name"]: task for task in b["Tasks"]}
    for task in a["Tasks"]:
        other = tasks.get(task["Name"])
        if other is None:
            return f"task {task['Name']} deleted"
        difference = _task_change(task, other)
        if difference is None and _meta(old, a, task) != _meta(new, b, other):
            difference = "Meta"
        if difference is not None:
            return f"task {task['Name']} {difference}"
    return None


def _task_change(a: Json, b: Json) -> str | None:
    for field in _TASK_FIELDS:
        if a[field] != b[field]:
            return field
    for field in _RESOURCE_FIELDS:
        if a["Resources"][field] != b["Resources"][field]:
            return f"Resources.{field}"
    if a["LogConfig"]["Disabled"] != b["LogConfig"]["Disabled"]:
        return "LogConfig.Disabled"
    if a["RestartPolicy"]["RenderTemplates"] != b["RestartPolicy"]["RenderTemplates"]:
        return "RestartPolicy.RenderTemplates"
    return None


def _meta(job: Json, group: Json, task: Json) -> dict[str, str]:
    """Job, group and task meta as one task sees them: any change of it restarts the container."""
    return {**(job["Meta"] or {}), **(group["Meta"] or {}), **(task["Meta"] or {})}


def _networks(group: Json) -> list[Json]:
    return [
        {
            "mode": network.get("Mode", ""),
            "dns": network.get("DNS"),
            "hostname": network.get("Hostname"),
            "reserved": _ports(network.get("ReservedPorts"), with_value=True),
            "dynamic": _ports(network.get("DynamicPorts"), with_value=False),
        }
        for network in group["Networks"] or ()
    ]


def _ports(ports: list[Json] | None, *, with_value: bool) -> list[tuple[object, ...]]:
    return sorted(
        (p["Label"], p.get("To", 0), p.get("HostNetwork"), p.get("Value", 0) if with_value else 0)
        for p in ports or ()
    )
