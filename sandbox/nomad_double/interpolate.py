"""`${...}` in a job: node attributes and meta, and the NOMAD_ variables of one task."""

from __future__ import annotations

import re
from typing import Any

from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Allocation, Json, Node

_REFERENCE = re.compile(r"\$\{([^}]+)\}")
_NOT_ENV = re.compile(r"[^A-Za-z0-9_]")


def node_value(node: Node, reference: str) -> str | None:
    """What `${attr.x}`, `${meta.x}` and `${node.x}` stand for on a node; None when it has no such value."""
    if reference.startswith("attr."):
        return node.attributes.get(reference.removeprefix("attr."))
    if reference.startswith("meta."):
        return node.meta.get(reference.removeprefix("meta."))
    return {
        "node.unique.id": node.id,
        "node.unique.name": node.name,
        "node.datacenter": node.datacenter,
        "node.region": "global",
        "node.class": node.node_class,
        "node.pool": node.node_pool,
    }.get(reference)


def interpolate(value: Any, node: Node, env: dict[str, str]) -> Any:
    """Replace references in every string of a value; an unknown one stays as it was written, as in Nomad."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: _resolve(match, node, env), value)
    if isinstance(value, list):
        return [interpolate(item, node, env) for item in value]
    if isinstance(value, dict):
        return {key: interpolate(item, node, env) for key, item in value.items()}
    return value


def _resolve(match: re.Match[str], node: Node, env: dict[str, str]) -> str:
    reference = match.group(1).strip()
    found = env.get(reference.removeprefix("env."))
    if found is None:
        found = node_value(node, reference)
    return match.group(0) if found is None else found


def env_label(label: str) -> str:
    """A name that a shell can read: `NOMAD_PORT_my-port` -> `NOMAD_PORT_my_port`."""
    return _NOT_ENV.sub("_", label)


def task_env(
    alloc: Allocation, node: Node, task: Json, dirs: dict[str, str], extra: dict[str, str]
) -> dict[str, str]:
    """The environment of a task: Nomad's own variables, rendered templates (`extra`), then the job's Env.

    Names and values as a raw_exec task sees them on Nomad 1.10.5.
    """
    job = alloc.job
    group = group_of(job, alloc.task_group) or {}
    resources = alloc.allocated_resources["Tasks"][task["Name"]]
    env = {
        "NOMAD_ALLOC_DIR": dirs["alloc"],
        "NOMAD_TASK_DIR": dirs["local"],
        "NOMAD_SECRETS_DIR": dirs["secrets"],
        "NOMAD_ALLOC_ID": alloc.id,
        "NOMAD_SHORT_ALLOC_ID": alloc.id[:8],
        "NOMAD_ALLOC_NAME": alloc.name,
        "NOMAD_ALLOC_INDEX": str(alloc.index),
        "NOMAD_GROUP_NAME": alloc.task_group,
        "NOMAD_TASK_NAME": task["Name"],
        "NOMAD_JOB_ID": job["ID"],
        "NOMAD_JOB_NAME": job["Name"],
        "NOMAD_DC": node.datacenter,
        "NOMAD_REGION": job["Region"],
        "NOMAD_NAMESPACE": alloc.namespace,
        "NOMAD_CPU_LIMIT": str(resources["Cpu"]["CpuShares"]),
        "NOMAD_MEMORY_LIMIT": str(resources["Memory"]["MemoryMB"]),
    }
    if resources["Memory"]["MemoryMaxMB"]:
        env["NOMAD_MEMORY_MAX_LIMIT"] = str(resources["Memory"]["MemoryMaxMB"])
    raw: dict[str, str] = {}
    for port in alloc.ports:
        label, value, ip = port["Label"], port["Value"], port["HostIP"]
        inside = port.get("To") or value
        plain = {
            f"NOMAD_PORT_{label}": str(inside),
            f"NOMAD_HOST_PORT_{label}": str(value),
            f"NOMAD_IP_{label}": ip,
            f"NOMAD_ADDR_{label}": f"{ip}:{value}",
        }
        # Only these four get a name that a shell can read; `${...}` in the job knows both forms.
        raw |= plain
        env |= {env_label(key): text for key, text in plain.items()}
        env |= {
            f"NOMAD_ALLOC_PORT_{label}": str(inside),
            f"NOMAD_HOST_IP_{label}": ip,
            f"NOMAD_HOST_ADDR_{label}": f"{ip}:{value}",
        }
    for key, text in {**(job["Meta"] or {}), **(group.get("Meta") or {}), **(task["Meta"] or {})}.items():
        value = interpolate(text, node, env)
        env[f"NOMAD_META_{env_label(key)}"] = value
        env[f"NOMAD_META_{env_label(key).upper()}"] = value
    known = {**env, **raw, **extra}
    own = {key: interpolate(text, node, known) for key, text in (task["Env"] or {}).items()}
    return {**env, **own, **extra}
