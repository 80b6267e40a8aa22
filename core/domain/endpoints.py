"""Which allocation speaks for a user, where it answers, and which may still be alive somewhere."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from core.domain.desired import DesiredContainer
from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    Endpoint,
    JobFact,
    Known,
    Missing,
    ServiceInstance,
)
from core.domain.policy import Policy
from core.domain.states import ContainerPhase, Reason

# The client's own word that a container ended, which frees its port. `lost` is the servers' guess.
CLIENT_ENDED = (ClientStatus.COMPLETE, ClientStatus.FAILED)
_RUNNING: Final = ClientStatus.RUNNING
_LIVE = (ClientStatus.RUNNING, ClientStatus.PENDING)

# Each look asks these several times, mostly about one allocation: loops of their own cost half of what `max` does.


def newest(allocations: Iterable[AllocationFact]) -> AllocationFact | None:
    """The one that was created last."""
    found: AllocationFact | None = None
    for one in allocations:
        if found is None or one.create_index > found.create_index:
            found = one
    return found


def current_allocation(allocations: Iterable[AllocationFact]) -> AllocationFact | None:
    """The one that Nomad reports desired run and running; the newest should there ever be two."""
    found: AllocationFact | None = None
    for one in allocations:
        runs = one.client is _RUNNING and one.desired == "run"
        if runs and (found is None or one.create_index > found.create_index):
            found = one
    return found


def newest_live(allocations: Iterable[AllocationFact]) -> AllocationFact | None:
    """The newest one that runs or is about to: its port is known although nothing may listen there yet."""
    found: AllocationFact | None = None
    for one in allocations:
        lives = one.desired == "run" and one.client in _LIVE
        if lives and (found is None or one.create_index > found.create_index):
            found = one
    return found


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


def fencing_s(policy: Policy) -> float:
    """Seconds after which a client that was cut off has stopped its containers by itself, with a margin."""
    return policy.stop_on_disconnect_s + policy.kill_timeout_s + policy.possibly_alive_margin_s


def is_possibly_alive(allocation: AllocationFact, now: datetime, policy: Policy) -> bool:
    """Whether its container may still run somewhere.

    Complete and failed are reports of the client itself. A lost one is only believed dead after the
    client must have stopped it: S, plus the kill timeout, plus a margin.
    """
    if allocation.client in CLIENT_ENDED:
        return False
    if allocation.client is ClientStatus.LOST:
        return now - allocation.modified_at < timedelta(seconds=fencing_s(policy))
    return True


def is_cut_off(allocation: AllocationFact, now: datetime, policy: Policy) -> bool:
    """Its host was lost and it may still run: no register and no evaluation for its job until it is dead."""
    return allocation.client in (ClientStatus.LOST, ClientStatus.UNKNOWN) and is_possibly_alive(
        allocation, now, policy
    )


def vanished_left_s(
    container: DesiredContainer,
    job: Known[JobFact] | Missing,
    allocations: Iterable[AllocationFact],
    now: datetime,
    policy: Policy,
) -> float | None:
    """Seconds to wait for a placement that left Nomad's lists before its end was seen; None for no wait.

    A purge by hand takes a job's allocations out of the lists at once, while their containers are still
    being killed, or run on where their host is cut off (measured on Nomad 1.10.5). Nobody reports their end
    any more, so they get as long as a lost one, from the first pass that missed them. While the job stands
    Nomad itself sees to the order.
    """
    standing = isinstance(job, Known) and not job.value.stopped
    ours = container.current_allocation
    if standing or container.registered is None or ours is None or any(a.id == ours for a in allocations):
        return None
    if container.phase == ContainerPhase.REGISTERING:
        return None  # the wait was over when that began
    waited_s = 0.0
    if container.reason == Reason.ALLOCATION_VANISHED and container.since is not None:
        waited_s = (now - container.since).total_seconds()
    left_s = fencing_s(policy) - waited_s
    return left_s if left_s > 0 else None
