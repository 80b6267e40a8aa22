"""Objects as Nomad's API shows them: full, as list stubs, and as event payloads."""

from __future__ import annotations

from typing import Any

import msgspec

from sandbox.nomad_double.durations import iso_time
from sandbox.nomad_double.events import Event
from sandbox.nomad_double.model import Allocation, Deployment, Evaluation, Json, Node

_RESOURCES: Json = {
    "CPU": 0,
    "Cores": 0,
    "MemoryMB": 0,
    "MemoryMaxMB": 0,
    "DiskMB": 0,
    "IOPS": 0,
    "Networks": None,
    "Devices": None,
    "NUMA": None,
    "SecretsMB": 0,
}


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value)


def alloc_view(alloc: Allocation, *, with_job: bool = True) -> Json:
    """A single allocation: empty fields are left out."""
    body: Json = _plain(alloc)
    job = body.pop("Job")
    shared = alloc.allocated_resources["Shared"]
    tasks = alloc.allocated_resources["Tasks"]
    per_task = {
        name: {
            **_RESOURCES,
            "CPU": task["Cpu"]["CpuShares"],
            "MemoryMB": task["Memory"]["MemoryMB"],
            "MemoryMaxMB": task["Memory"]["MemoryMaxMB"],
        }
        for name, task in tasks.items()
    }
    body["Resources"] = {
        **_RESOURCES,
        "CPU": sum(t["CPU"] for t in per_task.values()),
        "MemoryMB": sum(t["MemoryMB"] for t in per_task.values()),
        "MemoryMaxMB": sum(t["MemoryMaxMB"] or t["MemoryMB"] for t in per_task.values()),
        "DiskMB": shared["DiskMB"],
        "Networks": shared["Networks"],
    }
    body["SharedResources"] = {**_RESOURCES, "DiskMB": shared["DiskMB"], "Networks": shared["Networks"]}
    body["TaskResources"] = per_task
    if alloc.desired_transition == type(alloc.desired_transition)():
        body.pop("DesiredTransition", None)
    # These two are always there, whatever they hold.
    body["DesiredStatus"] = alloc.desired_status
    body["ClientStatus"] = alloc.client_status
    if alloc.task_states:
        body["NetworkStatus"] = {"InterfaceName": "", "Address": "", "AddressIPv6": "", "DNS": None}
    if with_job:
        body["Job"] = job
    return body


def alloc_stub(alloc: Allocation, *, resources: bool = False, task_states: bool = True) -> Json:
    """An allocation in a list: every field is there, empty ones as null, zero or ''."""
    return {
        "ID": alloc.id,
        "EvalID": alloc.eval_id,
        "Name": alloc.name,
        "Namespace": alloc.namespace,
        "NodeID": alloc.node_id,
        "NodeName": alloc.node_name,
        "JobID": alloc.job_id,
        "JobType": alloc.job["Type"],
        "JobVersion": alloc.job["Version"],
        "TaskGroup": alloc.task_group,
        "AllocatedResources": alloc.allocated_resources if resources else None,
        "DesiredStatus": alloc.desired_status,
        "DesiredDescription": alloc.desired_description,
        "ClientStatus": alloc.client_status,
        "ClientDescription": alloc.client_description,
        "DesiredTransition": _plain(alloc.desired_transition),
        "TaskStates": _plain(alloc.task_states) if task_states else None,
        "DeploymentStatus": _plain(alloc.deployment_status),
        "FollowupEvalID": alloc.followup_eval_id,
        "NextAllocation": alloc.next_allocation,
        "RescheduleTracker": _plain(alloc.reschedule_tracker),
        "PreemptedAllocations": None,
        "PreemptedByAllocation": "",
        "CreateIndex": alloc.create_index,
        "ModifyIndex": alloc.modify_index,
        "CreateTime": alloc.create_time,
        "ModifyTime": alloc.modify_time,
    }


def job_stub(job: Json, summary: Json | None, *, meta: bool) -> Json:
    return {
        "ID": job["ID"],
        "ParentID": job["ParentID"],
        "Name": job["Name"],
        "Namespace": job["Namespace"],
        "Datacenters": job["Datacenters"],
        "NodePool": job["NodePool"],
        "Multiregion": None,
        "Type": job["Type"],
        "Priority": job["Priority"],
        "Periodic": False,
        "ParameterizedJob": False,
        "Stop": job["Stop"],
        "Status": job["Status"],
        "StatusDescription": job["StatusDescription"],
        "JobSummary": summary,
        "CreateIndex": job["CreateIndex"],
        "ModifyIndex": job["ModifyIndex"],
        "JobModifyIndex": job["JobModifyIndex"],
        "SubmitTime": job["SubmitTime"],
        "Meta": job["Meta"] if meta else None,
    }


def eval_view(evaluation: Evaluation) -> Json:
    body: Json = _plain(evaluation)
    # Omitted only when empty by Go's rules; these hold a value in every stored evaluation.
    body.setdefault("Priority", evaluation.priority)
    body.setdefault("Type", evaluation.type)
    return body


