"""What one user has in every system, and what there must not be: the same questions after each story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import func, select

from core.domain.names import JOB_PREFIX, SERVICE_NAME, VARIABLE_PREFIX, job_id, session_name, variable_path
from core.store.tables import chips, containers, leases, placements, port_ledger, webhook_inbox
from sandbox.nomad_double.model import CLIENT_TERMINAL, Allocation
from sandbox.waha import journal
from tests.integration.daemon.fleet import Fleet


@dataclass(frozen=True)
class User:
    """A user, their chips, and the namespace that their container stores under."""

    id: str
    chips: tuple[str, ...]
    namespace: str = ""


def allocations(fleet: Fleet, user_id: str) -> list[Allocation]:
    """Every allocation that the job ever had and Nomad still knows, oldest first."""
    found = [a for a in fleet.nomad.double.state.allocs.values() if a.job_id == job_id(user_id)]
    return sorted(found, key=lambda a: a.create_index)


def alive(fleet: Fleet, user_id: str) -> list[Allocation]:
    return [a for a in allocations(fleet, user_id) if a.client_status not in CLIENT_TERMINAL]


def registers(fleet: Fleet, user_id: str) -> int:
    """How many registers of the job were accepted."""
    writes = fleet.nomad.double.writes_of(job_id(user_id))
    return sum(
        write["Method"] in ("PUT", "POST") and write["Path"] in ("/v1/jobs", _path(user_id))
        for write in writes
    )


def _path(user_id: str) -> str:
    return f"/v1/job/{job_id(user_id)}"


def instances(fleet: Fleet, user_id: str) -> list[Mapping[str, Any]]:
    """What Consul lists for the user, passing or not."""
    listed = fleet.consul.catalog.health(SERVICE_NAME)
    return [one for one in listed if user_id in str(one["Service"]["Meta"])]


def starts(fleet: Fleet, namespace: str) -> Counter[str]:
    """How often each process of a container started a session of this namespace."""
    return Counter(
        entry.process
        for entry in journal.read(fleet.storage)
        if entry.event == "start" and entry.namespace == namespace
    )


async def sessions(fleet: Fleet, user_id: str) -> dict[str, str]:
    """Sessions by name with WAHA's status, as the user's container lists them."""
    base_url, api_key = await fleet.waha(user_id)
    async with httpx.AsyncClient(base_url=base_url, headers={"X-Api-Key": api_key}, trust_env=False) as http:
        listed = (await http.get("/api/sessions?all=true")).raise_for_status().json()
    return {one["name"]: one["status"] for one in listed}


async def problems_alive(fleet: Fleet, user: User, wanted: Mapping[str, str]) -> list[str]:
    """What is not as it must be for a user whose chips shall stand at WAHA as `wanted` says (by chip id)."""
    found: list[str] = []

    def check(holds: bool, what: str) -> None:
        if not holds:
            found.append(what)

    state = fleet.nomad.double.state
    jobs = [key for key in state.jobs if key[1].endswith(user.id)]
    check(len(jobs) == 1 and not state.jobs[jobs[0]]["Stop"], f"jobs: {jobs}")
    variables = [path for _, path in state.variables if path.endswith(user.id)]
    check(variables == [variable_path(user.id)], f"variables: {variables}")
    running = alive(fleet, user.id)
    check([a.client_status for a in running] == ["running"], f"allocations: {running}")
    found += await _problems_of_rows(fleet, user, running[0].id if running else "")
    passing = [i for i in instances(fleet, user.id) if all(c["Status"] == "passing" for c in i["Checks"])]
    # Those of a host that is away stay listed, and are not passing.
    check(len(passing) == 1, f"Consul lists {instances(fleet, user.id)}")
    if not found:
        expected = {session_name(chip): status for chip, status in wanted.items()}
        try:
            seen = await sessions(fleet, user.id)
        except httpx.HTTPError as error:  # one that refuses its key, or that ended between two looks
            check(False, f"sessions: {error}")
        else:
            check(seen == expected, f"sessions: {seen}")
    check(_overlaps(fleet, user.namespace) == [], "two containers ran sessions of the user at one time")
    return found


async def _problems_of_rows(fleet: Fleet, user: User, allocation: str) -> list[str]:
    found: list[str] = []
    row = await fleet.container_row(user.id)
    if row is None or (row["phase"], row["reason"]) != ("ready", None):
        found.append(f"container: {row}")
    elif (row["allocation_id"], row["endpoint_allocation_id"]) != (allocation, allocation):
        found.append(f"the row speaks of {row['allocation_id']}, {allocation} is what runs")
    current = await fleet.rows(
        select(placements.c.allocation_id).where(placements.c.user_id == user.id, placements.c.is_current)
    )
    if [one["allocation_id"] for one in current] != [allocation]:
        found.append(f"placements: {current}")
    open_ports = await fleet.rows(
        select(port_ledger.c.allocation_id).where(
            port_ledger.c.user_id == user.id, port_ledger.c.closed_at.is_(None)
        )
    )
    # A host that is away may still hold its port: that entry stays until its client has spoken.
    lost = {a.id for a in allocations(fleet, user.id) if a.client_status == "lost"}
    if [one["allocation_id"] for one in open_ports if one["allocation_id"] not in lost] != [allocation]:
        found.append(f"open ports: {open_ports}")
    return found + await _problems_of_leases(fleet, user.id)


async def _problems_of_leases(fleet: Fleet, user_id: str) -> list[str]:
    held = await fleet.rows(
        select(leases).where(leases.c.key == user_id, leases.c.expires_at > func.clock_timestamp())
    )
    return [f"a lease is held: {held}"] if held else []


async def problems_gone(fleet: Fleet, user: User) -> list[str]:
    """What is left of a user who deleted their last chip."""
    state = fleet.nomad.double.state
    left: dict[str, Sequence[Any]] = {
        "jobs": [key for key in state.jobs if key[1].endswith(user.id)],
        "variables": [path for _, path in state.variables if path.endswith(user.id)],
        "allocations": alive(fleet, user.id),
        "instances at Consul": instances(fleet, user.id),
        "stored": [p.name for p in fleet.storage.glob(f"{user.namespace}*")],
        "sessions that run": [
            i for i in journal.intervals(fleet.storage) if i.namespace == user.namespace and i.open
        ],
    }
    for table in (containers, chips, placements, port_ledger):
        left[table.name] = await fleet.rows(select(table).where(table.c.user_id == user.id))
    # What was read stays for a day.
    left["unread webhooks"] = await fleet.rows(
        select(webhook_inbox.c.event).where(
            webhook_inbox.c.user_id == user.id, webhook_inbox.c.processed_at.is_(None)
        )
    )
    found = [f"{what} left: {seen}" for what, seen in left.items() if seen]
    if _overlaps(fleet, user.namespace):
        found.append("two containers ran sessions of the user at one time")
    return found + await _problems_of_leases(fleet, user.id)


def strangers(fleet: Fleet, users: Sequence[User]) -> list[str]:
    """Everything of ours in Nomad, Consul and the storage that belongs to none of `users`."""
    known = {user.id for user in users}
    namespaces = {user.namespace for user in users}
    state = fleet.nomad.double.state
    found = [key[1] for key in state.jobs if key[1].removeprefix(JOB_PREFIX) not in known]
    found += [
        path for _, path in state.variables if path.removeprefix(VARIABLE_PREFIX + JOB_PREFIX) not in known
    ]
    found += [
        str(one["Service"]["ID"])
        for one in fleet.consul.catalog.health(SERVICE_NAME)
        if not any(user in str(one["Service"]["Meta"]) for user in known)
    ]
    folders = (
        [p.name for p in fleet.storage.iterdir() if p.name != "journal"] if fleet.storage.exists() else []
    )
    return found + [name for name in folders if name not in namespaces]


def _overlaps(fleet: Fleet, namespace: str) -> list[journal.Overlap]:
    return [
        overlap
        for overlap in journal.overlaps(fleet.storage, by="user", speaking=False)
        if overlap.first.namespace == namespace
    ]
