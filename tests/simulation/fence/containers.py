"""Containers as they are, whatever anybody reports of them: they send for as long as they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.fence.wires import Wire

if TYPE_CHECKING:
    from tests.simulation.fence.cluster import User
    from tests.simulation.fence.guards import Host
    from tests.simulation.fence.world import FenceWorld

_OUT, _IN = b"o" * 40, b"i" * 60


class Container:
    """One allocation's process, with one session that wants one tunnel."""

    def __init__(self, world: FenceWorld, user: User, host: Host, allocation_id: str, name: str) -> None:
        self.world = world
        self.user = user
        self.host = host
        self.allocation_id = allocation_id
        self.name = name
        self.runs = False
        self.wire: Wire | None = None
        self._knocks = False
        self.wanted_at: float | None = None  # since when it wants a tunnel and has none
        self.first_wanted_at = 0.0
        self.current_at = 0.0  # since when the store lets it speak
        self.first_at: float | None = None  # of its first byte that was forwarded
        self.spoke_at = -1.0

    def begin(self, boot_s: float) -> None:
        self.runs = True
        self.world.trace.note("container runs", self.name)
        self.world.loop.surely(boot_s, self._knock)
        self._talk()

    def die(self) -> None:
        if self.runs:
            self.runs = False
            self.world.trace.note("container ends", self.name)
            if self.wire is not None:
                # What it sent before still lies in the guard's socket.
                self.wire.chip.ends(broken=self.world.random.random() < 0.3)

    def speak(self) -> None:
        """Send one piece now, and have WhatsApp answer, where a tunnel stands."""
        wire = self.wire
        if wire is not None and wire.is_open:
            if self.runs:
                wire.chip.comes(_OUT)
            wire.far.comes(_IN)

    def _talk(self) -> None:
        if self.runs:
            self.speak()
            self.world.loop.surely(self.world.random.uniform(0.5, 4.0), self._talk)

    def _knock(self) -> None:
        if not self.runs or self.wire is not None or self._knocks:
            return
        if self.wanted_at is None:
            self.wanted_at = self.world.now
            self.first_wanted_at = self.first_wanted_at or self.world.now
        guard = self.host.guard
        if guard is None:
            self._later()
            return
        self._knocks = True
        guard.knock(self)

    def refused(self) -> None:
        self._knocks = False
        self._later()

    def stands(self, wire: Wire) -> None:
        self._knocks = False
        self.wire, self.wanted_at = wire, None
        if not self.runs:
            wire.chip.ends()

    def lost(self, wire: Wire) -> None:
        self._knocks = False
        if self.wire is wire:
            self.wire = None
            self.world.trace.note("tunnel closed", self.name)
            self.world.counts["tunnels closed"] += 1
            self.world.judge.closed(wire)
            self.world.loop.surely(wire.quits_in_s, self._knock)

    def _later(self) -> None:
        self.world.loop.surely(self.world.random.uniform(1.0, 3.0), self._knock)
