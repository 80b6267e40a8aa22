"""The whole double: the agent's own state, the catalog behind it, keys, and the knobs for trouble."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Callable
from typing import Final

import msgspec

from core.clock import Clock, SystemClock
from sandbox.consul_double.catalog import (
    CRITICAL,
    PASSING,
    WARNING,
    Catalog,
    Check,
    Json,
    Node,
    Service,
)
from sandbox.consul_double.definitions import CheckDefinition, Probe, check_definition, service_definition
from sandbox.consul_double.indexes import Indexes
from sandbox.consul_double.kv import KeyValues
from sandbox.consul_double.poller import Look, Poller, Prober
from sandbox.consul_double.refusal import RefusalError
from sandbox.faults import Fault, Faults

VERSION: Final = "1.8.7"
"""The release whose behaviour this is."""
DATACENTER: Final = "dc1"
STATUSES: Final = {"pass": PASSING, "warn": WARNING, "fail": CRITICAL}
_ANTI_ENTROPY_S: Final = 60.0
_SWEEP_S: Final = 30.0
_TICK_S: Final = 0.1


class Knobs(msgspec.Struct):
    """Trouble to make.

    Attributes:
        registration_delay_s: how long a registration or deregistration needs from the agent to the catalog.
        stagger: False = the first look at each check comes at once.
        least_interval_s: shorter intervals of checks are stretched to this, as an agent does.
        frozen: beginnings of service ids that stay as they are, whatever is asked: what a live Consul agent
            shows of a host whose Nomad agent is dead. Deregistrations are kept for the thaw.
    """

    registration_delay_s: float = 0.0
    stagger: bool = True
    least_interval_s: float = 1.0
    frozen: set[str] = set()


class _Local(msgspec.Struct):
    """A check as the agent itself sees it, newer than the catalog's."""

    check: Check
    probe: Probe
    critical_since: float | None
    told_at: float


