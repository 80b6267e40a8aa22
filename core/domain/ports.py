"""Ports of hosts: how many are left, why none is, and who may be recorded as holding one.

Nomad draws the port; these rules judge what it drew. It hands a freed port to the next job within half a
second (measured on Nomad 1.0.18), so meeting an old holder in the ledger is normal and never by itself a
reason to drop an observation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from core.domain.actions import ContainerStatus
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

    address: str
    port: int
    holder: Holding


class Claim(msgspec.Struct, frozen=True):
    """A live allocation holds this port of this host."""

    allocation_id: str
    address: str
    port: int


class Entry(msgspec.Struct, frozen=True):
    """What the ledger knows of one allocation; there is one entry an allocation, open or closed."""

    user_id: str
    allocation_id: str
    address: str
    port: int
    is_open: bool

    def is_for(self, claim: Claim) -> bool:
        """Whether it says already what the claim says."""
        return (
            self.is_open
            and self.allocation_id == claim.allocation_id
            and self.address == claim.address
            and self.port == claim.port
        )


class Settled(msgspec.Struct, frozen=True):
    """How the ledger changes: these allocations' entries close, then these claims' open."""

    closes: tuple[str, ...] = ()
    opens: tuple[Claim, ...] = ()


def claims_of(status: ContainerStatus) -> tuple[Claim, ...]:
    """The ports that a pass saw allocated: of the newest live allocation and of the one that is placed.

    A blind pass saw none, and an allocation that ended claims nothing.
    """
    if status.blind:
        return ()
    found: dict[str, Claim] = {}
    placed, newest = status.placed, status.allocation_id
    if placed is not None and placed.address is not None and placed.port is not None:
        found[placed.allocation_id] = Claim(placed.allocation_id, placed.address, placed.port)
    if newest is not None and status.address is not None and status.port is not None:
        found[newest] = Claim(newest, status.address, status.port)
    return tuple(claim for id_, claim in found.items() if id_ not in status.closed_allocations)


def settle(
    user_id: str,
    claims: Sequence[Claim],
    *,
    own_ended: Collection[str],
    others_ended: Collection[str],
    entry: Callable[[str], Entry | None],
    holder: Callable[[str, int], Entry | None],
) -> Settled | Taken:
    """What one user's observation does to the ledger, or who is in the way; then nothing may be written.

    `own_ended` closes entries of this user alone, `others_ended` anybody's, but never one that is claimed.
    Both close before anything opens. A user's own older allocation holds its port as a stranger's would:
    only its known end frees the port. `entry` gives an allocation's entry, `holder` the open one of a port.
    """
    claimed = {claim.allocation_id for claim in claims}
    closes: list[str] = []
    for allocation_id in dict.fromkeys((*own_ended, *others_ended)):
        found = entry(allocation_id)
        if found is None or not found.is_open or allocation_id in claimed:
            continue
        if found.user_id == user_id or allocation_id in others_ended:
            closes.append(allocation_id)
    opens: list[Claim] = []
    left = set(closes)
    for claim in claims:
        mine = entry(claim.allocation_id)
        if mine is not None and mine.is_for(claim):
            continue
        held = holder(claim.address, claim.port)
        before = next((c for c in opens if (c.address, c.port) == (claim.address, claim.port)), None)
        if before is not None:
            return Taken(claim.address, claim.port, Holding(user_id, before.allocation_id))
        if held is not None and held.allocation_id not in left | {claim.allocation_id}:
            return Taken(claim.address, claim.port, Holding(held.user_id, held.allocation_id))
        opens.append(claim)
        left.add(claim.allocation_id)  # its older entry, if any, moves here
    return Settled(tuple(closes), tuple(opens))


def record(
    ledger: Ledger, address: str, port: int, claim: Holding, known_dead: Collection[str]
) -> Ledger | Taken:
    """The ledger with `claim` on (address, port), or who is in the way; one step of a simulated fleet.

    `known_dead`: allocations seen client-terminal or gone; their entries close in the same step. The
    claim's own older entries stay until they are known dead too: the port is theirs until then.
    """
    kept = {place: held for place, held in ledger.items() if held.allocation_id not in known_dead}
    held = kept.get((address, port))
    if held is not None and held.allocation_id != claim.allocation_id:
        return Taken(address, port, held)
    return {**kept, (address, port): claim}
