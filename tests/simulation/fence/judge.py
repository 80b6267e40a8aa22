"""Judges each forwarded byte by what is true, not by what anybody stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.fence.containers import Container
    from tests.simulation.fence.wires import Wire
    from tests.simulation.fence.world import FenceWorld

# After a byte of one allocation all others of its user try at once and for a while; so an overlap that could be is one.
_PROBES_S = (0.0, 0.5, 2.0)
_PROBED_EACH_S = 4.0


class Judge:
    """At no time do guards forward for two allocations of one user.

    A tunnel that forwards before and after a byte of another allocation of its user has overlapped with it. One that
    began after that byte has not: its allocation's turn came again.
    """

    def __init__(self, world: FenceWorld) -> None:
        self._world = world
        self._count = 0
        self._spoke: dict[str, dict[str, tuple[int, float, str]]] = {}  # by user and allocation
        self._probed_at: dict[str, float] = {}
        self.quiet = False  # liveness is judged too
        self.lost_in_quiet: list[str] = []

    def stands(self, wire: Wire) -> None:
        self._count += 1
        wire.began = self._count

    def forwarded(self, wire: Wire, size: int, *, inward: bool) -> None:
        container, world = wire.container, self._world
        self._count += 1
        world.counts["chunks"] += 1
        world.counts["bytes"] += size
        spoke = self._spoke.setdefault(container.user.id, {})
        way = "in" if inward else "out"
        for other, (count, at, who) in spoke.items():
            if other != container.allocation_id and count > wire.began:
                world.violate(
                    f"two allocations at once: {container.name} forwards ({way}) on a tunnel that stood before "
                    f"{who} forwarded at t={at:.3f}"
                )
        spoke[container.allocation_id] = (self._count, world.now, container.name)
        container.spoke_at = world.now
        if container.first_at is None:
            container.first_at = world.now
            world.trace.note("first byte", container.name)
        self._probe(container)

    def _probe(self, speaker: Container) -> None:
        world, user = self._world, speaker.user
        if (
            len(user.containers) < 2
            or world.now - self._probed_at.get(speaker.allocation_id, -9) < _PROBED_EACH_S
        ):
            return
        self._probed_at[speaker.allocation_id] = world.now
        for other in user.containers:
            if other is not speaker:
                for wait_s in _PROBES_S:
                    world.loop.surely(wait_s, other.speak)

    def closed(self, wire: Wire) -> None:
        if self.quiet and wire.container.runs:
            self.lost_in_quiet.append(wire.container.name)
