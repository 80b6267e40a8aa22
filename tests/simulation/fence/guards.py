"""Hosts, and on each the product's guard: real leases, the real relay, and a short way in instead of a listener."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from core.clock import boottime
from core.domain.guard_wire import Renew, Renewed
from egress.errors import Refused
from egress.leases import Leases
from egress.listener import Opening
from egress.meter import Cell
from egress.relay import Tunnel
from egress.upstreams import Opened
from tests.simulation.fence.clocks import HostClock
from tests.simulation.fence.hostloop import HostProcess
from tests.simulation.fence.wires import Wire

if TYPE_CHECKING:
    from tests.simulation.fence.containers import Container
    from tests.simulation.fence.world import FenceWorld

_CONNECT_S, _SAY_S = 0.05, 0.01


class Host:
    """`agent`: of Nomad: `well`, `frozen`, `cut` (alive and unreachable) or `dead` with the whole machine."""

    def __init__(self, world: FenceWorld, number: int, rate: float) -> None:
        self.world = world
        self.number = number
        self.name = f"host-{number}"
        self.node_id = f"00000000-0000-4000-8000-00000000f{number:03d}"
        self.clock = HostClock(world.now, rate)
        self.guard: Guard | None = None
        self.agent = "well"
        self.stalled = False
        self.guards = 0

    def start_guard(self) -> None:
        if self.guard is None and self.agent != "dead" and not self.clock.asleep:
            self.guards += 1
            self.guard = Guard(self, f"{self.name}/guard-{self.guards}")

    def kill_guard(self) -> None:
        if self.guard is not None:
            self.guard.kill()
            self.guard = None

    def stall(self, stalled: bool) -> None:
        """Providers take nothing from here."""
        self.stalled = stalled
        if self.guard is not None:
            for wire in list(self.guard.wires):
                wire.far.stalled = stalled
                wire.far.stir()


class Guard:
    """One process."""

    def __init__(self, host: Host, name: str) -> None:
        world = host.world
        self.host = host
        self.world = world
        self.name = name
        self.clock = host.clock
        self.process = HostProcess(name, host.clock)
        world.processes.append(self.process)
        with patch.object(time, "clock_gettime", self._clock_gettime):
            self.boottime = boottime()  # the product's choice among this machine's clocks
        self.leases = Leases(self, world.times, host.node_id, self.boottime)
        self.wires: dict[Wire, None] = {}
        self.freezes_asking_s = 0.0  # it is to stand still so long from its next request on
        self._knocking: dict[Container, None] = {}
        self._cell = Cell()
        self._work: asyncio.Task[None] = world.loop.start(self.process, self.leases.run())
        world.trace.note("guard starts", name)

    def _clock_gettime(self, which: int) -> float:
        read = self.clock.boottime if which == time.CLOCK_BOOTTIME else self.clock.monotonic
        return read(self.world.now)

    async def renew(self, renew: Renew) -> Renewed:
        """The API, as this guard reaches it."""
        answer: asyncio.Future[Renewed] = self.world.loop.create_future()
        self.world.network.send(self.host, renew, answer)
        if self.freezes_asking_s:
            self.freeze(self.freezes_asking_s)
            self.freezes_asking_s = 0.0
        return await answer

    def freeze(self, seconds: float) -> None:
        """As by SIGSTOP; it goes on after that, or when all is well."""
        if self.process.held is None and not self.process.dead:
            self.world.trace.note("frozen", self.name)
            self.process.held = []
            self.world.loop.surely(seconds, self.thaw)

    def thaw(self) -> None:
        if self.process.held is not None:
            self.world.loop.resume(self.process)

    def well(self) -> None:
        self.freezes_asking_s = 0.0
        self.thaw()

    def kill(self) -> None:
        self.process.die()
        for wire in list(self.wires):
            wire.kill()
        self.wires.clear()
        for container in self._knocking:
            self.world.loop.surely(0, container.refused)
        self._knocking.clear()

    def stop(self) -> None:
        """SIGTERM: it closes, gives back and ends."""
        self.world.loop.start(self.process, self._stopped())

    async def _stopped(self) -> None:
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)
        await self.leases.stop()
        self.world.trace.note("guard stops", self.name)
        self.kill()
        if self.host.guard is self:
            self.host.guard = None

    def knock(self, container: Container) -> None:
        self._knocking[container] = None
        self.world.loop.start(self.process, self._answered(container))

    async def _answered(self, container: Container) -> None:
        stands = await self._knocked(container)
        self._knocking.pop(container, None)
        if not stands:
            self.world.loop.surely(0, container.refused)

    async def _knocked(self, container: Container) -> bool:
        """Whether its tunnel stands now; as `egress.listener` goes about it."""
        lease = await self.leases.of(container.allocation_id)
        route = lease.routes.get(container.user.chip_id) if lease is not None else None
        if lease is None or route is None or route.upstream is None:
            return False
        opening = Opening(self._connected(container), route)
        lease.open.add(opening)
        try:
            found = await opening.result()
            await asyncio.sleep(_SAY_S)
        except Refused:
            return False
        finally:
            lease.leave(opening, self.boottime())
        far: Any = found.sock
        wire: Wire = far.wire
        if opening.is_aborted or not container.runs or container.wire is not None:
            far.close()
            return False
        self.wires[wire] = None
        self.world.judge.stands(wire)
        container.stands(wire)
        chip: Any = wire.chip
        wire.tunnel = Tunnel(chip, far, lease, self._cell, self.boottime, lambda _: self._gone(wire), route)
        wire.tunnel.start(b"early")
        return True

    async def _connected(self, container: Container) -> Opened:
        """An upstream that took the connection."""
        await asyncio.sleep(_CONNECT_S)
        wire = Wire(self.world, container)
        wire.far.stalled = self.host.stalled
        far: Any = wire.far
        return Opened(far, b"")

    def _gone(self, wire: Wire) -> None:
        self.wires.pop(wire, None)