def deployment_view(deployment: Deployment) -> Json:
    body: Json = _plain(deployment)
    return body


def node_stub(node: Node, *, resources: bool, os: bool) -> Json:
    return {
        "Address": node.address,
        "ID": node.id,
        "Attributes": {"os.name": node.attributes["os.name"]} if os else None,
        "Datacenter": node.datacenter,
        "Name": node.name,
        "NodePool": node.node_pool,
        "NodeClass": node.node_class,
        "Version": node.attributes["nomad.version"],
        "Drain": node.drain_strategy is not None,
        "SchedulingEligibility": node.scheduling_eligibility,
        "Status": node.status,
        "StatusDescription": node.status_description,
        "Drivers": _drivers(node),
        "HostVolumes": {},
        "NodeResources": _node_resources(node) if resources else None,
        "ReservedResources": _reserved(node) if resources else None,
        "LastDrain": node.last_drain,
        "CreateIndex": node.create_index,
        "ModifyIndex": node.modify_index,
    }


def node_view(node: Node) -> Json:
    return {
        "Attributes": node.attributes,
        "CSIControllerPlugins": {},
        "CSINodePlugins": {},
        "CgroupParent": "nomad.slice",
        "ComputedClass": f"v1:{node.node_class or 'default'}",
        "CreateIndex": node.create_index,
        "Datacenter": node.datacenter,
        "Drain": node.drain_strategy is not None,
        "DrainStrategy": node.drain_strategy,
        "Drivers": _drivers(node),
        "Events": node.events,
        "GCVolumesOnNodeGC": False,
        "HTTPAddr": f"{node.address}:4646",
        "HostNetworks": None,
        "HostVolumes": {},
        "ID": node.id,
        "LastAllocUpdateIndex": node.last_alloc_update_index,
        "LastDrain": node.last_drain,
        "LastMissedHeartbeatIndex": node.last_missed_heartbeat_index,
        "Links": {},
        "Meta": node.meta,
        "ModifyIndex": node.modify_index,
        "Name": node.name,
        "NodeClass": node.node_class,
        "NodeMaxAllocs": 0,
        "NodePool": node.node_pool,
        "NodeResources": _node_resources(node),
        "Reserved": _RESOURCES,
        "ReservedResources": _reserved(node),
        "Resources": _RESOURCES,
        "SchedulingEligibility": node.scheduling_eligibility,
        "SecretID": "",
        "Status": node.status,
        "StatusDescription": node.status_description,
        "StatusUpdatedAt": node.status_updated_at,
        "TLSEnabled": False,
    }


def _node_resources(node: Node) -> Json:
    address = {
        "Family": "ipv4",
        "Alias": "default",
        "Address": node.address,
        "ReservedPorts": "",
        "Gateway": "",
    }
    network = {"Mode": "host", "Device": "lo", "MacAddress": "", "Speed": 1000, "Addresses": [address]}
    cidr = {"Mode": "host", "Device": "lo", "CIDR": f"{node.address}/32", "IP": node.address, "MBits": 1000}
    cores = int(node.attributes["cpu.numcores"])
    return {
        "Cpu": {
            "CpuShares": node.cpu_mhz,
            "TotalCpuCores": cores,
            "ReservableCpuCores": list(range(cores)),
        },
        "Memory": {"MemoryMB": node.memory_mb},
        "Disk": {"DiskMB": node.disk_mb},
        "Devices": None,
        "NodeNetworks": [network],
        "Networks": [cidr],
        "MinDynamicPort": node.min_dynamic_port,
        "MaxDynamicPort": node.max_dynamic_port,
    }


def _reserved(node: Node) -> Json:
    return {
        "Cpu": {"CpuShares": 0, "ReservedCpuCores": None},
        "Memory": {"MemoryMB": 0},
        "Disk": {"DiskMB": 0},
        "Networks": {"ReservedHostPorts": ",".join(str(port) for port in node.reserved_ports)},
    }


def _drivers(node: Node) -> Json:
    return {
        driver: {
            "Attributes": {f"driver.{driver}": "true"},
            "Detected": True,
            "Healthy": True,
            "HealthDescription": "Healthy",
            "UpdateTime": iso_time(node.status_updated_at * 1_000_000_000),
        }
        for driver in node.drivers
    }


def event_line(index: int, events: list[Event]) -> bytes:
    """One line of the event stream."""
    return msgspec.json.encode({"Index": index, "Events": [_event(event) for event in events]}) + b"\n"


def _event(event: Event) -> Json:
    return {
        "Topic": event.topic,
        "Type": event.type,
        "Key": event.key,
        "Namespace": event.namespace,
        "FilterKeys": event.filter_keys,
        "Index": event.index,
        "Payload": {event.topic: _payload(event.subject)},
    }


def _payload(subject: object) -> object:
    if isinstance(subject, Allocation):
        return alloc_view(subject, with_job=False)
    if isinstance(subject, Evaluation):
        return eval_view(subject)
    if isinstance(subject, Node):
        return node_view(subject)
    return subject
