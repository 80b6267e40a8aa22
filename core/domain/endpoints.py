"""Which allocation speaks for a user, where it answers, and which may still be alive somewhere."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from core.domain.facts import AllocationFact, ClientStatus, Endpoint, ServiceInstance
from core.domain.policy import Policy

# The client's own word that a container ended, which frees its port. `lost` is the servers' guess.
CLIENT_ENDED = (ClientStatus.COMPLETE, ClientStatus.FAILED)


def current_allocation(allocations: Iterable[AllocationFact]) -> AllocationFact | None:
    """The one that Nomad reports desired run and running; the newest should there ever be two."""
    running = [a for a in allocations if a.desired == "run" and a.client is ClientStatus.RUNNING]
    return max(running, key=lambda a: a.create_index, default=None)


def newest_live(allocations: Iterable[AllocationFact]) -> AllocationFact | None:
    """The newest one that runs or is about to: its port is known although nothing may listen there yet."""
    live = [
        a
        for a in allocations
        if a.desired == "run" and a.client in (ClientStatus.RUNNING, ClientStatus.PENDING)
    ]
    return max(live, key=lambda a: a.create_index, default=None)


def endpoint_of(
    allocations: Iterable[AllocationFact], instances: Iterable[ServiceInstance]
) -> Endpoint | None:
    """The endpoint that counts, or None.

    (a) Consul lists it as passing, (b) the allocation in its meta is the one that Nomad reports desired
    run and running, (c) address and port are those of that allocation. After a node dies Consul may list
    two passing instances, so "the first one" is never an answer.
    """
    current = current_allocation(allocations)
    if current is None or current.port is None or current.address is None:
        return None
    for instance in instances:
        if (
            instance.passing
            and instance.allocation_id == current.id
            and (instance.address, instance.port) == (current.address, current.port)
        ):
            return Endpoint(address=current.address, port=current.port, allocation_id=current.id)
    return None


def is_possibly_alive(allocation: AllocationFact, now: datetime, policy: Policy) -> bool:
    """Whether its container may still run somewhere.

    Complete and failed are reports of the client itself. A lost one is only believed dead after the
    client must have stopped it: S, plus the kill timeout, plus a margin.
    """
    if allocation.client in CLIENT_ENDED:
        return False
    if allocation.client is ClientStatus.LOST:
        wait = policy.stop_on_disconnect_s + policy.kill_timeout_s + policy.possibly_alive_margin_s
        return now - allocation.modified_at < timedelta(seconds=wait)
    return True


def is_cut_off(allocation: AllocationFact, now: datetime, policy: Policy) -> bool:
    """Its host was lost and it may still run: no register and no evaluation for its job until it is dead."""
    return allocation.client in (ClientStatus.LOST, ClientStatus.UNKNOWN) and is_possibly_alive(
        allocation, now, policy
    )
