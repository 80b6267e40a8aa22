"""What the lists of a sweep say of the hosts."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from core.domain.facts import ClientStatus, ListedAllocation

_THERE = (ClientStatus.RUNNING, ClientStatus.PENDING, ClientStatus.UNKNOWN)


class HostUse(msgspec.Struct, frozen=True):
    """One host, as far as our containers go.

    Attributes:
        address: of its ports, None while none of its containers has one.
        containers: allocations that run there, start there, or may on a host that does not answer.
        ports_used: dynamic ports that they hold.
        memory_mb: what they reserve; None where the list does not say.
    """

    name: str
    node_id: str
    address: str | None
    containers: int
    ports_used: int
    memory_mb: int | None


def host_uses(listed: Iterable[ListedAllocation]) -> tuple[HostUse, ...]:
    """Every host that carries one of our containers, by name."""
    found: dict[str, list[ListedAllocation]] = {}
    for one in listed:
        if one.allocation.client in _THERE:
            found.setdefault(one.allocation.node_name, []).append(one)
    return tuple(_use(name, found[name]) for name in sorted(found))


def _use(name: str, there: list[ListedAllocation]) -> HostUse:
    places = {(a.address, a.port) for one in there if (a := one.allocation).port is not None}
    memory = [one.memory_mb for one in there]
    return HostUse(
        name=name,
        node_id=there[-1].allocation.node_id,
        address=min((address for address, _ in places if address is not None), default=None),
        containers=len(there),
        ports_used=len(places),
        memory_mb=None if None in memory else sum(m for m in memory if m is not None),
    )
