"""Where may a task group run: nodes by pool, datacenter, drivers and constraints, and the room they have."""

from __future__ import annotations

import fnmatch
import re
from random import Random

import msgspec

from sandbox.nomad_double.interpolate import node_value
from sandbox.nomad_double.model import Allocation, Json, Node
from sandbox.nomad_double.ports import PortsExhausted, UsedPorts, assign_ports

_REFERENCE = re.compile(r"^\$\{([^}]+)\}$")
_NUMBERS = re.compile(r"\d+")


class Room(msgspec.Struct, frozen=True):
    """A place found for a group on one node."""

    node: Node
    resources: Json
    score: float


def node_in_scope(node: Node, job: Json) -> bool:
    """Ready, eligible, and in reach of the job."""
    return node.ready and in_reach(node, job)


def in_reach(node: Node, job: Json) -> bool:
    """In one of the job's datacenters and in its node pool."""
    in_pool = job["NodePool"] in ("all", node.node_pool)
    return in_pool and any(fnmatch.fnmatchcase(node.datacenter, dc) for dc in job["Datacenters"])


def filtered_by(node: Node, job: Json, group: Json) -> str | None:
    """The constraint that rules a node out, as `ConstraintFiltered` names it."""
    if any(task["Driver"] not in node.drivers for task in group["Tasks"]):
        return "missing drivers"
    constraints = [*(job["Constraints"] or ()), *(group["Constraints"] or ())]
    for task in group["Tasks"]:
        constraints += task["Constraints"] or ()
    for constraint in constraints:
        if not _satisfied(constraint, node):
            return f"{constraint.get('LTarget', '')} {constraint.get('Operand') or '='} {constraint.get('RTarget', '')}"
    return None


def find_room(node: Node, group: Json, proposed: list[Allocation], rng: Random) -> Room:
    """Ports, memory, CPU and disk of a group on a node that already holds `proposed`.

    Raises:
        PortsExhausted: something is missing; the text is the key in `DimensionExhausted`.
    """
    used = UsedPorts(node, proposed)
    if used.collision:
        raise PortsExhausted("network: port collision")
    ports: list[Json] = []
    networks: list[Json] | None = None
    for ask in (group["Networks"] or ())[:1]:
        ports = assign_ports(ask, used, rng)
        networks = [_offered(ask, ports, node)]
    cpu = sum(task["Resources"]["CPU"] for task in group["Tasks"])
    memory = sum(task["Resources"]["MemoryMB"] for task in group["Tasks"])
    disk = group["EphemeralDisk"]["SizeMB"]
    used_cpu, used_memory, used_disk = usage(proposed)
    for dimension, wanted, capacity in (
        ("cpu", used_cpu + cpu, node.cpu_mhz),
        ("memory", used_memory + memory, node.memory_mb),
        ("disk", used_disk + disk, node.disk_mb),
    ):
        if wanted > capacity:
            raise PortsExhausted(dimension)
    free_cpu = 1 - (used_cpu + cpu) / node.cpu_mhz
    free_memory = 1 - (used_memory + memory) / node.memory_mb
    # Bin packing: the fuller the node the better, 18 at most (Google's "BestFit v3", as Nomad scores).
    score = min(18.0, max(0.0, 20.0 - (10**free_cpu + 10**free_memory))) / 18.0
    resources: Json = {
        "Tasks": {task["Name"]: _task_resources(task) for task in group["Tasks"]},
        "TaskLifecycles": {task["Name"]: None for task in group["Tasks"]},
        "Shared": {"Networks": networks, "DiskMB": disk, "Ports": ports or None},
    }
    return Room(node, resources, score)


def usage(allocs: list[Allocation]) -> tuple[int, int, int]:
    """(MHz, MB of memory, MB of disk) of allocations whose tasks may still run."""
    cpu = memory = disk = 0
    for alloc in allocs:
        if alloc.client_terminal:
            continue
        for task in alloc.allocated_resources["Tasks"].values():
            cpu += task["Cpu"]["CpuShares"]
            memory += task["Memory"]["MemoryMB"]
        disk += alloc.allocated_resources["Shared"]["DiskMB"]
    return cpu, memory, disk


def _offered(ask: Json, ports: list[Json], node: Node) -> Json:
    values = {port["Label"]: port["Value"] for port in ports}
    offered = {**ask, "IP": node.address}
    for field in ("DynamicPorts", "ReservedPorts"):
        if field in ask:
            offered[field] = [{**port, "Value": values[port["Label"]]} for port in ask[field]]
    return offered


def _task_resources(task: Json) -> Json:
    resources = task["Resources"]
    return {
        "Cpu": {"CpuShares": resources["CPU"], "ReservedCores": None},
        "Memory": {"MemoryMB": resources["MemoryMB"], "MemoryMaxMB": resources["MemoryMaxMB"]},
        "Networks": None,
        "Devices": None,
    }


def _satisfied(constraint: Json, node: Node) -> bool:
    operand = constraint.get("Operand") or "="
    left = _target(constraint.get("LTarget", ""), node)
    right = _target(constraint.get("RTarget", ""), node)
    if operand in ("distinct_hosts", "distinct_property"):
        return True
    if operand == "is_set":
        return left is not None
    if operand == "is_not_set":
        return left is None
    if operand in ("!=", "not"):
        return left != right
    if left is None or right is None:
        return False
    if operand in ("=", "==", "is"):
        return left == right
    if operand == "regexp":
        return re.search(right, left) is not None
    if operand in ("version", "semver"):
        return all(_compare_versions(left, part.strip()) for part in right.split(","))
    if operand in ("set_contains", "set_contains_all"):
        return _set(right) <= _set(left)
    if operand == "set_contains_any":
        return bool(_set(right) & _set(left))
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operand]


def _target(text: str, node: Node) -> str | None:
    reference = _REFERENCE.match(text)
    return node_value(node, reference.group(1)) if reference else text


def _set(text: str) -> set[str]:
    return {item.strip() for item in text.split(",")}


def _compare_versions(version: str, rule: str) -> bool:
    match = re.match(r"^(>=|<=|!=|>|<|=)?\s*v?(.+)$", rule)
    if match is None:
        return False
    a, b = _version(version), _version(match.group(2))
    return {">=": a >= b, "<=": a <= b, "!=": a != b, ">": a > b, "<": a < b, "=": a == b}[
        match.group(1) or "="
    ]


def _version(text: str) -> tuple[int, ...]:
    numbers = [int(number) for number in _NUMBERS.findall(text.split("-")[0])[:3]]
    return tuple(numbers + [0] * (3 - len(numbers)))
