"""Consul: what its catalog says, late, and sometimes wrong."""

from __future__ import annotations

from typing import Any

from core.domain.facts import ServiceInstance
from tests.simulation.hosts import Container, Host
from tests.simulation.servers import Alloc
from tests.simulation.world import World

Instances = tuple[ServiceInstance, ...]


class _Entry:
    __slots__ = ("container", "instance", "passing")

    def __init__(self, container: Container) -> None:
        alloc = container.alloc
        self.container = container
        self.passing = False
        self.instance = ServiceInstance(
            f"_nomad-task-{alloc.id}", alloc.user, alloc.id, alloc.host.address, alloc.port, passing=False
        )


class Catalog:
    """`lie`: None, `empty`, `stale` (nothing changes any more) or `ghosts` (removed ones stay passing)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.version = 0
        self.lie: str | None = None
        self._entries: dict[str, _Entry] = {}
        self._cut: set[str] = set()
        self._late: dict[str, list[Any]] = {}
        self._removed: list[ServiceInstance] = []
        self._frozen: Instances = ()
        self._shown: Instances | None = ()
        self._of_user: dict[str, Instances] | None = None

    # --- what the daemons see ---------------------------------------------------------------------------
    def all(self) -> Instances:
        if self._shown is None:
            self._shown = self._make()
        return self._shown

    def of_user(self, user_id: str) -> Instances:
        if self._of_user is None:
            self._of_user = {}
            for one in self.all():
                self._of_user[one.user_id] = (*self._of_user.get(one.user_id, ()), one)
        return self._of_user.get(user_id, ())

    def set_lie(self, lie: str | None) -> None:
        self._frozen = self.all()
        self.lie = lie
        self._changed()

    # --- what the agents say ----------------------------------------------------------------------------
    def register(self, container: Container) -> None:
        self._later(container.host, self._put, container)

    def check(self, container: Container) -> None:
        """The next check of the container says something else."""
        self._later(container.host, self._checked, container, least_s=0.1, most_s=2.0)

    def deregister(self, alloc: Alloc) -> None:
        self._later(alloc.host, self._remove, alloc)

    def cut(self, host: Host) -> None:
        """Its Consul agent is heard no more: serfHealth goes critical in seconds."""
        self.world.loop.after(self.world.random.uniform(2.0, 8.0), self._serf, host)

    def heal(self, host: Host) -> None:
        self._cut.discard(host.name)
        for act, what in self._late.pop(host.name, ()):
            act(what)
        for container in host.containers.values():
            if not container.stopping:
                self._later(host, self._put, container)
                self.check(container)
        # Nomad's client cleans up what is no longer there.
        for entry in list(self._entries.values()):
            if entry.container.host is host and entry.container.ended:
                self.deregister(entry.container.alloc)
        self._changed()

    def forget(self, service_id: str) -> None:
        """Taken out of the catalog by its id; an agent that still holds it puts it back as it syncs."""
        for allocation_id, entry in list(self._entries.items()):
            if entry.instance.service_id == service_id:
                del self._entries[allocation_id]
                self._changed()
                self._later(entry.container.host, self._put, entry.container)

    # --- inner ------------------------------------------------------------------------------------------
    def _later(self, host: Host, act: Any, what: Any, *, least_s: float = 0.02, most_s: float = 0.6) -> None:
        self.world.loop.after(self.world.random.uniform(least_s, most_s), self._arrive, host, act, what)

    def _arrive(self, host: Host, act: Any, what: Any) -> None:
        if host.name in self._cut or not host.alive:
            self._late.setdefault(host.name, []).append((act, what))
        else:
            act(what)

    def _serf(self, host: Host) -> None:
        if not (host.alive and host.connected):
            self._cut.add(host.name)
            self._changed()

    def _put(self, container: Container) -> None:
        held = self._entries.get(container.alloc.id)
        if container.ended or container.stopping or (held is not None and held.container is container):
            return
        self._entries[container.alloc.id] = _Entry(container)
        self._changed()
        if container.listening:
            # Its check runs every 2 s from now on, whatever asked there before it was registered.
            self.check(container)

    def _checked(self, container: Container) -> None:
        entry = self._entries.get(container.alloc.id)
        if entry is None or entry.container is not container:
            return
        passing = container.listening and not container.ended
        if entry.passing != passing:
            entry.passing = passing
            self._changed()

    def _remove(self, alloc: Alloc) -> None:
        entry = self._entries.get(alloc.id)
        if entry is not None and (entry.container.ended or entry.container.stopping):
            del self._entries[alloc.id]
            self._removed = [*self._removed[-5:], entry.instance]
            self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._shown = self._of_user = None
        self.world.network.catalog_news()

    def _make(self) -> Instances:
        if self.lie == "empty":
            return ()
        if self.lie == "stale":
            return self._frozen
        found = []
        for entry in self._entries.values():
            one = entry.instance
            passing = entry.passing and entry.container.host.name not in self._cut
            if passing:
                one = ServiceInstance(
                    one.service_id, one.user_id, one.allocation_id, one.address, one.port, passing=True
                )
            found.append(one)
        if self.lie == "ghosts":
            for one in self._removed:
                found.append(
                    ServiceInstance(
                        one.service_id, one.user_id, one.allocation_id, one.address, one.port, passing=True
                    )
                )
        return tuple(found)