class ConsulDouble:
    """A Consul agent and server in one. Time comes from `clock` alone; `tick` does what is due."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        knobs: Knobs | None = None,
        node: str = "sandbox",
        look: Look | None = None,
    ) -> None:
        """`look`: how a check is looked at, by its own request or connection when left out."""
        self.clock = clock or SystemClock()
        self.knobs = knobs or Knobs()
        self.indexes = Indexes()
        self.catalog = Catalog(self.indexes, Node(str(uuid.uuid4()), node, "127.0.0.1", DATACENTER))
        self.kv = KeyValues(self.indexes, self.catalog, self.clock.monotonic)
        self.faults = Faults()
        self.stale: dict[int, ConsulDouble] = {}
        """By fault id: what this double was when the fault was set."""
        self._services: dict[str, Service] = {}
        self._checks: dict[str, _Local] = {}
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._kept: dict[str, None] = {}
        self._swept_at = self.clock.monotonic()
        self._prober = Prober()
        self.poller = Poller(self.clock, look or self._prober.look, self.report, stagger=self.knobs.stagger)

    # --- the agent's API

    def register(self, body: object, node: str = "") -> None:
        """Take a service with its checks, as the agent of `node` ("" for the double's own). Raises RefusalError."""
        service, definitions = service_definition(body, "" if node == self.catalog.node.name else node)
        if self._is_frozen(service.id):
            return
        self._kept.pop(service.id, None)
        self._services[service.id] = service
        for definition in definitions:
            self._add_check(definition)
        self._later(lambda: self._push(service.id))

    def deregister(self, service_id: str) -> None:
        """Remove a service; an unknown one is fine (Consul 1.8 answers 200)."""
        if self._is_frozen(service_id):
            self._kept[service_id] = None
            return
        self._services.pop(service_id, None)
        for check_id in [key for key, local in self._checks.items() if local.check.service_id == service_id]:
            self._drop_check(check_id)
        self._later(lambda: None if service_id in self._services else self.catalog.remove(service_id))

    def deregister_in_catalog(self, service_id: str, node: str = "") -> None:
        """Remove it behind its agent's back, who puts it back at the next full synchronisation (1 min).

        `node` must be the one that holds it; on another one there is nothing to remove.
        """
        if node and self.catalog.node_name_of(service_id) != node:
            return
        self.catalog.remove(service_id)
        self._due.append((self.clock.monotonic() + _ANTI_ENTROPY_S, lambda: self._push(service_id)))

    def register_check(self, body: object) -> None:
        """Take one check, of the node or of a known service. Raises RefusalError."""
        service_id = body.get("ServiceID") if isinstance(body, dict) else None
        service = self._services.get(service_id) if service_id else None
        if service_id and service is None:
            raise RefusalError(500, f'ServiceID "{service_id}" does not exist')
        definition = check_definition(body, service)
        self._add_check(definition)
        self.catalog.put_check(self._checks[definition.check.id].check)

    def deregister_check(self, check_id: str) -> None:
        self._drop_check(check_id)
        self.catalog.remove_check(check_id)

    def tell(self, check_id: str, status: str, output: str) -> None:
        """The owner of a TTL check says how it is. Raises RefusalError."""
        local = self._checks.get(check_id)
        if local is None or local.probe.kind != "ttl":
            raise RefusalError(500, f'CheckID "{check_id}" does not have associated TTL')
        local.told_at = self.clock.monotonic()
        self.report(check_id, status, output)

    def services(self) -> dict[str, Json]:
        return {
            service.id: {
                "ID": service.id,
                "Service": service.name,
                "Tags": list(service.tags),
                "Meta": service.meta,
                "Port": service.port,
                "Address": service.address,
                **service.tagged_addresses(),
                "Weights": service.weights(),
                "EnableTagOverride": service.enable_tag_override,
            }
            for _, service in sorted(self._services.items())
        }

    def checks(self) -> dict[str, Json]:
        node = self.catalog.node.name
        return {key: local.check.view(node) for key, local in sorted(self._checks.items())}

    def report(self, check_id: str, status: str, output: str) -> None:
        """A look at a check came out like this."""
        local = self._checks.get(check_id)
        if local is None or self._is_frozen(local.check.service_id):
            return
        if local.check.node and not self.catalog.is_alive(local.check.node):
            return
        changed = local.check.status != status
        local.check = msgspec.structs.replace(local.check, status=status, output=output)
        if status != CRITICAL:
            local.critical_since = None
        elif local.critical_since is None:
            local.critical_since = self.clock.monotonic()
        if changed and self._is_pushed(local.check):
            # A mere change of output is held back for minutes (check_update_interval): here for good.
            self.catalog.put_check(local.check)

    # --- time

    def tick(self) -> None:
        """Do what is due by now."""
        now = self.clock.monotonic()
        due = [action for at, action in self._due if at <= now]
        self._due = [(at, action) for at, action in self._due if at > now]
        for action in due:
            action()
        for check_id, local in self._checks.items():
            over = local.probe.kind == "ttl" and local.told_at + local.probe.ttl_s <= now
            if over and local.check.status != CRITICAL:
                self.report(check_id, CRITICAL, "TTL expired")
        if now - self._swept_at >= _SWEEP_S:
            self._swept_at = now
            self._sweep(now)
        self.kv.expire()

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()

    async def close(self) -> None:
        await self.poller.close()
        await self._prober.close()

    # --- knobs

    def thaw(self, beginning: str) -> None:
        """The Nomad agent of a frozen host is back: what it asked for meanwhile is done now."""
        self.knobs.frozen.discard(beginning)
        for service_id in [key for key in self._kept if not self._is_frozen(key)]:
            del self._kept[service_id]
            self.deregister(service_id)

    def set_serf_health(self, status: str, node: str = "") -> None:
        """`critical`: the other agents no longer hear this one, so all of its instances leave `?passing`.

        What such an agent sees of its checks reaches nobody: they stay as they were.
        """
        self.catalog.node_of(node)
        self.catalog.put_serf_health(status, node)

    def add_fault(self, fault: Fault) -> Fault:
        """Set a fault; a `stale` one remembers the catalog of this moment."""
        self.faults.add(fault)
        if fault.kind == "stale":
            self.stale[fault.id] = self.frozen_copy()
        return fault

    def frozen_copy(self) -> ConsulDouble:
        """The double with its catalog as it is now, for reading only."""
        frozen = copy.copy(self)
        frozen.indexes = self.indexes.frozen_copy()
        frozen.catalog = self.catalog.frozen_copy(frozen.indexes)
        return frozen

    def invalidate_sessions(self) -> None:
        for session in self.kv.sessions()[1]:
            self.kv.destroy_session(session.id)

    def reset_index(self) -> None:
        """Let all indexes begin again, as after a restore from an old snapshot."""
        self.indexes.restart()
        self.catalog.restart_indexes()
        self.kv.restart_indexes()
        self.indexes.announce()

    def forget_everything(self) -> None:
        """What a restart without a data folder does: registrations are gone until somebody repeats them."""
        for service_id in list(self._services):
            self._services.pop(service_id)
            self.catalog.remove(service_id)
        for check_id in list(self._checks):
            self.deregister_check(check_id)

    # --- inner parts

    def _add_check(self, definition: CheckDefinition) -> None:
        check, probe = definition.check, definition.probe
        if probe.kind != "ttl" and probe.interval_s < self.knobs.least_interval_s:
            probe = msgspec.structs.replace(probe, interval_s=self.knobs.least_interval_s)
        old = self._checks.get(check.id)
        if old is not None:
            # A check that is registered again keeps what was seen of it.
            check = msgspec.structs.replace(check, status=old.check.status, output=old.check.output)
        now = self.clock.monotonic()
        since = now if check.status == CRITICAL else None
        self._checks[check.id] = _Local(check, probe, since, now)
        if probe.kind == "ttl":
            self.poller.forget(check.id)
        elif old is None or old.probe != probe:
            self.poller.stagger = self.knobs.stagger
            self.poller.watch(check.id, probe, check.status)

    def _drop_check(self, check_id: str) -> None:
        self._checks.pop(check_id, None)
        self.poller.forget(check_id)

    def _push(self, service_id: str) -> None:
        service = self._services.get(service_id)
        if service is None:
            return
        mine = tuple(one.check for one in self._checks.values() if one.check.service_id == service_id)
        self.catalog.put(service, mine)

    def _is_pushed(self, check: Check) -> bool:
        return not check.service_id or self.catalog.status(check.id) is not None

    def _later(self, action: Callable[[], None]) -> None:
        if self.knobs.registration_delay_s <= 0:
            action()
        else:
            self._due.append((self.clock.monotonic() + self.knobs.registration_delay_s, action))

    def _is_frozen(self, service_id: str) -> bool:
        return any(service_id.startswith(beginning) for beginning in self.knobs.frozen if service_id)

    def _sweep(self, now: float) -> None:
        """Remove instances that were critical for longer than they allow themselves."""
        for local in list(self._checks.values()):
            after_s, since = local.probe.reap_after_s, local.critical_since
            if after_s and since is not None and now - since >= after_s and local.check.service_id:
                self.deregister(local.check.service_id)
