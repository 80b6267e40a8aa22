"""Ports of hosts: how many are left, why none is, and who may be recorded as holding one.

Nomad draws the port; these rules judge what it drew. It hands a freed port to the next job within half a
second (measured on Nomad 1.0.18), so meeting an old holder in the ledger is normal and never by itself a
reason to drop an observation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from core.domain.states import Reason

Ledger = Mapping[tuple[str, int], "Holding"]


class HostPorts(msgspec.Struct, frozen=True):
    """One host's dynamic ports: `first` to `last`, both included, less the reserved ones."""

    address: str
    first: int
    last: int
    reserved: frozenset[int] = frozenset()
    taken: frozenset[int] = frozenset()

    @property
    def capacity(self) -> int:
        """Containers that the host has ports for."""
        return len(self._usable())

    @property
    def free(self) -> int:
        return len(self._usable() - self.taken)

    def allows(self, port: int) -> bool:
        """Whether Nomad may hand out this port here."""
        return port in self._usable()

    def _usable(self) -> frozenset[int]:
        return frozenset(range(self.first, self.last + 1)) - self.reserved


def room_left(hosts: Iterable[HostPorts]) -> int:
    """Containers that could still be placed as far as ports go."""
    return sum(host.free for host in hosts)


def why_no_room(hosts: Collection[HostPorts]) -> Reason | None:
    """None while there is room."""
    if room_left(hosts) > 0:
        return None
    return Reason.NO_PORT if hosts else Reason.NO_HOST


class Holding(msgspec.Struct, frozen=True):
    """An open ledger entry: this allocation of this user holds the port."""

    user_id: str
    allocation_id: str


class Taken(msgspec.Struct, frozen=True):
    """Somebody else's entry is open on the same address and port."""

    holder: Holding


def record(
    ledger: Ledger, address: str, port: int, claim: Holding, known_dead: Collection[str]
) -> Ledger | Taken:
    """The ledger with `claim` on (address, port), or who is in the way.

    `known_dead`: allocations seen client-terminal or gone; their entries close in the same step. The
    claim's own older entries stay until they are known dead too: the port is theirs until then.
    """
    kept = {place: held for place, held in ledger.items() if held.allocation_id not in known_dead}
    held = kept.get((address, port))
    if held is not None and held.allocation_id != claim.allocation_id:
        return Taken(held)
    return {**kept, (address, port): claim}
