"""Hosts: Nomad's client on each, and the containers that really run there, whatever the servers believe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.domain.facts import ClientStatus, TaskEvent
from tests.simulation.releases import SILENT, image_of
from tests.simulation.servers import KILL_S, STOP_AFTER_S, Alloc
from tests.simulation.world import World, short

_GRACE_S = 10.0  # heartbeat_grace
_ENDED = (ClientStatus.COMPLETE, ClientStatus.FAILED)


class Container:
    """One process that really runs."""

    __slots__ = (
        "alloc",
        "ended",
        "host",
        "image",
        "key",
        "listening",
        "sessions",
        "started_at",
        "stopping",
        "user",
    )

    def __init__(self, alloc: Alloc, key: str, now: float) -> None:
        self.alloc = alloc
        self.host = alloc.host
        self.user = alloc.user
        self.key = key
        self.image = image_of(alloc.spec)
        self.started_at = now
        self.listening = False
        self.stopping = False
        self.ended = False
        self.sessions: dict[str, Any] = {}


class Host:
    """One machine.

    Attributes:
        down: what the servers believe. connected: the client reaches the servers. agent_ok: the client is
            not frozen. alive: the machine runs. reachable: daemons reach its containers.
    """

    def __init__(self, world: World, number: int, ports: range, reserved: frozenset[int]) -> None:
        self.world = world
        self.name = f"h{number}"
        self.address = f"10.0.0.{number}"
        self.reserved = reserved
        self.ports = tuple(port for port in ports if port not in reserved)
        self.ttl_s = world.random.uniform(10.0, 20.0)
        self.down = False
        self.connected = True
        self.agent_ok = True
        self.alive = True
        self.reachable = True
        self.draining = False
        self.full = False
        self.squatted: set[int] = set()
        self.bad_image_until = 0.0
        self.allocs: dict[str, Alloc] = {}
        self.containers: dict[int, Container] = {}
        self._outbox: list[Callable[[], None]] = []
        self._restarting: set[str] = set()  # allocations whose task the client is about to start again
        self._poked = False
        self._last_heard = 0.0
        self._down_timer: Any = None
        self._stop_timer: Any = None

    @property
    def working(self) -> bool:
        """Its client runs and the servers hear it."""
        return self.alive and self.agent_ok and self.connected

    @property
    def eligible(self) -> bool:
        return not self.down and not self.draining

    def free_ports(self) -> list[int]:
        if self.full:
            return []
        taken = {alloc.port for alloc in self.allocs.values() if not alloc.terminal}
        return [port for port in self.ports if port not in taken]

    # --- the client -------------------------------------------------------------------------------------
    def poke(self) -> None:
        """Something changed that the client will pull soon."""
        if not self._poked:
            self._poked = True
            self.world.loop.after(self.world.random.uniform(0.05, 0.3), self._pull)

    def _pull(self) -> None:
        self._poked = False
        if not self.working:
            return
        for alloc in list(self.allocs.values()):
            if alloc.client in _ENDED:
                continue
            if alloc.desired != "run":
                alloc.pulled = True
                if alloc.container is None:
                    self._say(alloc, ClientStatus.COMPLETE)
                else:
                    self.stop(alloc.container)
            elif not alloc.pulled:
                before = alloc.previous
                if before is None or before.terminal or before.id not in self.world.servers.by_id:
                    alloc.pulled = True
                    self._start(alloc)
            elif (
                alloc.container is None
                and alloc.client is ClientStatus.RUNNING
                and alloc.id not in self._restarting
            ):
                self._say(alloc, ClientStatus.FAILED, "Terminated", "the task was gone after a restart")

    def gone(self, alloc: Alloc) -> None:
        self.allocs.pop(alloc.id, None)

    def _start(self, alloc: Alloc) -> None:
        world, now = self.world, self.world.now
        if alloc.port in self.containers or alloc.port in self.squatted:
            world.counts["port_in_use"] += 1
            self._say(alloc, ClientStatus.FAILED, "Driver Failure", "bind: address already in use")
            return
        if now < self.bad_image_until:
            self._say(alloc, ClientStatus.FAILED, "Driver Failure", "failed to pull image: timeout")
            return
        container = Container(alloc, world.owners.container_key(alloc.user), now)
        alloc.container = self.containers[alloc.port] = container
        world.trace.note(
            "container", short(alloc.user), f"starts {alloc.create_index} {self.name}:{alloc.port}"
        )
        world.checker.container_started(container)
        self._say(alloc, ClientStatus.RUNNING, "Started", "")
        world.catalog.register(container)
        random = world.random
        boot_s = random.uniform(0.3, 2.0) if random.random() < 0.9 else random.uniform(10.0, 70.0)
        world.loop.after(boot_s, self._listen, container)

    def _listen(self, container: Container) -> None:
        if not container.ended and container.image != SILENT:
            container.listening = True
            self.world.catalog.check(container)

    def _say(self, alloc: Alloc, client: ClientStatus, kind: str = "", message: str = "") -> None:
        """Report to the servers, now or as soon as they are reached."""
        alloc_events = alloc.events
        if kind:
            alloc_events = (*alloc_events[-3:], TaskEvent(kind, message, self.world.moment()))
        servers, restarts = self.world.servers, alloc.restarts

        def arrive() -> None:
            if self.working:
                servers.reported(alloc, client, alloc_events, restarts)
            else:
                self._outbox.append(arrive)

        self.world.loop.after(self.world.random.uniform(0.02, 0.25), arrive)

    # --- containers -------------------------------------------------------------------------------------
    def stop(self, container: Container) -> None:
        """SIGTERM; it ends within the kill timeout."""
        if container.stopping or container.ended:
            return
        container.stopping = True
        random = self.world.random
        takes = random.uniform(0.3, 3.0) if random.random() < 0.8 else random.uniform(10.0, KILL_S - 1)
        if self.alive and self.agent_ok:
            self.world.catalog.deregister(container.alloc)
        self.world.loop.after(takes, self.ended, container, ClientStatus.COMPLETE)

    def ended(self, container: Container, says: ClientStatus | None) -> None:
        """The process is gone. `says`: what its client reports, None when there is nobody to say it."""
        if container.ended:
            return
        container.ended = True
        container.listening = False
        alloc = container.alloc
        if self.containers.get(alloc.port) is container:
            del self.containers[alloc.port]
        alloc.container = None
        self.world.trace.note("container", short(alloc.user), f"ends {alloc.create_index}")
        self.world.waha.container_ended(container)
        if says is not None and self.alive and self.agent_ok:
            self.world.catalog.deregister(alloc)
            kind = "Terminated" if says is ClientStatus.FAILED else "Killed"
            self._say(alloc, says, kind, "exit code 137")
        else:
            self.world.catalog.check(container)

    def crash(self, container: Container, *, for_good: bool) -> None:
        """Its process dies by itself or by hand; the client starts it again in place, or gives it up."""
        if container.ended or container.stopping:
            return
        alloc = container.alloc
        if for_good or not self.agent_ok:
            self.ended(container, ClientStatus.FAILED if self.agent_ok else None)
            return
        self.ended(container, None)
        alloc.restarts += 1
        self._restarting.add(alloc.id)
        self.world.loop.after(1.0, self._restart, alloc)

    def _restart(self, alloc: Alloc) -> None:
        self._restarting.discard(alloc.id)
        if self.alive and self.agent_ok and alloc.container is None and alloc.client is ClientStatus.RUNNING:
            if alloc.desired == "run" or not self.connected:
                self._start(alloc)
            else:
                self._say(alloc, ClientStatus.COMPLETE)
        elif self.alive and alloc.container is None and alloc.client not in _ENDED:
            self.poke()

    # --- silence ----------------------------------------------------------------------------------------
    def cut_off(self, *, reachable: bool, catalog: bool) -> None:
        """The servers are out of its reach. `reachable`: daemons still reach its containers; `catalog`:
        Consul's servers still hear its Consul agent."""
        self.connected = False
        self.reachable = reachable
        if not catalog:
            self.world.catalog.cut(self)
        self._fall_silent(stops=True)

    def freeze(self) -> None:
        """Its Nomad agent stands still; containers and the Consul agent go on."""
        self.agent_ok = False
        self._fall_silent(stops=False)

    def die(self) -> None:
        self.alive = False
        self.reachable = False
        for container in list(self.containers.values()):
            self.ended(container, None)
        self.world.catalog.cut(self)
        self._fall_silent(stops=False)

    def come_back(self) -> None:
        """Whatever was wrong with it is over; allocations that were given up meanwhile are stopped."""
        self.connected = self.agent_ok = self.alive = self.reachable = True
        for timer in (self._down_timer, self._stop_timer):
            if timer is not None:
                timer.cancel()
        self._down_timer = self._stop_timer = None
        self.world.catalog.heal(self)
        if self.world.now - self._last_heard >= STOP_AFTER_S:
            self._stop_everything()
        if self.down:
            self.down = False
            self.world.trace.note("node-up", self.name)
        for message in self._outbox:
            self.world.loop.after(0.1, message)
        self._outbox = []
        self.poke()
        self.world.servers.unblock()

    def _fall_silent(self, *, stops: bool) -> None:
        loop, now = self.world.loop, self.world.now
        self._last_heard = now - self.world.random.uniform(0.0, self.ttl_s / 2)
        if self._down_timer is None:
            self._down_timer = loop.at(self._last_heard + self.ttl_s + _GRACE_S, self._missed)
        if stops:
            self._stop_timer = loop.at(self._last_heard + STOP_AFTER_S, self._stop_everything)

    def _missed(self) -> None:
        self._down_timer = None
        if not self.working:
            self.down = True
            self.world.servers.node_down(self)

    def _stop_everything(self) -> None:
        """`stop_on_client_after`: too long without an answer of the servers."""
        self._stop_timer = None
        if self.alive and self.agent_ok:
            for container in list(self.containers.values()):
                self.stop(container)

    # --- drain ------------------------------------------------------------------------------------------
    def drain(self) -> None:
        self.draining = True
        for job_id in dict.fromkeys(a.job_id for a in self.allocs.values() if a.desired == "run"):
            self.world.servers.evaluate(job_id, "node-drain")

    def undrain(self) -> None:
        self.draining = False
        self.world.servers.unblock()
